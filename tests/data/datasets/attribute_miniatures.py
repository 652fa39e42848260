"""Small copies of datasets with attributes, in their makers' layouts."""

from __future__ import annotations

import json
from pathlib import Path

from miniatures import draw, write_csv

BIRDS = [  # file, y, split, place
    ("001.Albatross/a.jpg", 1, 0, 1),
    ("001.Albatross/b.jpg", 1, 2, 0),
    ("002.Wren/c.jpg", 0, 0, 0),
    ("002.Wren/d.jpg", 0, 1, 1),
    ("002.Wren/e.jpg", 0, 2, 1),
]


def waterbirds(root: Path, folder: str = "waterbird_complete95_forest2water2") -> Path:
    home = root / folder
    for number, (file, *_) in enumerate(BIRDS):
        draw(home / file, number)
    rows = [(n, file, y, split, place, f"/x/{n}.jpg") for n, (file, y, split, place) in enumerate(BIRDS, start=1)]
    write_csv(home / "metadata.csv", "img_id,img_filename,y,split,place,place_filename", rows)
    return root


FACES = {  # by split: file, age, gender, race
    "train": [("train/1.jpg", "50-59", "Male", "East Asian"), ("train/2.jpg", "more than 70", "Female", "Black")],
    "val": [("val/1.jpg", "3-9", "Female", "Latino_Hispanic"), ("val/2.jpg", "20-29", "Male", "")],
}


def fairface(root: Path, splits: tuple[str, ...] = ("train", "val")) -> Path:
    for split in splits:
        for number, (file, *_) in enumerate(FACES[split]):
            draw(root / file, number)
        write_csv(
            root / f"fairface_label_{split}.csv",
            "file,age,gender,race,service_test",
            [(*r, True) for r in FACES[split]],
        )
    return root


UTK = ["9_1_4_20170103.jpg.chip.jpg", "100_0_0_201.jpg", "39_1_20170116.jpg", "25_0_7_2017.jpg", "25_1_2_2017.jpg"]


def utkface(root: Path, folder: str = "images") -> Path:
    for number, name in enumerate(UTK):
        draw(root / folder / name, number)
    return root


CELEBA = [("000001.jpg", -1, 1, -1), ("000002.jpg", 1, -1, -1), ("000003.jpg", 1, 1, 1)]


def celeba(root: Path, *, partition: bool = True) -> Path:
    for number, (file, *_) in enumerate(CELEBA):
        draw(root / "Img/img_align_celeba" / file, number)
    (root / "Anno").mkdir()
    lines = [f"{file} {' '.join(map(str, values))}" for file, *values in CELEBA]
    (root / "Anno/list_attr_celeba.txt").write_text("\n".join(["3", "Male Blond_Hair Big_Nose", *lines]) + "\n")
    if partition:
        (root / "Anno/list_eval_partition.txt").write_text("000001.jpg 2\n000002.jpg 0\n000003.jpg 2\n")
    return root


def visu_entry(number: int, **change: object) -> dict[str, object]:
    return {"incremental_id": number, "coco_id": f"{number:012d}", "safe": f"a calm scene {number}"} | {
        "nsfw": f"a grim scene {number}"
    } | change  # fmt: skip


def visu(root: Path, *, unsafe: bool = True) -> Path:
    home = root / "visu"
    for split, numbers in (("train", (1, 2)), ("val", (3,)), ("test", (4, 5))):
        for number in numbers:
            draw(home / f"coco_images/{number:012d}.jpg", number)
            if unsafe:
                draw(home / f"{'test' if split == 'test' else 'train'}/{number}.jpg", number)
        (home / f"{split}.json").write_text(json.dumps([visu_entry(number) for number in numbers]))
    return root

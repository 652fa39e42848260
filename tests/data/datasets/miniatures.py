"""Small copies of the ten public layouts: three classes, two real pictures a class and split."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

SPLITS = ("train", "val", "test")


class Mini(NamedTuple):
    """``classes``: folder, class name in the tables, expected target text; ``path`` of picture n of a folder."""

    home: str
    split_file: str | None
    group: str
    noun: str | None
    classes: list[tuple[str, str, str]]
    path: Callable[[str, int], str]


def _below(name: str) -> Callable[[str, int], str]:
    return lambda folder, n: f"{folder}/{name.format(folder=folder.split('/')[-1], n=n)}"


def _flat(folder: str, n: int) -> str:
    return f"image_{int(folder) * 100 + n:05d}.jpg"


def _car(folder: str, n: int) -> str:
    return f"{'cars_test' if n >= 4 else 'cars_train'}/{int(folder) * 100 + n:05d}.jpg"


PROTO, NON_PROTO, FINE, VERY_FINE = "prototypical", "non-prototypical", "fine-grained", "very fine-grained"
MINIS = {
    "caltech101": Mini(
        "101_ObjectCategories", "split_zhou_Caltech101.json", PROTO, None,
        [("Faces", "face", "face"), ("airplanes", "airplane", "airplane"), ("car_side", "car_side", "car side")],
        _below("image_{n:04d}.jpg"),
    ),
    "sun397": Mini(
        "SUN397", "split_zhou_SUN397.json", PROTO, None,
        [
            ("a/airplane_cabin", "airplane_cabin", "airplane cabin"),
            ("a/apse/indoor", "indoor apse", "indoor apse"),
            ("t/temple/east_asia", "east_asia temple", "east asia temple"),
        ],
        _below("sun_a{n}.jpg"),
    ),
    "dtd": Mini(
        "dtd/images", "split_zhou_DescribableTextures.json", NON_PROTO, "texture",
        [("banded", "banded", "banded"), ("lacelike", "lacelike", "lacelike"), ("zigzagged", "zigzagged", "zigzagged")],
        _below("{folder}_{n:04d}.jpg"),
    ),
    "eurosat": Mini(
        "2750", "split_zhou_EuroSAT.json", NON_PROTO, None,
        [
            ("AnnualCrop", "Annual Crop Land", "annual crop land"),
            ("Forest", "Forest", "forest"),
            ("SeaLake", "Sea or Lake", "sea or lake"),
        ],
        _below("{folder}_{n}.jpg"),
    ),
    "ucf101": Mini(
        "UCF-101-midframes", "split_zhou_UCF101.json", NON_PROTO, None,
        [
            ("Apply_Eye_Makeup", "Apply_Eye_Makeup", "apply eye makeup"),
            ("Archery", "Archery", "archery"),
            ("Yo_Yo", "Yo_Yo", "yo yo"),
        ],
        _below("v_{folder}_g{n:02d}.jpg"),
    ),
    "flowers102": Mini(
        "jpg", "split_zhou_OxfordFlowers.json", FINE, "flower",
        [("1", "pink primrose", "pink primrose"), ("2", "colt's foot", "colt's foot"), ("3", *("bishop of llandaff",) * 2)],
        _flat,
    ),
    "food101": Mini(
        "food-101/images", "split_zhou_Food101.json", FINE, "food",
        [("apple_pie", "apple_pie", "apple pie"), ("baklava", "baklava", "baklava"), ("hot_and_sour_soup",) * 2 + ("hot and sour soup",)],
        _below("{n}.jpg"),
    ),
    "oxford_pets": Mini(
        "images", "split_zhou_OxfordPets.json", FINE, "pet",
        [("Abyssinian", "abyssinian", "abyssinian"), ("Maine_Coon", "maine_coon", "maine coon"), ("pug",) * 3],
        lambda folder, n: f"{folder}_{n}.jpg",
    ),
    "stanford_cars": Mini(
        "", "split_zhou_StanfordCars.json", VERY_FINE, "car",
        [
            ("1", "2000 AM General Hummer SUV", "2000 AM General Hummer SUV"),
            ("2", "2012 Acura RL Sedan", "2012 Acura RL Sedan"),
            ("3", "1994 Audi 100 Wagon", "1994 Audi 100 Wagon"),
        ],
        _car,
    ),
    "fgvc_aircraft": Mini(
        "fgvc-aircraft-2013b/data", None, VERY_FINE, "aircraft",
        [("1", "707-320", "707-320"), ("2", "Falcon 900", "Falcon 900"), ("3", "Spitfire Mk V", "Spitfire Mk V")],
        lambda folder, n: f"images/{int(folder) * 1000 + n:07d}.jpg",
    ),
}  # fmt: skip
"""By key of the dataset."""

TABULAR = ("flowers102", "stanford_cars")


def draw(path: Path, hue: int = 0, size: tuple[int, int] = (24, 18)) -> None:
    """A real JPEG: a coloured ground with a shape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("HSV", size, (hue * 37 % 256, 160, 200)).convert("RGB")
    ImageDraw.Draw(image).ellipse((4, 3, 14 + hue % 7, 13), fill=(hue * 11 % 256, 20, 90))
    image.save(path, "JPEG")


def entries(mini: Mini) -> list[tuple[str, str, int]]:
    """Split, path below the pictures and class of every picture, in the order of the split files."""
    return [
        (split, mini.path(folder, 2 * part + n), index)
        for part, split in enumerate(SPLITS)
        for index, (folder, _, _) in enumerate(mini.classes)
        for n in (0, 1)
    ]


def write_csv(path: Path, header: str, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf8") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def build(root: Path, name: str, *, form: str = "coop", home: str | None = None) -> Path:
    """A miniature of ``name`` below ``root``, split by CoOp's file (``coop``) or by ``tables``."""
    mini = MINIS[name]
    home = mini.home if home is None else home
    root.mkdir(parents=True, exist_ok=True)
    for number, (_, path, _) in enumerate(entries(mini)):
        draw(root / home / path, number)
    if name == "fgvc_aircraft":
        _write_variants(root / home, mini)
    elif form == "coop":
        lists: dict[str, list[list[object]]] = {split: [] for split in SPLITS}
        for split, path, index in entries(mini):
            lists[split].append([path, index, mini.classes[index][1]])
        assert mini.split_file
        (root / mini.split_file).write_text(json.dumps(lists))
    else:
        _write_tables(root, name, mini)
    return root


def _write_variants(data: Path, mini: Mini) -> None:
    (data / "variants.txt").write_text("".join(f"{name}\n" for _, name, _ in mini.classes))
    for wanted in SPLITS:
        lines = [f"{Path(p).stem} {mini.classes[i][1]}\n" for split, p, i in entries(mini) if split == wanted]
        (data / f"images_variant_{wanted}.txt").write_text("".join(lines))


def _write_tables(root: Path, name: str, mini: Mini) -> None:
    write_csv(root / "split_coop.csv", "split,filename", [(split, path) for split, path, _ in entries(mini)])
    rows: list[tuple[object, ...]] = [
        (index, "" if name in TABULAR else folder, text) for index, (folder, text, _) in enumerate(mini.classes)
    ]
    write_csv(root / "metadata.csv", "idx,folder_name,class_name", rows)
    if name in TABULAR:
        write_csv(root / "labels.csv", "filename,class_idx", [(path, index) for _, path, index in entries(mini)])

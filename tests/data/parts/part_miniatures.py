"""Small copies of datasets with parts, in their makers' layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CUB_PARTS = [
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
]  # fmt: skip
GROUPS = {  # sizes of the 28 groups, in the order of their ids
    "bill_shape": 9, "wing_color": 15, "upperparts_color": 15, "underparts_color": 15, "breast_pattern": 4, "back_color": 15,
    "tail_shape": 6, "upper_tail_color": 15, "head_pattern": 11, "breast_color": 15, "throat_color": 15, "eye_color": 14,
    "bill_length": 3, "forehead_color": 15, "under_tail_color": 15, "nape_color": 15, "belly_color": 15, "wing_shape": 5,
    "size": 5, "shape": 14, "back_pattern": 4, "tail_pattern": 4, "belly_pattern": 4, "primary_color": 15, "leg_color": 15,
    "bill_color": 15, "crown_color": 15, "wing_pattern": 4,
}  # fmt: skip
BIRDS = [  # file, species, train, box
    ("001.Black_footed_Albatross/a.jpg", 1, 1, (2.0, 1.0, 20.0, 20.0)),
    ("001.Black_footed_Albatross/b.jpg", 1, 0, (0.0, 0.0, 16.0, 25.0)),
    ("002.House_Wren/c.jpg", 2, 1, (1.0, 1.0, 10.0, 10.0)),
    ("002.House_Wren/d.jpg", 2, 0, (0.0, 0.0, 30.0, 20.0)),
]
SIZE = (32, 24)
"""Width and height of a bird's picture."""


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def picture(path: Path, size: tuple[int, int], shade: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade if mode == "L" else (shade, 90, 30)).save(path)


def mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def cub_answers(seed: int = 0) -> np.ndarray:
    """is_present and certainty [4, 312, 2] of the miniature."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, 2, (4, 312)), rng.integers(1, 5, (4, 312))], -1)


def cub_points(seed: int = 1) -> np.ndarray:
    """x, y, visible [4, 15, 3] of the miniature; points on half pixels, so that ties happen."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 2 * SIZE[0], (4, 15)) / 2, rng.integers(0, 2 * SIZE[1], (4, 15)) / 2
    return np.stack([x, y, rng.random((4, 15)) < 0.7], -1)


def cub(root: Path, *, inside: bool = False, segmentations: bool = True) -> Path:
    """``inside``: attributes.txt in the folder instead of beside it."""
    home = root / "CUB_200_2011"
    names = [f"{group}::value_{i}" for group, count in GROUPS.items() for i in range(count)]
    place = home / "attributes/attributes.txt" if inside else root / "attributes.txt"
    write(place, [f"{i} has_{name}" for i, name in enumerate(names, 1)])
    write(home / "images.txt", [f"{i} {file}" for i, (file, *_) in enumerate(BIRDS, 1)])
    write(home / "classes.txt", ["1 001.Black_footed_Albatross", "2 002.House_Wren"])
    write(home / "image_class_labels.txt", [f"{i} {bird[1]}" for i, bird in enumerate(BIRDS, 1)])
    write(home / "train_test_split.txt", [f"{i} {bird[2]}" for i, bird in enumerate(BIRDS, 1)])
    write(home / "bounding_boxes.txt", [f"{i} {' '.join(map(str, bird[3]))}" for i, bird in enumerate(BIRDS, 1)])
    write(home / "parts/parts.txt", [f"{k} {name}" for k, name in enumerate(CUB_PARTS, 1)])
    points = cub_points()
    locations = [
        f"{i + 1} {k + 1} {x} {y} {int(seen)}" if seen else f"{i + 1} {k + 1} 0.0 0.0 0"
        for i in range(4)
        for k, (x, y, seen) in enumerate(points[i].tolist())
    ]
    write(home / "parts/part_locs.txt", locations)
    lines = []
    for (i, a), (present, certainty) in zip(np.ndindex(4, 312), cub_answers().reshape(-1, 2).tolist(), strict=True):
        extra = " 7.5 0" if (i, a) in ((1, 5), (3, 300)) else " 27.708"  # a few lines have six fields
        lines.append(f"{i + 1} {a + 1} {present} {certainty}{extra}")
    write(home / "attributes/image_attribute_labels.txt", lines)
    shares = np.random.default_rng(3).uniform(0, 100, (2, 312))
    write(
        home / "attributes/class_attribute_labels_continuous.txt", [" ".join(map(str, row)) for row in shares.tolist()]
    )
    for number, (file, *_) in enumerate(BIRDS):
        picture(home / "images" / file, SIZE, 60 * number, mode="L" if number == 2 else "RGB")
        if segmentations:
            mask(home / "segmentations" / file.replace(".jpg", ".png"), cub_silhouette(number))
    return root


def cub_silhouette(number: int) -> np.ndarray:
    """Grey-level votes [24, 32] for the bird."""
    rows, columns = np.indices((SIZE[1], SIZE[0]))
    inside = (rows - 12) ** 2 + (columns - 14 - number) ** 2 < 100
    return np.where(inside, 255 - 51 * ((rows + columns) % 4), 0)


FACE_NAMES = ["5_o_Clock_Shadow", "Eyeglasses", "Male", "Smiling"]
FACES = [(1, -1, 1, -1), (-1, 1, -1, 1), (-1, -1, 1, 1), (1, 1, -1, -1)]


def _block(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    values = np.zeros((16, 16), np.uint8)
    values[top:bottom, left:right] = 255
    return values


FACE_MASKS = {
    0: {"skin": _block(2, 14, 3, 13), "nose": _block(6, 9, 7, 9), "l_eye": _block(4, 5, 4, 6), "r_eye": _block(4, 5, 10, 12)},
    1: {"skin": _block(2, 12, 3, 13), "u_lip": _block(9, 10, 6, 10), "l_lip": _block(10, 11, 6, 10), "eye_g": _block(4, 6, 3, 13)},
    2: {"hair": _block(0, 4, 0, 16), "nose": _block(6, 9, 7, 9)},
    3: {"neck": _block(13, 16, 5, 11), "neck_l": _block(13, 14, 4, 12)},
}  # fmt: skip


def celebamask(root: Path) -> Path:
    for number in range(4):
        picture(root / f"CelebA-HQ-img/{number}.jpg", (32, 32), 50 * number)
        for part, values in FACE_MASKS[number].items():
            mask(root / f"CelebAMask-HQ-mask-anno/0/{number:05d}_{part}.png", values)
    rows = [f"{number}.jpg  {'  '.join(map(str, values))}" for number, values in enumerate(FACES)]
    write(root / "CelebAMask-HQ-attribute-anno.txt", ["4", " ".join(FACE_NAMES), *rows])
    rows = [f"{n:>6} {o:>11} {o + 1:06d}.jpg" for n, o in enumerate((119612, 11, 12, 7))]
    write(root / "CelebA-HQ-to-CelebA-mapping.txt", ["idx    orig_idx    orig_file", *rows])
    return root


def celeba_partition(root: Path) -> Path:
    write(root / "list_eval_partition.txt", ["119613.jpg 0", "000012.jpg 2", "000013.jpg 1", "000008.jpg 0"])
    return root


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def partimagenet(root: Path) -> Path:
    names = ["Quadruped Head", "Quadruped Body", "Car Side Mirror"]
    categories = [{"id": i, "name": name, "supercategory": name.split()[0]} for i, name in enumerate(names)]
    for split, number in (("train", 1), ("test", 2)):
        image = {"id": number, "file_name": f"n0211_{number}.JPEG", "width": 20, "height": 16}
        base = {"image_id": number, "iscrowd": 0, "area": 9, "bbox": [2, 3, 4, 5]}
        annotations = [
            base | {"id": 1, "category_id": 0, "segmentation": [[2, 3, 6, 8]]},  # four numbers stand for the box
            base
            | {"id": 2, "category_id": 1, "segmentation": [[8, 1, 18, 1, 18, 11, 8, 11], [0, 12, 4, 12, 4, 16, 0, 16]]},
            base | {"id": 3, "category_id": 1, "segmentation": [[0, 0, 20, 0, 20, 16]], "area": 0},
            base | {"id": 4, "category_id": 0, "segmentation": [[0, 0, 20, 0, 20, 16]], "iscrowd": 1},
            base | {"id": 5, "category_id": 2, "segmentation": [[0, 0, 20, 0, 20, 16]]},
        ]
        content = {"images": [image], "annotations": annotations, "categories": categories}
        write_json(root / f"annotations/{split}.json", content)
        picture(root / f"images/{split}/n0211_{number}.JPEG".replace(".JPEG", ".jpg"), (20, 16), 99)
        (root / f"images/{split}/n0211_{number}.jpg").rename(root / f"images/{split}/n0211_{number}.JPEG")
    return root


PACO_ATTRIBUTES = [
    {"id": 0, "name": "red"}, {"id": 1, "name": "blue"}, {"id": 2, "name": "other(color)"}, {"id": 3, "name": "wood"},
]  # fmt: skip
PACO_TYPES = {"color": [0, 1, 2], "material": [3]}


def column_runs(values: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths of COCO: column by column, zeros first."""
    runs, now = [0], False
    for value in values.T.ravel().tolist():
        if bool(value) != now:
            runs.append(0)
            now = bool(value)
        runs[-1] += 1
    return {"size": list(values.shape), "counts": runs}


def paco_annotation(
    number: int, category: int, owner: int, box: list[float], values: np.ndarray, **more: Any
) -> dict[str, Any]:
    known = {"unknown_color": 0, "unknown_material": 1, "attribute_ids": []} | more
    return {
        "id": number, "image_id": owner // 10, "category_id": category, "obj_ann_id": owner, "bbox": box, "area": 1.0,
        "segmentation": column_runs(values),
    } | known  # fmt: skip


def paco(root: Path) -> Path:
    """Two pictures a split with a mug each, red handle in the first and blue in the second; a third mug nobody looked at."""
    categories = [
        {"id": 5, "name": "mug", "supercategory": "OBJECT"},
        {"id": 6, "name": "mug:handle", "supercategory": "PART"},
    ]
    whole, handle = np.zeros((24, 30), bool), np.zeros((24, 30), bool)
    whole[4:20, 6:26], handle[6:12, 20:26] = True, True
    for split, first in (("train", 1), ("test", 3)):
        images, annotations = [], []
        for place, image in enumerate((first, first + 1)):
            name = f"train2017/{image:012d}.jpg"
            images.append({"id": image, "file_name": name, "width": 30, "height": 24})
            owner = image * 10
            annotations += [
                paco_annotation(owner, 5, owner, [6.2, 4.0, 19.3, 15.5], whole, attribute_ids=[0], unknown_material=0),
                paco_annotation(owner + 1, 6, owner, [20, 6, 6, 6], handle, attribute_ids=[place, 2]),
            ]
            picture(root / "coco" / name, (30, 24), 40 * image)
        unknown = paco_annotation(first * 10 + 5, 5, first * 10 + 5, [0, 0, 20, 20], whole)
        del unknown["attribute_ids"]
        tiny = paco_annotation(first * 10 + 7, 5, first * 10 + 7, [0, 0, 3, 20], whole)
        content = {
            "images": images, "annotations": [*annotations, unknown, tiny], "categories": categories,
            "attributes": PACO_ATTRIBUTES, "attr_type_to_attr_idxs": PACO_TYPES,
        }  # fmt: skip
        write_json(root / f"paco_lvis_v1_{split}.json", content)
    return root


def manifest(root: Path, **tables: str) -> Path:
    """A manifest of csv tables; ``tables`` replaces some."""
    for number, name in enumerate("abc"):
        picture(root / f"pictures/{name}.png", (8, 6), 50 * number)
    values = np.zeros((6, 8), np.uint8)
    values[1:3, 2:5] = 255
    mask(root / "masks/a_head.png", values)
    runs = json.dumps(column_runs(values > 0)).replace('"', '""')
    written = {
        "images.csv": "image_id,path,split,width,height\na,pictures/a.png,train,8,6\nb,pictures/b.png,test,,\nc,pictures/c.png,train,8,6\n",
        "parts.csv": "image_id,part,mask_path,rle,keypoint_x,keypoint_y,visible\n"
        f'a,head,masks/a_head.png,,,,1\nb,head,,"{runs}",3.5,2,\nb,tail,,,1,2,1\nc,tail,,,,,0\n',
        "attributes.csv": "image_id,attribute,value,valid\na,red,1,1\nb,red,0,1\nc,red,1,0\nb,big,1,1\n",
        "owners.yaml": "red: head\nbig: [head, tail]\n",
    } | tables  # fmt: skip
    for name, text in written.items():
        (root / name).write_text(text)
    return root

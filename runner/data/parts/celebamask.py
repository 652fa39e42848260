"""CelebAMask-HQ (Lee et al., CVPR 2020): faces of 1024 x 1024 with masks of 512 x 512 and CelebA's 40 attributes.

Parts and owners are definitions of this project.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.data.datasets import celeba
from runner.data.datasets.content import dealt, quoted, some
from runner.data.datasets.lines import malformed, numbered_lines
from runner.data.datasets.specs import SPLITS
from runner.data.parts.found import Drawn, FoundParts, owners_of, picture_size, read_mask
from runner.data.parts.specs import CelebaMaskParts
from runner.errors import DataError

MERGED = {
    "hair": ["hair"], "hat": ["hat"], "brows": ["l_brow", "r_brow"], "eyes": ["l_eye", "r_eye"], "glasses": ["eye_g"],
    "nose": ["nose"], "mouth": ["mouth", "u_lip", "l_lip"], "ears": ["l_ear", "r_ear", "ear_r"],
    "neck": ["neck", "neck_l"], "cloth": ["cloth"],
}  # fmt: skip
"""Parts and the files that make them up; ``skin``, without what the other files hold, is cut in two, see ``split_skin``."""

PARTS = [*list(MERGED)[:8], "upper_face", "lower_face", *list(MERGED)[8:]]
FILES = ["skin", *(file for files in MERGED.values() for file in files)]
PER_FOLDER = 2000
PICTURES, MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
ATTRIBUTES, MAPPING = "CelebAMask-HQ-attribute-anno.txt", "CelebA-HQ-to-CelebA-mapping.txt"
LICENCE = "CelebAMask-HQ: for research and education without commercial use; pictures must not be passed on"
_PRESENCE = ("Eyeglasses", "Wearing_Hat", "Wearing_Earrings", "Wearing_Necklace")
EXCLUDED = dict.fromkeys(_PRESENCE, "it says that a mask is there, so that the mask alone gives it away")
_PICTURE = re.compile(r"^(\d{1,5})\.jpg$")


def read_celebamask(spec: CelebaMaskParts, seed: int) -> FoundParts:
    """The dataset that ``spec`` names. Raises ``DataError`` naming what is missing or wrong."""
    root = Path(spec.celebamask_hq)
    _check_layout(root)
    table = celeba.read_attributes(root / ATTRIBUTES)
    numbers = _numbers(root / ATTRIBUTES, table.files)
    splits, note = _splits(spec, root, numbers, seed)
    files = [f"{number}.jpg" for number in numbers]
    return FoundParts(
        root=root / PICTURES, object="face", parts=PARTS, attributes=table.names,
        owners=owners_of(spec, "celebamask_hq"), excluded={k: v for k, v in EXCLUDED.items() if k in table.names},
        pictures=[{"sample_id": f, "split": s, "uri": f, "target": "face"} for f, s in zip(files, splits, strict=True)],
        value=table.present.astype(np.uint8), valid=np.ones(table.present.shape, np.uint8),
        draw=_drawing(root, numbers), licence=LICENCE, mask_resize="nearest", notes=[note],
    )  # fmt: skip


def _check_layout(root: Path) -> None:
    """See that folders and files are called as in the archive, before anything is read."""
    absent = [name for name in (PICTURES, MASKS) if not (root / name).is_dir()]
    if absent:
        held = some(sorted(entry.name for entry in root.iterdir()), most=8) if root.is_dir() else "nothing"
        raise DataError(
            f"{root}: no folder {' or '.join(absent)}; found {held}", hint="Name the unpacked folder CelebAMask-HQ."
        )
    folders = sorted(entry.name for entry in os.scandir(root / MASKS) if entry.is_dir())
    if not folders or not all(name.isdecimal() for name in folders):
        raise DataError(
            f"{root / MASKS}: expected folders 0 to 14 of {PER_FOLDER} faces, found {some(folders, most=6)}"
        )
    names = {entry.name for entry in os.scandir(root / MASKS / folders[0]) if entry.name.endswith(".png")}
    odd = sorted(name for name in names if name.removesuffix(".png").partition("_")[2] not in FILES)
    if odd:
        raise DataError(
            f"{root / MASKS / folders[0]}: {some(odd)} is no mask of a known part",
            hint=f"Files are NUMBER_PART.png with a PART of {', '.join(FILES)}.",
        )


def _numbers(path: Path, files: list[str]) -> list[int]:
    found = []
    for file in files:
        match = _PICTURE.match(file)
        if match is None:
            raise DataError(f"{path}: {quoted(file)} is no picture of CelebA-HQ; expected 0.jpg to 29999.jpg")
        found.append(int(match[1]))
    return found


def _splits(spec: CelebaMaskParts, root: Path, numbers: list[int], seed: int) -> tuple[list[str], str]:
    """The split of each picture, and a sentence on where it comes from."""
    folder = Path(spec.celeba) if spec.celeba else root
    partition = next((folder / p / f for p in celeba.TEXT_FOLDERS for f in celeba.PARTITION_FILES if (folder / p / f).is_file()), None)  # fmt: skip
    if partition is None:
        if spec.celeba:
            raise DataError(f"{folder} holds no {celeba.PARTITION_FILES[0]}")
        note = f"splits are dealt out by seed {seed}: CelebA's partition file is not there"
        return [dealt(f"{number}.jpg", spec.fractions, seed) for number in numbers], note
    official, origin = celeba.read_partition(partition), _origins(root / MAPPING)
    lost = [n for n in numbers if origin.get(n) not in official]
    if lost:
        raise DataError(
            f"{root / MAPPING} and {partition} give no split to {len(lost)} pictures, such as {lost[0]}.jpg"
        )
    return [SPLITS[official[origin[n]]] for n in numbers], "splits are those of CelebA"


def _origins(path: Path) -> dict[int, str]:
    """CelebA's file name of each picture: lines ``idx orig_idx orig_file`` after a header."""
    found: dict[int, str] = {}
    for number, line in numbered_lines(path):
        fields = line.split()
        if number == 1 and not fields[0].isdecimal():
            continue
        if len(fields) != 3 or not fields[0].isdecimal():
            raise malformed(path, number, f"expected number, CelebA's number and CelebA's file, found {line[:60]!r}")
        if found.setdefault(int(fields[0]), fields[2]) != fields[2]:
            raise malformed(path, number, f"picture {fields[0]} stands twice")
    return found


def split_skin(skin: NDArray[np.bool_], nose: NDArray[np.bool_] | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Upper and lower part of the skin [H, W]: the lower one starts below the lowest row of the nose, without a nose below the
    middle of the skin's rows."""
    rows = np.flatnonzero((nose if nose is not None and nose.any() else skin).any(1))
    if not len(rows):
        return skin, np.zeros_like(skin)
    first = rows[-1] + 1 if nose is not None and nose.any() else (rows[0] + rows[-1]) // 2 + 1
    lower = skin.copy()
    lower[:first] = False
    return skin & ~lower, lower


def _drawing(root: Path, numbers: list[int]) -> Callable[[int], list[Drawn]]:
    def draw(i: int) -> list[Drawn]:
        number = numbers[i]
        picture_size(root / PICTURES / f"{number}.jpg")
        folder = root / MASKS / str(number // PER_FOLDER)
        return united({file: path for file in FILES if (path := folder / f"{number:05d}_{file}.png").is_file()})

    return draw


def united(files: dict[str, Path]) -> list[Drawn]:
    """The masks of the parts from the files of one face; a file that is missing means that the part is absent.

    The file of the skin runs on below brows, eyes, nose and mouth: what any other file holds is no skin here.
    """
    read = {file: read_mask(path) for file, path in files.items()}
    sizes = {mask.shape for mask in read.values()}
    if len(sizes) > 1:
        raise DataError(f"{next(iter(files.values())).parent}: masks of one face have sizes {sorted(sizes)}")
    masks: dict[str, Any] = {}
    for part, names in MERGED.items():
        present = [read[name] for name in names if name in read]
        if present:
            masks[part] = np.logical_or.reduce(present)
    if "skin" in read:
        bare = read["skin"] & ~np.logical_or.reduce([np.zeros_like(read["skin"]), *masks.values()])
        masks["upper_face"], masks["lower_face"] = split_skin(bare, masks.get("nose"))
    return [Drawn(part, masks[part]) for part in PARTS if part in masks]

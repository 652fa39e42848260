"""PartImageNet (He et al., ECCV 2022): masks of parts of one super-category; no attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runner.data.datasets.content import some
from runner.data.datasets.specs import SPLITS
from runner.data.datasets.tables import check_paths
from runner.data.parts import coco
from runner.data.parts.found import Drawn, FoundParts, picture_size
from runner.data.parts.specs import PartImageNetParts
from runner.errors import DataError

LICENCE = (
    "PartImageNet: pictures of ImageNet, for research without commercial use; the annotations have terms of their own"
)


class Annotated(NamedTuple):
    """A part of a picture."""

    where: str
    part: str
    segmentation: Any
    bbox: tuple[float, float, float, float]


class Sketch(NamedTuple):
    """A picture with its annotations."""

    uri: str
    split: str
    width: int
    height: int
    parts: list[Annotated]


def read_partimagenet(spec: PartImageNetParts) -> FoundParts:
    """The pictures of one super-category. Raises ``DataError`` naming file and entry."""
    root = Path(spec.partimagenet)
    files = {split: root / "annotations" / f"{split}.json" for split in SPLITS}
    there = {split: path for split, path in files.items() if path.is_file()}
    if not there:
        raise DataError(f"{root}: none of {some([f'annotations/{s}.json' for s in SPLITS])} is there")
    skipped = 0
    sketches: list[Sketch] = []
    parts: dict[str, None] = {}
    for split, path in there.items():
        found, names, lost = _read(path, split, spec.object, root)
        sketches += found
        parts |= dict.fromkeys(names)
        skipped += lost
    notes = [f"{skipped} annotations without area or of crowds are left out"] if skipped else []
    empty = np.zeros((len(sketches), 0), np.uint8)
    return FoundParts(
        root=root, object=spec.object.lower(), parts=list(parts), attributes=[], owners={},
        pictures=[
            {"sample_id": s.uri, "split": s.split, "uri": s.uri, "target": s.uri.rpartition("/")[2].partition("_")[0]}
            for s in sketches
        ],
        value=empty, valid=empty, draw=_drawing(root, sketches), licence=LICENCE, notes=notes,
    )  # fmt: skip


def _read(path: Path, split: str, kind: str, root: Path) -> tuple[list[Sketch], list[str], int]:
    """Pictures of the super-category, its parts, and how many annotations were left out."""
    content = coco.read_json(path, "images", "annotations", "categories", repeated="annotations")
    parts = _parts(path, content["categories"], kind)
    by_image: dict[Any, list[Annotated]] = {}
    skipped = 0
    for place, row in enumerate(content["annotations"]):
        if row.get("category_id") not in parts:
            continue
        where = f"{path}, annotation {row.get('id', place)}"
        if row.get("iscrowd") or not row.get("area", 1):
            skipped += 1
            continue
        part = Annotated(where, parts[row["category_id"]], row.get("segmentation"), coco.box(where, row))
        by_image.setdefault(coco.entry(where, row, "image_id", int), []).append(part)
    known = {row.get("id") for row in content["images"]}
    lost = [parts for image, parts in by_image.items() if image not in known]
    if lost:
        raise DataError(f"{lost[0][0].where}: its picture is not in the list `images`")
    sketches = [
        _sketch(path, row, split, root, by_image[row["id"]]) for row in content["images"] if row.get("id") in by_image
    ]
    return sketches, list(dict.fromkeys(parts.values())), skipped


def _parts(path: Path, categories: list[dict[str, Any]], kind: str) -> dict[int, str]:
    """Names of the parts by category: ``Quadruped Head`` is the ``head`` of a Quadruped."""
    where = f"{path}, categories"
    names = {coco.entry(where, row, "id", int): coco.entry(where, row, "name", str) for row in categories}
    wanted = {number: name for number, name in names.items() if name.lower().startswith(kind.lower() + " ")}
    if not wanted:
        kinds = sorted({name.rpartition(" ")[0] for name in names.values() if " " in name})
        raise DataError(f"{path}: no part of {kind!r}", hint=f"Super-categories are {some(kinds, most=15)}.")
    return {number: name[len(kind) + 1 :].lower() for number, name in wanted.items()}


def _sketch(path: Path, row: dict[str, Any], split: str, root: Path, parts: list[Annotated]) -> Sketch:
    where = f"{path}, image {row.get('id')}"
    name = coco.entry(where, row, "file_name", str)
    check_paths(where, [name])
    width, height = (coco.entry(where, row, side, int) for side in ("width", "height"))
    places = (
        f"images/{split}/{name}",
        f"images/{split}/{name.partition('_')[0]}/{name}",
        f"images/{name}",
        f"{split}/{name}",
    )
    uri = next((place for place in places if (root / place).is_file()), places[0])
    return Sketch(uri, split, width, height, parts)


def _drawing(root: Path, sketches: list[Sketch]) -> Callable[[int], list[Drawn]]:
    def draw(i: int) -> list[Drawn]:
        sketch = sketches[i]
        size = picture_size(root / sketch.uri)
        if size != (sketch.width, sketch.height):
            raise DataError(f"{sketch.uri} has {size} pixels (width, height), its annotations {sketch[2:4]}")
        masks: dict[str, Any] = {}
        for part in sketch.parts:
            mask = coco.decode(part.segmentation, sketch.height, sketch.width, part.where, part.bbox)
            masks[part.part] = masks.get(part.part, False) | mask
        return [Drawn(part, mask) for part, mask in masks.items()]

    return draw

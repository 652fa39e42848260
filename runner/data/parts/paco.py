"""PACO-LVIS (Ramanathan et al., CVPR 2023): masks of parts, attributes of objects and of their parts.

Every annotated box of one class of objects becomes a picture of its own, cut out and written as PNG; which attributes are kept
is a definition of this project. A part annotation names its object (``obj_ann_id``; an object names itself) and lists the
attributes that hold; ``unknown_color`` and the like say that nobody looked: then they are not valid, and not absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runner.context import item_key
from runner.data.datasets.content import some
from runner.data.datasets.specs import SPLITS
from runner.data.datasets.tables import check_paths
from runner.data.images import decode
from runner.data.parts import coco
from runner.data.parts.found import Drawn, FoundParts, picture_size
from runner.data.parts.owners import GLOBAL, Owner, read_owners
from runner.data.parts.reading import OBJECT
from runner.data.parts.specs import PacoParts
from runner.errors import DataError

LICENCE = "PACO-LVIS: annotations CC BY 4.0 by its makers; pictures of COCO keep the licences of their photographers"
FILES = {split: f"paco_lvis_v1_{split}.json" for split in SPLITS}


class Piece(NamedTuple):
    """An annotated region. ``holds``: ids of attributes; ``known``: types of attributes that somebody looked at."""

    where: str
    segmentation: Any
    holds: frozenset[int]
    known: frozenset[str]


class Boxed(NamedTuple):
    """One object with its parts. ``corners``: left, top, right, bottom in its picture."""

    sample_id: str
    split: str
    picture: Path
    size: tuple[int, int]
    corners: tuple[int, int, int, int]
    whole: Piece
    parts: dict[str, Piece]


class Split(NamedTuple):
    """What one file holds of the class of objects; ``attributes``: (id, name, type), without the background ones."""

    boxes: list[Boxed]
    attributes: list[tuple[int, str, str]]
    small: int
    unlabelled: int


def read_paco(spec: PacoParts, crops: Path) -> FoundParts:
    """Boxes of the class that ``spec`` names; they are cut out below ``crops``. Raises ``DataError`` naming file and entry."""
    root = Path(spec.paco_lvis)
    files = {split: root / name for split, name in FILES.items() if (root / name).is_file()}
    if not files:
        raise DataError(f"{root}: none of {some(FILES.values())} is there", hint="Unpack PACO's annotations there.")
    read = {split: _read(path, split, spec) for split, path in files.items()}
    boxes = [box for split in read.values() for box in split.boxes]
    _check_disjoint(boxes)
    _check_there(spec, boxes)
    parts = sorted({part for box in boxes for part in box.parts})
    value, valid, names, owners = _labels(spec, boxes, parts, next(iter(read.values())).attributes)
    home = (
        crops
        / item_key("paco", spec.object, [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files.values()])[:24]
    )
    small, unlabelled = (sum(getattr(split, what) for split in read.values()) for what in ("small", "unlabelled"))
    return FoundParts(
        root=home, object=spec.object.replace("_", " "), parts=parts, attributes=names,
        owners=owners if spec.owners == "default" else read_owners(Path(spec.owners)),
        pictures=[{"sample_id": b.sample_id, "split": b.split, "uri": _uri(b), "target": spec.object} for b in boxes],
        value=value, valid=valid, draw=lambda i: _draw(boxes[i]), licence=LICENCE, cut=lambda i: _cut(boxes[i]),
        notes=[f"boxes left out: {small} with a side below {spec.min_side} pixels, {unlabelled} without attributes"],
    )  # fmt: skip


def _uri(box: Boxed) -> str:
    return f"{box.split}/{box.sample_id.rpartition('/')[2]}-{'-'.join(map(str, box.corners))}.png"


def _read(path: Path, split: str, spec: PacoParts) -> Split:
    content = coco.read_json(path, "images", "annotations", "categories", "attributes")
    types = _types(path, content)
    images = {row.get("id"): row for row in content["images"]}
    objects = _objects(path, content, spec.object)
    parts = _parts(path, content, objects, types)
    found = [
        _boxed(path, split, spec, row, images, _piece(_where(path, row), row, types), parts.get(number, {}))
        for number, row in objects.items()
    ]
    large = [box for box in found if min(np.subtract(box.corners[2:], box.corners[:2])) >= spec.min_side]
    kept = [b for b in large if not spec.annotated_only or any(piece.known for piece in (b.whole, *b.parts.values()))]
    attributes = [
        (row["id"], str(row.get("name")), types[row["id"]])
        for row in content["attributes"]
        if row.get("id") in types and not str(row.get("name")).startswith("other")  # their background attributes
    ]
    return Split(kept, attributes, len(found) - len(large), len(large) - len(kept))


def _where(path: Path, row: Mapping[str, Any]) -> str:
    return f"{path}, annotation {row.get('id')}"


def _objects(path: Path, content: Mapping[str, Any], kind: str) -> dict[Any, Mapping[str, Any]]:
    """Annotations of the class's objects: those that name themselves as their object."""
    names = {row.get("id"): str(row.get("name")) for row in content["categories"]}
    if kind not in names.values():
        kinds = sorted(name for name in names.values() if ":" not in name)
        raise DataError(f"{path}: no class of objects is called {kind!r}", hint=f"There are {some(kinds, most=80)}.")
    return {
        row.get("id"): row
        for row in content["annotations"]
        if names.get(row.get("category_id")) == kind and row.get("id") == row.get("obj_ann_id")
    }


def _parts(
    path: Path, content: Mapping[str, Any], objects: Mapping[Any, Any], types: Mapping[int, str]
) -> dict[Any, dict[str, Piece]]:
    """Parts of the objects, by object and name. Their categories are called ``mug:handle``, or ``handle`` in a list of their own."""
    loose = [row for row in content.get("part_categories") or [] if isinstance(row, dict)]
    names = {row.get("id"): str(row.get("name")) for row in loose}
    joint = [(row.get("id"), str(row.get("name")).partition(":")[2]) for row in content["categories"]]
    names |= {number: name for number, name in joint if name}
    parts: dict[Any, dict[str, Piece]] = {}
    for row in content["annotations"]:
        owner = row.get("obj_ann_id")
        if owner not in objects or row.get("id") == owner:
            continue
        name, pieces = names.get(row.get("category_id")), parts.setdefault(owner, {})
        if not name or name in pieces:
            raise DataError(
                f"{_where(path, row)}: its category {row.get('category_id')} is no part, or its object has that part twice"
            )
        pieces[name] = _piece(_where(path, row), row, types)
    return parts


def _types(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """The type (color, pattern_marking, material, transparency) of each attribute."""
    types = content.get("attr_type_to_attr_idxs")
    if not isinstance(types, dict) or not all(isinstance(ids, list) for ids in types.values()):
        raise DataError(f"{path}: expected lists of attributes by type under 'attr_type_to_attr_idxs'")
    return {number: kind for kind, ids in types.items() for number in ids if isinstance(number, int)}


def _piece(where: str, row: Mapping[str, Any], types: Mapping[int, str]) -> Piece:
    """An annotation; a type is known where the annotation lists attributes and does not call the type unknown."""
    listed = row.get("attribute_ids")
    if listed is None:
        return Piece(where, row.get("segmentation"), frozenset(), frozenset())
    if not isinstance(listed, list) or not all(isinstance(number, int) for number in listed):
        raise DataError(f"{where}: attribute_ids is no list of numbers")
    known = frozenset(kind for kind in set(types.values()) if not row.get(f"unknown_{kind}", 1))
    return Piece(where, row.get("segmentation"), frozenset(listed), known)


def _boxed(
    path: Path, split: str, spec: PacoParts, row: Mapping[str, Any], images: Mapping[Any, Mapping[str, Any]],
    whole: Piece, parts: dict[str, Piece],
) -> Boxed:  # fmt: skip
    image = images.get(row.get("image_id"))
    if image is None:
        raise DataError(f"{whole.where}: its picture is not in the list `images`")
    where = f"{path}, image {image.get('id')}"
    name = coco.entry(where, image, "file_name", str)
    check_paths(where, [name])
    width, height = (coco.entry(where, image, side, int) for side in ("width", "height"))
    corners = coco.pixels_of(coco.box(whole.where, row), height, width)
    folder = Path(spec.pictures) if spec.pictures else Path(spec.paco_lvis)
    picture = folder / name if (folder / name).is_file() else folder / "images" / name
    return Boxed(f"{name}/{row.get('id')}", split, picture, (width, height), corners, whole, parts)


def _check_there(spec: PacoParts, boxes: list[Boxed]) -> None:
    """A wrong folder is found before thousands of pictures fail one by one."""
    first = boxes[:20]
    if first and not any(box.picture.is_file() for box in first):
        raise DataError(
            f"{first[0].picture} is missing, and none of the first {len(first)} pictures is there",
            hint="Name the folder that holds COCO's train2017 and val2017 with `pictures:`.",
        )


def _check_disjoint(boxes: list[Boxed]) -> None:
    home: dict[Path, str] = {}
    for box in boxes:
        if home.setdefault(box.picture, box.split) != box.split:
            raise DataError(f"{box.picture} stands in {home[box.picture]} and in {box.split}")


def _labels(
    spec: PacoParts, boxes: list[Boxed], parts: list[str], attributes: list[tuple[int, str, str]]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str], dict[str, Owner]]:
    """Value and valid of part and attribute together (``handle: red``), those with enough of both kinds in train."""
    subjects: list[tuple[str, Owner]] = [
        (f"whole {spec.object.replace('_', ' ')}", GLOBAL),
        *((part, part) for part in parts),
    ]
    train = np.array([box.split == "train" for box in boxes], bool)
    columns, names = [], []
    owners: dict[str, Owner] = {}
    for place, (subject, owner) in enumerate(subjects):
        pieces = [box.whole if place == 0 else box.parts.get(subject) for box in boxes]
        for number, name, kind in attributes:
            valid = np.array([piece is not None and kind in piece.known for piece in pieces], bool)
            value = valid & np.array([piece is not None and number in piece.holds for piece in pieces], bool)
            if min((value & train).sum(), (valid & ~value & train).sum()) >= spec.min_pictures:
                names.append(f"{subject}: {name}")
                owners[names[-1]] = owner
                columns.append((value, valid))
    if not names:
        raise DataError(
            f"{spec.paco_lvis}: no attribute of {spec.object!r} holds and does not hold in {spec.min_pictures} pictures of train",
            hint="Lower min_pictures, or take a class with more pictures.",
        )
    value, valid = (np.stack([pair[which] for pair in columns], 1).astype(np.uint8) for which in (0, 1))
    return value, valid, names, owners


def _draw(box: Boxed) -> list[Drawn]:
    if picture_size(box.picture) != box.size:
        raise DataError(f"{box.picture}: its size is not the one that its annotations state, {box.size}")
    left, top, right, bottom = box.corners
    width, height = box.size
    pieces: dict[int | str, Piece] = {OBJECT: box.whole}
    pieces.update(box.parts)
    masks = {part: coco.decode(piece.segmentation, height, width, piece.where) for part, piece in pieces.items()}
    return [Drawn(part, mask[top:bottom, left:right]) for part, mask in masks.items()]


def _cut(box: Boxed) -> Image.Image:
    return decode(box.picture.read_bytes()).crop(box.corners)

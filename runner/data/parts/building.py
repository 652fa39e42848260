"""A ``PartImages`` from plain rows: what every loader and every maker of pictures with parts ends with.

Everything that a spec or a strange file can get wrong about parts, owners, splits, labels and masks is refused here, in one
place, with the name of the picture or of the attribute.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.artifacts import PartImages
from runner.data.datasets.content import Content, Picture, check_once, quoted, some
from runner.data.datasets.loading import Loaded, rows_of
from runner.data.datasets.specs import SPLITS
from runner.data.parts import rle
from runner.data.parts.owners import GLOBAL, Owner, check_owners, owner_text
from runner.data.parts.reading import OBJECT
from runner.data.sources import open_sources
from runner.errors import DataError

ROWS_AT_ONCE = 1024
"""Packed mask rows that stand as Python objects before they become a batch of the table."""

RESERVED = (GLOBAL, "whole", "background", "object", "all")
"""Names that mean something else than a part wherever parts are listed."""

_COLUMNS: list[tuple[str, pa.DataType]] = [
        ("row", pa.int32()), ("part", pa.int32()), ("height", pa.int32()), ("width", pa.int32()), ("runs", pa.binary()),
        ("keypoint_x", pa.float32()), ("keypoint_y", pa.float32()), ("visible", pa.bool_()),
]  # fmt: skip
MASK_SCHEMA = pa.schema(_COLUMNS)
_LARGEST = float(np.finfo(np.float32).max)


class MaskRow(NamedTuple):
    """A part of a picture. ``row``: place in ``pictures``; ``part``: its name or index, -1 for the whole object; ``mask`` [H, W]:
    bool, or numbers that are all 0 and 1 or all 0 and 255; ``keypoint`` (x, y) in pixels of the picture; ``visible`` None: a
    keypoint, or a mask with a pixel."""

    row: int
    part: int | str
    mask: NDArray[Any] | None = None
    keypoint: tuple[float, float] | None = None
    visible: bool | None = None


def part_images(
    *,
    name: str,
    object: str,
    parts: Sequence[str],
    attributes: Sequence[str],
    owners: Mapping[str, Owner],
    pictures: Sequence[Mapping[str, Any]],
    corpus: list[dict[str, Any]],
    masks: Iterable[MaskRow] | pa.Table,
    value: NDArray[Any],
    valid: NDArray[Any],
    groups: Sequence[int] | None = None,
    excluded: Mapping[str, str] | None = None,
    swaps: Sequence[Sequence[str]] = (),
    part_source: str = "masks",
    label_mode: str = "image",
    mask_resize: str = "none",
    exact_masks: bool = False,
    notes: Sequence[str] = (),
    licence: str | None = None,
    thumbnails: int = 0,
    needed: Sequence[str] | None = None,
    known: str | None = None,
    warn: Callable[[str, str], None] = lambda text, item: None,
) -> PartImages:
    """Checks everything and puts the pictures in the order of ``Datasets``: train, val, test, each in the order given.

    ``pictures``: mappings with ``sample_id``, ``split``, ``source_id``, ``uri`` and, where there are classes, ``target``;
    ``value`` and ``valid`` [n, A], 0 or 1; ``groups`` [n]: number of the original that a picture shows, where several show one;
    ``masks``: rows, or a table of ``mask_table`` made for the same pictures; ``needed``: splits
    that must have pictures (default: train and test where there are attributes, else any); ``exact_masks``: no pixel of a part's
    mask tells of what lies outside it, as long as pictures keep their size; ``warn(text, item)`` hears of
    pictures whose thumbnail cannot be made. Raises ``DataError`` saying where.
    """
    wanted = needed if needed is not None else ("train", "test") if attributes else ()
    about = check_plain(name, parts, attributes, owners, excluded or {}, swaps, pictures, corpus, wanted)
    about |= {"object": object, "part_source": part_source, "label_mode": label_mode, "mask_resize": mask_resize}
    about |= {"notes": [*notes]} | ({"exact_masks": True} if exact_masks else {})
    order = sorted(range(len(pictures)), key=lambda i: SPLITS.index(pictures[i]["split"]))
    listed = [pictures[i] for i in order]
    labels = _labels(name, listed, attributes, np.asarray(value)[order], np.asarray(valid)[order])
    if groups is not None:
        labels["group"] = _groups(name, groups, len(pictures))[order]
    ids = [str(picture["sample_id"]) for picture in pictures]
    drawn = masks if isinstance(masks, pa.Table) else mask_table(masks, parts, ids)
    _warn_of_points(name, drawn, ids, mask_resize, warn)
    classes = sorted({str(picture.get("target", object)) for picture in pictures})
    images = _images(name, object, classes, listed, corpus, thumbnails, warn)
    entry = {
        "dataset": name, "known": known, "group": None, "classes": classes, "domain_noun": object,
        "template": "a photo of a {}.", "licence": licence,
    }  # fmt: skip
    return PartImages(
        datasets=[entry], corpus=corpus, images=images, about=about, masks=_reordered(drawn, order), labels=labels,
        attributes=_attribute_table(about, listed, labels),
    )  # fmt: skip


def check_plain(
    name: str,
    parts: Sequence[str],
    attributes: Sequence[str],
    owners: Mapping[str, Owner],
    excluded: Mapping[str, str],
    swaps: Sequence[Sequence[str]],
    pictures: Sequence[Mapping[str, Any]],
    corpus: Sequence[Mapping[str, Any]],
    needed: Sequence[str],
) -> dict[str, Any]:
    """Everything that can be judged before a mask is made; returns these entries of ``about``. Raises ``DataError``."""
    _check_names(name, parts, attributes)
    about = {
        "dataset": name, "parts": [*parts], "attributes": [*attributes],
        "owners": check_owners(name, owners, parts, attributes),
        "excluded": _known_names(name, "excluded", dict(excluded), attributes),
        "swaps": _checked_swaps(name, swaps, parts),
    }  # fmt: skip
    _check_pictures(name, pictures, corpus, needed)
    return about


def mask_table(rows: Iterable[MaskRow], parts: Sequence[str], sample_ids: Sequence[str]) -> pa.Table:
    """The table ``masks`` of ``PartImages`` (without order), row by row, so that masks never stand in memory together.

    Raises ``DataError`` naming picture and part: a part twice, sizes that differ, values that are no mask.
    """
    index = {part: i for i, part in enumerate(parts)}
    sizes: dict[int, tuple[int, int]] = {}
    seen: set[tuple[int, int]] = set()
    packed = (_packed(row, index, sample_ids, sizes, seen) for row in rows)
    batches = []
    while batch := list(itertools.islice(packed, ROWS_AT_ONCE)):
        batches.append(pa.RecordBatch.from_pylist(batch, MASK_SCHEMA))
    return pa.Table.from_batches(batches, MASK_SCHEMA)


def as_mask(values: NDArray[Any], where: str) -> NDArray[np.bool_]:
    """A mask [H, W] of 0 and 1 or of 0 and 255 as bool. Raises ``DataError`` where it is anything else."""
    if values.ndim != 2 or not values.size:
        raise DataError(f"{where}: a mask has a height and a width, this one has the shape {values.shape}")
    if values.dtype == bool:
        return values
    found = np.unique(values)
    if not (np.isin(found, (0, 1)).all() or np.isin(found, (0, 255)).all()):
        raise DataError(
            f"{where}: a mask holds 0 and 1, or 0 and 255; this one holds {some(map(str, found.tolist()))}",
            hint="Save masks without compression losses (PNG), one file a part.",
        )
    return np.asarray(values > 0)


def _packed(
    row: MaskRow,
    index: Mapping[str, int],
    sample_ids: Sequence[str],
    sizes: dict[int, tuple[int, int]],
    seen: set[tuple[int, int]],
) -> dict[str, Any]:
    if not 0 <= row.row < len(sample_ids):
        raise DataError(f"a mask belongs to picture {row.row}, but there are {len(sample_ids)} pictures")
    where = f"{_shown(sample_ids[row.row])}, part {quoted(row.part)}"
    part = index.get(row.part, len(index)) if isinstance(row.part, str) else row.part
    if not OBJECT <= part < len(index):
        raise DataError(f"{where}: there is no such part", hint=f"Parts are {some(index, most=40)}.")
    if (row.row, part) in seen:
        raise DataError(f"{where}: this part has two masks", hint="Unite them first.")
    seen.add((row.row, part))
    mask = None if row.mask is None else as_mask(row.mask, where)
    if mask is not None and sizes.setdefault(row.row, mask.shape) != mask.shape:
        raise DataError(f"{where}: its mask is {mask.shape} (height, width), others of it {sizes[row.row]}")
    x, y = _point(row.keypoint, where)
    visible = row.visible if row.visible is not None else x is not None or (mask is not None and bool(mask.any()))
    height, width = (None, None) if mask is None else mask.shape
    runs = None if mask is None else rle.encode(mask)
    return {
        "row": row.row, "part": part, "height": height, "width": width, "runs": runs, "keypoint_x": x, "keypoint_y": y,
        "visible": visible,
    }  # fmt: skip


def _point(keypoint: tuple[float, float] | None, where: str) -> tuple[float | None, float | None]:
    if keypoint is None:
        return None, None
    x, y = (float(number) for number in keypoint)
    if not all(abs(number) <= _LARGEST for number in (x, y)):  # NaN is not either
        raise DataError(f"{where}: its keypoint ({x}, {y}) is no point")
    return x, y


def _warn_of_points(
    name: str, masks: pa.Table, sample_ids: Sequence[str], mask_resize: str, warn: Callable[[str, str], None]
) -> None:
    """Warn of keypoints of visible parts that lie outside their picture, as far as masks tell its size (borders are inside)."""
    number = {
        column: masks[column].cast(pa.float64()).to_numpy()
        for column in ("row", "height", "width", "keypoint_x", "keypoint_y")
    }
    rows, x, y = (number[column] for column in ("row", "keypoint_x", "keypoint_y"))
    rows = rows.astype(np.int64)
    outside = (x < 0) | (y < 0)
    if mask_resize == "none":
        for place, side in ((x, "width"), (y, "height")):
            most = np.full(len(sample_ids), np.inf)
            known = np.isfinite(number[side])
            most[rows[known]] = number[side][known]
            outside |= place > most[rows]
    found = rows[outside & masks["visible"].to_numpy()]
    if len(found):
        text = f"{len(found)} keypoint{'s lie' if len(found) > 1 else ' lies'} outside the picture, first in {_shown(sample_ids[found[0]])}"
        warn(f"{text}: is it x and y in pixels?", name)


def _reordered(masks: pa.Table, order: Sequence[int]) -> pa.Table:
    """The masks with row numbers after pictures were put in ``order``, sorted by row and part."""
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    rows = pa.array(place[masks["row"].to_numpy()], pa.int32())
    moved = masks.set_column(0, "row", rows)
    if bool((np.diff(rows.to_numpy()) >= 0).all()):  # a sort would copy all masks
        return moved
    return moved.sort_by([("row", "ascending"), ("part", "ascending")])


def _check_names(name: str, parts: Sequence[str], attributes: Sequence[str]) -> None:
    if not parts:
        raise DataError(f"{name}: there is no part")
    for what, article, names in (("part", "a part", parts), ("attribute", "an attribute", attributes)):
        twice = [n for n, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(f"{name}: the {what} {some(twice)} stands twice")
        odd = [n for n in names if not (isinstance(n, str) and n.isprintable() and 0 < len(n.strip()) <= 100)]
        if odd:
            raise DataError(f"{name}: {some(odd)} cannot name {article}: one line of 1 to 100 characters")
    reserved = [part for part in parts if part in RESERVED or "+" in part]
    if reserved:
        raise DataError(f"{name}: no part can be called {some(reserved)}: it means something else (+ joins parts)")


def _shown(text: object) -> str:
    """A picture's name in an error: one line of bounded length."""
    return " ".join(str(text).split())[:120]


def _known_names(name: str, what: str, named: dict[str, str], attributes: Sequence[str]) -> dict[str, str]:
    unknown = sorted({*named} - {*attributes})
    if unknown:
        raise DataError(f"{name}: {what} names attributes that do not exist: {some(unknown)}")
    return {attribute: named[attribute] for attribute in attributes if attribute in named}


def _checked_swaps(name: str, swaps: Sequence[Sequence[str]], parts: Sequence[str]) -> list[list[str]]:
    for pair in swaps:
        if len(pair) != 2 or pair[0] == pair[1] or not {*pair} <= {*parts}:
            raise DataError(f"{name}: a swap is a pair of its parts, not {quoted(list(pair))}")
    return [list(pair) for pair in swaps]


def _check_pictures(
    name: str, pictures: Sequence[Mapping[str, Any]], corpus: Sequence[Mapping[str, Any]], needed: Sequence[str]
) -> None:
    for picture in pictures:
        if picture["split"] not in SPLITS:
            raise DataError(
                f"{name}: {_shown(picture['sample_id'])}: the split {quoted(picture['split'])} is none of {SPLITS}"
            )
    check_once(name, [(picture["split"], str(picture["sample_id"])) for picture in pictures])
    check_once(name, [(picture["split"], f"{picture['source_id']}/{picture['uri']}") for picture in pictures])
    names = {source.get("name") for source in corpus}
    lost = [picture for picture in pictures if picture["source_id"] not in names]
    if lost and None not in names:
        raise DataError(f"{name}: the corpus has no source {quoted(lost[0]['source_id'])}")
    held = Counter(picture["split"] for picture in pictures)
    empty = [split for split in needed if not held[split]]
    if empty or not pictures:
        found = ", ".join(f"{count} in {split}" for split, count in held.items()) or "none at all"
        raise DataError(
            f"{name}: no picture in {' and '.join(empty) or 'any split'} (found {found})",
            hint="Probes are fitted on train and scored on test: both need pictures.",
        )


def _labels(
    name: str,
    pictures: Sequence[Mapping[str, Any]],
    attributes: Sequence[str],
    value: NDArray[Any],
    valid: NDArray[Any],
) -> dict[str, NDArray[Any]]:
    wanted = (len(pictures), len(attributes))
    for what, array in (("value", value), ("valid", valid)):
        if array.shape != wanted:
            raise DataError(f"{name}: {what} has the shape {array.shape}; {wanted} (pictures, attributes) was expected")
        wrong = np.argwhere((array != 0) & (array != 1))
        if len(wrong):
            i, a = wrong[0]
            where = f"{_shown(pictures[i]['sample_id'])}, attribute {quoted(attributes[a])}"
            raise DataError(f"{name}: {where}: {what} is {quoted(array[i, a].item())}; expected 0 or 1")
    return {"value": (value * valid).astype(np.uint8), "valid": valid.astype(np.uint8)}


def _groups(name: str, groups: Sequence[int], pictures: int) -> NDArray[np.int32]:
    found = np.asarray(groups)
    if found.shape != (pictures,) or found.dtype.kind not in "iu" or found.min(initial=0) < 0:
        raise DataError(f"{name}: groups are {pictures} whole numbers from 0, one a picture")
    return found.astype(np.int32)


def _images(
    name: str,
    what: str,
    classes: list[str],
    pictures: Sequence[Mapping[str, Any]],
    corpus: list[dict[str, Any]],
    thumbnails: int,
    warn: Callable[[str, str], None],
) -> pa.Table:
    from results.tables import arrow_table

    number = {target: i for i, target in enumerate(classes)}
    listed = [
        Picture(p["split"], str(p["sample_id"]), p["source_id"], p["uri"], number[str(p.get("target", what))])
        for p in pictures
    ]
    content = Content(classes, listed, open_sources(corpus) if thumbnails else [])
    return arrow_table("dataset_image", rows_of(Loaded(name, content, listed, {}), thumbnails, warn))


def _attribute_table(
    about: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]], labels: Mapping[str, NDArray[Any]]
) -> pa.Table:
    """Rows of ``part_attribute``: how often each attribute is annotated, and how often it holds."""
    from results.tables import arrow_table

    splits = np.array([SPLITS.index(picture["split"]) for picture in pictures])
    rows = []
    for number, split in enumerate(SPLITS):
        inside = splits == number
        if not inside.any():
            continue
        counts = {key: labels[key][inside].sum(0, dtype=np.int64).tolist() for key in ("valid", "value")}
        rows += [
            {
                "dataset": about["dataset"], "attribute": attribute, "owner": owner_text(about["owners"][attribute]),
                "excluded": about["excluded"].get(attribute), "split": split, "n_valid": n_valid, "n_positive": n_positive,
            }
            for attribute, n_valid, n_positive in zip(about["attributes"], counts["valid"], counts["value"], strict=True)
        ]  # fmt: skip
    return arrow_table("part_attribute", rows)

"""Masks as COCO's JSON writes them: polygons, run lengths, compressed run lengths.

Read here and not by pycocotools: the numbers are a stranger's, the compiled reader trusts them, and this is shorter than judging
them first. A pixel is inside a polygon where its centre is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.data.datasets.content import quoted
from runner.errors import DataError

Mask = NDArray[np.bool_]

MAX_JSON = 4 * 2**30
_IDS = ("id", "image_id", "category_id", "obj_ann_id")
MAX_CROSSINGS = 20_000_000
"""Rows that the edges of one polygon cross, all together: no drawn outline has that many."""


def read_json(path: Path, *lists: str, repeated: str = "") -> dict[str, Any]:
    """A JSON object with lists of objects under the names given; in the list ``repeated`` an id may stand twice. Raises ``DataError`` naming file, list and entry."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_JSON:
            raise DataError(f"{path} is no regular file of at most {MAX_JSON:,} bytes")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with {', '.join(lists)}")
    for name in lists:
        entries = content.get(name)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(
                f"{path}: expected a list of objects under {name!r}", hint="Take the file as it is published."
            )
        _check_ids(path, name, entries, unique=name != repeated)
    return content


def _check_ids(path: Path, name: str, entries: list[dict[str, Any]], *, unique: bool) -> None:
    """Numbers by which entries find each other are numbers, and none stands for two (``unique``)."""
    seen = set()
    for place, row in enumerate(entries):
        wrong = [key for key in _IDS if key in row and type(row[key]) is not int]
        if wrong or (unique and row.get("id") in seen):
            key = wrong[0] if wrong else "id"
            problem = "is no number" if wrong else "stands twice"
            raise DataError(f"{path}, {name}, entry {place + 1}: {key} {quoted(row[key])} {problem}")
        seen.add(row.get("id", -place - 1))


def entry(where: str, row: Mapping[str, Any], key: str, kind: type) -> Any:
    """A value of an entry. Raises ``DataError`` where it is missing or of another type."""
    value = row.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f"{where}: {key} is {quoted(value)}, expected {kind.__name__}")
    return value


def box(where: str, row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """``bbox`` (x, y, width, height). Raises ``DataError`` where it is none."""
    match row.get("bbox"):
        case [x, y, width, height] if all(_number(v) for v in (x, y, width, height)) and width >= 0 and height >= 0:
            return float(x), float(y), float(width), float(height)
    raise DataError(f"{where}: bbox is {quoted(row.get('bbox'))}, expected x, y, width, height")


def _number(value: object) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
    )  # neither NaN nor infinite


def decode(segmentation: object, height: int, width: int, where: str, bbox: Sequence[float] | None = None) -> Mask:
    """The mask [height, width] of a ``segmentation``. A polygon of four numbers stands for its box ``bbox``, as in PartImageNet.

    Raises ``DataError`` naming the annotation for sizes that differ, runs that do not fill the mask, odd polygons.
    """
    if isinstance(segmentation, Mapping):
        return _from_runs(segmentation, height, width, where)
    if not isinstance(segmentation, list):
        raise DataError(f"{where}: a segmentation is polygons or run lengths, not {quoted(segmentation)}")
    mask = np.zeros((height, width), bool)
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(_number(value) for value in polygon):
            raise DataError(f"{where}: a polygon is a list of numbers, not {quoted(polygon)}")
        if len(polygon) == 4 and bbox is not None:
            x, y, w, h = bbox
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        if len(polygon) < 6 or len(polygon) % 2:
            raise DataError(f"{where}: a polygon of {len(polygon)} numbers; expected x and y of at least three points")
        mask |= fill(np.array(polygon, np.float64).reshape(-1, 2), height, width, where)
    return mask


def fill(points: NDArray[np.float64], height: int, width: int, where: str = "polygon") -> Mask:
    """Pixels [height, width] whose centre lies inside the polygon (x, y) [n, 2], by the even-odd rule."""
    start, end = points, np.roll(points, -1, 0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    rows_of = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64) - first
    total = int(rows_of.sum())
    if total > MAX_CROSSINGS:
        raise DataError(f"{where}: a polygon of {len(points)} points is no outline of a part")
    edge = np.repeat(np.arange(len(points)), rows_of)
    row = np.arange(total) - np.repeat(np.cumsum(rows_of) - rows_of, rows_of) + first[edge]
    slope = (end - start)[edge]  # horizontal edges cross no row
    x = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope[:, 0] / slope[:, 1]
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    flips = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return np.asarray(np.cumsum(flips[:, :width], 1) % 2 == 1)


def _from_runs(segmentation: Mapping[str, Any], height: int, width: int, where: str) -> Mask:
    size = segmentation.get("size")
    if size != [height, width] or bool in map(type, size):
        raise DataError(f"{where}: its mask has the size {quoted(size)}, the picture [{height}, {width}]")
    counts = segmentation.get("counts")
    runs: list[int] = (
        decompress(counts, where) if isinstance(counts, str) else counts if isinstance(counts, list) else []
    )
    sound = len(runs) <= height * width + 1 and all(type(run) is int and 0 <= run <= height * width for run in runs)
    if not sound or sum(runs) != height * width:
        raise DataError(f"{where}: its run lengths do not fill {height} x {width} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T  # column by column


def decompress(text: str, where: str) -> list[int]:
    """Run lengths from COCO's text: numbers of 5 bits a character, from the third on the difference to the one before the last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 35:
            raise DataError(f"{where}: {quoted(character)} is no part of compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise DataError(f"{where}: compressed run lengths are cut off")
    return runs


def pixels_of(bbox: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the whole pixels that a box touches, clipped to the picture."""
    x, y, w, h = bbox
    left, top = (min(max(math.floor(v), 0), most) for v, most in ((x, width), (y, height)))
    right, bottom = (min(max(math.ceil(v), 0), most) for v, most in ((x + w, width), (y + h, height)))
    return left, top, right, bottom

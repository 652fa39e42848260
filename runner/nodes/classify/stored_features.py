"""Features that somebody else stored: a tensor file ``.pt`` and a JSON object that says which picture each row is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.context import StepContext
from runner.errors import DataError
from runner.naming import normalised

FloatArray = NDArray[np.float32]
Row = dict[str, Any]

_UNIT = 1e-3


class Stored(NamedTuple):
    """Vectors float32 [n, dim] of unit norm; for each the path of its picture and the name of its class."""

    vectors: FloatArray
    paths: list[str]
    targets: list[str]


def read_stored(ctx: StepContext, tensor: Path, metadata: Path) -> Stored:
    """Read a pair. Rows without unit norm are scaled, with a warning.

    Raises ``DataError`` for a file that is no tensor [n, dim] (nothing in it is run), metadata of another length or
    without ``visual`` and ``target``, and rows that are NaN, infinite or all zero.
    """
    vectors = _tensor(tensor)
    about = _metadata(metadata, len(vectors), tensor)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise DataError(f"{tensor}: some rows are NaN, infinite or all zero", hint="Make the features again.")
    off = int((np.abs(norms - 1) > _UNIT).sum())
    if off:
        ctx.warn(f"{off} of {len(vectors)} features had no unit norm and were scaled", item=tensor.name)
    unit = (vectors / norms).astype(np.float32)
    return Stored(unit, [row["visual"] for row in about], [row["target"] for row in about])


def _tensor(path: Path) -> FloatArray:
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's file may fail in any way
        hint = "Write it with torch.save(tensor, path); files that hold other Python objects are not read."
        raise DataError(f"{path}: cannot be read as a tensor: {str(error).splitlines()[0][:200]}", hint=hint) from error
    if not isinstance(loaded, torch.Tensor) or loaded.ndim != 2 or not loaded.is_floating_point() or not len(loaded):
        what = tuple(loaded.shape) if isinstance(loaded, torch.Tensor) else type(loaded).__name__
        raise DataError(f"{path}: expected one tensor of numbers [pictures, dim], found {what}")
    return np.asarray(loaded.float().numpy(), np.float32)


def _metadata(path: Path, length: int, tensor: Path) -> list[dict[str, str]]:
    """Rows in the order of the tensor."""
    try:
        found = json.loads(path.read_text("utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object keyed by row number")
    if len(found) != length:
        raise DataError(f"{tensor.name} has {length} rows and {path.name} {len(found)}: they are not of one store")
    rows = [found.get(str(number)) for number in range(length)]
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("visual", "target")):
            raise DataError(f"{path}: row {number} must have the texts `visual` (path) and `target` (class name)")
    return [row for row in rows if row is not None]


def matched_rows(
    ctx: StepContext, stored: Stored, info: Mapping[str, Any], split: str, rows: Sequence[Row]
) -> tuple[list[Row], FloatArray]:
    """Dataset rows of the stored ones and their vectors, in the order of the dataset.

    A stored picture is the one whose path has the longest common end with its own, as far as that is unique. Raises
    ``DataError`` for a class that the dataset does not have, a class that is not the picture's, two rows of one picture,
    and a store without any of the dataset's pictures.
    """
    _check_targets(stored, info)
    by_end = _by_end(rows)
    found: dict[int, int] = {}
    for number, path in enumerate(stored.paths):
        place = _longest_end(path, by_end)
        if place is None:
            continue
        if place in found:
            raise DataError(
                f"{info['dataset']}: two stored rows ({found[place]}, {number}) are of {rows[place]['uri']}"
            )
        if normalised(stored.targets[number]) != normalised(rows[place]["target"]):
            what = f"{stored.targets[number][:60]!r} in the store, {rows[place]['target'][:60]!r} in the dataset"
            raise DataError(f"{info['dataset']}: {rows[place]['uri']} is {what}")
        found[place] = number
    if not found:
        hint = f"The store names {stored.paths[0][:120]!r}, the dataset's {split} split {rows[0]['uri'][:120]!r}."
        raise DataError(f"{info['dataset']}: no stored picture is in the split {split!r}", hint=hint)
    _say_rest(ctx, f"{info['dataset']} {split}", len(stored.paths) - len(found), len(rows) - len(found))
    places = sorted(found)
    return [rows[place] for place in places], stored.vectors[[found[place] for place in places]]


def _say_rest(ctx: StepContext, item: str, foreign: int, missing: int) -> None:
    if foreign:
        ctx.warn(
            f"{foreign} stored features are of pictures that the dataset does not have; they are left out", item=item
        )
    if missing:
        ctx.warn(f"{missing} pictures have no stored feature", item=item)


def _check_targets(stored: Stored, info: Mapping[str, Any]) -> None:
    known = {normalised(name) for name in info["classes"]}
    unknown = sorted({target for target in stored.targets if normalised(target) not in known})
    if unknown:
        hint = f"Its classes are {', '.join(map(repr, info['classes'][:5]))} ..."
        raise DataError(f"{info['dataset']} has no class {unknown[0][:80]!r} ({len(unknown)} such names)", hint=hint)


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]


def _by_end(rows: Sequence[Row]) -> dict[str, int | None]:
    """Places of pictures by every end of their path; None where several share it."""
    ends: dict[str, int | None] = {}
    for place, row in enumerate(rows):
        parts = _parts(row["uri"])
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            ends[end] = None if end in ends else place
    return ends


def _longest_end(path: str, by_end: Mapping[str, int | None]) -> int | None:
    parts = _parts(path)
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        if end in by_end:
            return by_end[end]
    return None

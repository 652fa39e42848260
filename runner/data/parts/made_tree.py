"""Pictures with labels sorted into folders of classes and groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runner.data.datasets.content import quoted, some
from runner.data.places import Place, read_pictures
from runner.data.sampling import sampled
from runner.data.sources import open_sources
from runner.errors import DataError

if TYPE_CHECKING:
    from runner.artifacts import PartImages
    from runner.context import StepContext

NOT = "not "
Cell = tuple[str, str, str]
"""Class, attribute, value."""


def sort_pictures(
    ctx: StepContext,
    images: PartImages,
    folder: Path,
    targets: Mapping[str, str],
    groups: Mapping[str, Mapping[str, str]],
    split: str,
    limit: int | None,
    least: int,
    seed: int,
) -> dict[str, Any]:
    """Write the tree and say how many pictures each folder got. Raises ``DataError`` for unknown attributes, or no picture at all."""
    columns = images.images.select(["sample_id", "split", "source_id", "uri"]).to_pylist()
    inside = np.array([row["split"] == split for row in columns], bool)
    cells = cells_of(images, inside, targets, groups)
    if not any(len(rows) for rows in cells.values()):
        raise DataError(f"no picture of the split {split} has one of the classes and values")
    kept = {
        cell: sampled(rows.tolist(), limit, seed, lambda row: str(columns[row]["sample_id"]))
        for cell, rows in cells.items()
    }
    for (target, attribute, value), rows in kept.items():
        if len(rows) < least:
            ctx.warn(f"{len(rows)} pictures are {target} with {attribute} {value}: too few to tell groups apart")
    _write(ctx, images, columns, folder, kept)
    used = {row for rows in kept.values() for row in rows}
    counts = {"/".join(cell): len(rows) for cell, rows in kept.items()}
    return {"split": split, "pictures": counts, "used": len(used), "left_out": int(inside.sum()) - len(used)}


def cells_of(
    images: PartImages, inside: NDArray[np.bool_], targets: Mapping[str, str], groups: Mapping[str, Mapping[str, str]]
) -> dict[Cell, NDArray[np.int64]]:
    """Rows of the pictures of each class and value: those of exactly one class and exactly one value of the attribute."""
    classes = one_of(images, targets)
    found: dict[Cell, NDArray[np.int64]] = {}
    for attribute, values in groups.items():
        if len(values) < 2:
            raise DataError(f"{quoted(attribute)} has one value: groups are compared with each other")
        groups_of = one_of(images, values)
        for target in targets:
            for value in values:
                found[target, attribute, value] = np.flatnonzero(inside & classes[target] & groups_of[value])
    return found


def one_of(images: PartImages, wanted: Mapping[str, str]) -> dict[str, NDArray[np.bool_]]:
    """For each name the pictures where its attribute holds and no other name's does: bool [n]."""
    holds = {name: _holds(images, attribute) for name, attribute in wanted.items()}
    once = np.sum(list(holds.values()), 0) == 1
    return {name: held & once for name, held in holds.items()}


def _holds(images: PartImages, attribute: str) -> NDArray[np.bool_]:
    names = list(images.about["attributes"])
    plain = attribute.removeprefix(NOT) if attribute not in names else attribute
    if plain not in names:
        raise DataError(f"there is no attribute {quoted(plain)}", hint=f"Attributes are {some(names, most=40)}.")
    column, wanted = names.index(plain), 1 if plain == attribute else 0
    value, valid = (images.labels[key][:, column] for key in ("value", "valid"))
    return np.asarray((value == wanted) & (valid == 1))


def _write(
    ctx: StepContext, images: PartImages, columns: list[dict[str, Any]], folder: Path, kept: Mapping[Cell, list[int]]
) -> None:
    wanted: dict[Place, list[Path]] = {}
    for cell, rows in kept.items():
        for row in rows:
            place = Place(columns[row]["source_id"], columns[row]["uri"])
            suffix = PurePosixPath(place.uri).suffix.lower() or ".png"
            wanted.setdefault(place, []).append(folder.joinpath(*cell, f"{row:06d}{suffix}"))
    pictures = read_pictures(open_sources(images.corpus), wanted)
    for place, data in ctx.track(pictures, unit="images", total=len(wanted)):
        for path in wanted[place]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

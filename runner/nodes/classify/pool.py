"""The few-shot pool: the same few labelled pictures of every class for all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.context import item_key
from runner.errors import DataError

Row = dict[str, Any]


def rng_of(*parts: object) -> np.random.Generator:
    """Random numbers that depend on ``parts`` alone, whatever else is drawn."""
    return np.random.default_rng(int(item_key(*parts)[:15], 16))


def draw_pool(class_indices: ArrayLike, n_classes: int, shots: int, *parts: object) -> list[NDArray[np.int64]]:
    """For each class the places of ``min(shots, n)`` of its pictures, uniform without replacement, in the order drawn.

    ``class_indices`` [n]; ``parts``: seed and whatever tells this draw from others. Each class is a draw of its own.
    """
    indices = np.asarray(class_indices)
    own = [np.flatnonzero(indices == c) for c in range(n_classes)]
    return [rng_of("few-shot pool", *parts, c).permutation(places)[:shots] for c, places in enumerate(own)]


def pool_rows(
    info: Mapping[str, Any], rows: Sequence[Row], shots: int, seed: int, *, allow_fewer: bool, split: str
) -> list[Row]:
    """Rows of ``few_shot_pool`` of one dataset from its ``dataset_image`` rows of one split: class by class.

    Raises ``DataError`` for classes without a picture, and for classes with fewer than ``shots`` unless ``allow_fewer``.
    """
    name, classes = info["dataset"], info["classes"]
    drawn = draw_pool([row["class_index"] for row in rows], len(classes), shots, seed, name)
    empty = [classes[c] for c, places in enumerate(drawn) if not len(places)]
    if empty:
        hint = "Every class needs a labelled picture; check the split and the dataset's limits."
        raise DataError(f"{name}: {_named(empty)} no picture in the split {split!r}", hint=hint)
    few = [classes[c] for c, places in enumerate(drawn) if len(places) < shots]
    if few and not allow_fewer:
        least = min(len(places) for places in drawn)
        hint = f"Lower shots_per_class (the smallest class has {least}), or set allow_fewer: true."
        raise DataError(f"{name}: {_named(few)} fewer than {shots} pictures in the split {split!r}", hint=hint)
    chosen = [rows[place] for places in drawn for place in places]
    kept = ("dataset", "sample_id", "source_id", "uri", "target", "class_index")
    return [{key: row[key] for key in kept} | {"slot": slot} for slot, row in enumerate(chosen)]


def _named(names: Sequence[str]) -> str:
    """Three names at most, with their number and the verb."""
    shown = ", ".join(repr(name[:60]) for name in names[:3]) + (" ..." if len(names) > 3 else "")
    return f"the class {shown} has" if len(names) == 1 else f"{len(names)} classes ({shown}) have"

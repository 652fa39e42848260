"""From measured pictures to the values of an attribute. Pure numpy, no I/O.

Bins are half open, ``[low, high)``, the last one closed. An edge is always a measured value, the smallest of the upper bin,
so that equal measurements never fall in two bins. Where a measurement is the same for all pictures there are no bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Middle = Literal["drop", "keep"]

OUTSIDE = -1
"""Bin of a picture that belongs to no value: between two of them, or not measurable."""


@dataclass(frozen=True)
class Bin:
    """One value of an attribute as a range of a measurement, or as one of its categories; ``n`` pictures fell into it."""

    value: str
    low: float | None
    high: float | None
    category: str | None
    n: int
    rule: str


class Binned(NamedTuple):
    """``bins`` from low to high; ``place`` int64 [pictures]: index into ``bins`` or ``OUTSIDE``; ``pool``: pictures that
    could be measured; ``reason``: why there are no bins."""

    bins: tuple[Bin, ...]
    place: IntArray
    pool: int
    reason: str | None = None


def quantile_bins(measured: ArrayLike, values: Sequence[str], middle: Middle = "drop") -> Binned:
    """Bins of nearly equal counts. ``measured``: [pictures], NaN = not measurable; ``values``: names from low to high.

    Two values with ``middle='drop'``: the lowest and the highest third, the third between them is left out, since pictures
    there are neither. Ties move an edge to the nearest place where the measurement changes.
    """
    found = np.asarray(measured, np.float64)
    pool = found[~np.isnan(found)]
    levels, counts = np.unique(pool, return_counts=True)
    thirds = len(values) == 2 and middle == "drop"
    needed = 2 if thirds else len(values)
    if len(levels) < max(needed, 2):
        return _none(found, f"{_different(len(levels))} cannot be cut into {len(values)} bins")
    below = np.cumsum(counts)[:-1]  # pictures below each level but the first: where an edge may stand
    if thirds:
        splits = [_nearest(below, len(pool) * part / 3) for part in (1, 2)]
        rule = "lowest and highest third, the middle third left out"
    else:
        splits = _distinct_splits(below, len(pool), len(values))
        rule = f"{len(values)} bins of equal counts"
    edges = [levels[split + 1] for split in splits]
    lows, highs = [levels[0], *edges], [*edges, levels[-1]]
    if thirds:
        lows, highs = [levels[0], edges[1]], [edges[0], levels[-1]]
    return _filled(found, values, lows, highs, rule)


def cut_bins(measured: ArrayLike, values: Sequence[str], cuts: Sequence[float]) -> Binned:
    """Bins between ``cuts`` that the user chose: one fewer than values; or two for two values, leaving out what lies between.

    Raises ``ValueError`` where their number is another, or they do not rise. A bin may be empty.
    """
    gap = len(values) == 2 and len(cuts) == 2
    if len(cuts) != len(values) - 1 and not gap:
        raise ValueError(f"{len(values)} values need {len(values) - 1} cuts, not {len(cuts)}")
    if not np.all(np.isfinite(cuts)) or np.any(np.diff(cuts) <= 0):
        raise ValueError(f"cuts must be numbers that rise, not {', '.join(map(str, cuts))}")
    found = np.asarray(measured, np.float64)
    pool = found[~np.isnan(found)]
    if not len(pool):
        return _none(found, "no picture could be measured")
    lowest, highest = min(pool.min(), cuts[0]), max(pool.max(), cuts[-1])
    lows, highs = [lowest, *cuts], [*cuts, highest]
    if gap:
        lows, highs = [lowest, cuts[1]], [cuts[0], highest]
    return _filled(found, values, lows, highs, "cuts given by the user")


def category_bins(found: Sequence[str | None], categories: Mapping[str, str]) -> Binned:
    """Pictures by name of their category. ``found``: one a picture, None = not measurable; ``categories``: value -> category.

    Raises ``ValueError`` where two values mean the same category.
    """
    if len(set(categories.values())) < len(categories):
        raise ValueError(f"two values mean the same category: {dict(categories)}")
    names = np.array(["" if name is None else name for name in found], object)
    place = np.full(len(names), OUTSIDE, np.int64)
    for i, category in enumerate(categories.values()):
        place[names == category] = i
    pool = int((names != "").sum())
    counts = np.bincount(place[place >= 0], minlength=len(categories))
    if (counts > 0).sum() < 2:
        return Binned((), np.full(len(names), OUTSIDE, np.int64), pool, "fewer than two of the values occur")
    bins = (
        Bin(value, None, None, category, int(n), "by name")
        for (value, category), n in zip(categories.items(), counts, strict=True)
    )
    return Binned(tuple(bins), place, pool)


def _nearest(below: IntArray, wanted: float) -> int:
    """The place of an edge that leaves a number of pictures nearest to ``wanted`` below it; the lower one of two."""
    return int(np.abs(below - wanted).argmin())


def _distinct_splits(below: IntArray, pool: int, bins: int) -> list[int]:
    """Rising places of the ``bins - 1`` edges, each as near to equal counts as those before and after it allow."""
    splits: list[int] = []
    for j in range(1, bins):
        first = splits[-1] + 1 if splits else 0
        last = len(below) - (bins - 1 - j)
        splits.append(first + _nearest(below[first:last], pool * j / bins))
    return splits


def _filled(
    measured: FloatArray, values: Sequence[str], lows: Sequence[float], highs: Sequence[float], rule: str
) -> Binned:
    place = _inside(measured, lows, highs)
    counts = np.bincount(place[place >= 0], minlength=len(values))
    bins = (
        Bin(value, float(low), float(high), None, int(n), rule)
        for value, low, high, n in zip(values, lows, highs, counts, strict=True)
    )
    return Binned(tuple(bins), place, int((~np.isnan(measured)).sum()))


def _inside(measured: FloatArray, lows: Sequence[float], highs: Sequence[float]) -> IntArray:
    place = np.full(len(measured), OUTSIDE, np.int64)
    for i, (low, high) in enumerate(zip(lows, highs, strict=True)):
        last = i == len(lows) - 1
        place[(measured >= low) & ((measured <= high) if last else (measured < high))] = i
    return place


def placed(bins: Sequence[Bin], measured: Sequence[float | str | None]) -> IntArray:
    """Into which of finished ``bins`` further pictures fall, int64 [pictures]; the outer bins are open to the outside."""
    if not bins:
        return np.full(len(measured), OUTSIDE, np.int64)
    if bins[0].category is not None:
        number = {b.category: i for i, b in enumerate(bins)}
        return np.array(
            [number.get(name, OUTSIDE) if isinstance(name, str) else OUTSIDE for name in measured], np.int64
        )
    numbers = np.array([np.nan if value is None else value for value in measured], np.float64)
    lows = [-np.inf, *(float(b.low or 0.0) for b in bins[1:])]
    return _inside(numbers, lows, [*(float(b.high or 0.0) for b in bins[:-1]), np.inf])


def _none(measured: FloatArray, reason: str) -> Binned:
    pool = int((~np.isnan(measured)).sum())
    return Binned(
        (), np.full(len(measured), OUTSIDE, np.int64), pool, reason if pool else "no picture could be measured"
    )


def _different(levels: int) -> str:
    return "one measurement, the same for all pictures," if levels == 1 else f"{levels} different measurements"

"""Groups that differ in what was measured and not in where their pictures come from. Pure numpy.

Pictures of one source resemble each other in much more than the measurement: all clip art is bright and drawn. A gap between
bright and dark pictures over several sources would then be a gap between sources. So each source counts with the same number
of pictures in every group (exact matching on the source), and a source that is missing in one of them counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST = 5
"""A source with fewer pictures in one of the groups cannot be compared."""


def comparable(place: NDArray[np.int64], sources: Sequence[str], groups: int, smallest: int = SMALLEST) -> list[str]:
    """The sources with at least ``smallest`` pictures in each group, sorted. ``place``: group of each picture, negative = none."""
    names, counts = _counts(place, sources, groups)
    return [str(name) for name, row in zip(names, counts, strict=True) if groups and row.min() >= smallest]


def matched(
    place: NDArray[np.int64], sources: Sequence[str], groups: int, seed: int, smallest: int = SMALLEST
) -> NDArray[np.int64]:
    """``place`` with pictures taken out at random, so that each source has the same number in every group."""
    kept = np.full(len(place), -1, np.int64)
    own = np.asarray(sources, object)
    dice = np.random.default_rng(seed)
    names, counts = _counts(place, sources, groups)
    for name, row in zip(names, counts, strict=True):
        share = int(row.min()) if groups else 0
        if share < smallest:
            continue
        for group in range(groups):
            members = np.flatnonzero((own == name) & (place == group))
            chosen = members if len(members) == share else dice.choice(members, share, replace=False)
            kept[chosen] = group
    return kept


def thinned(
    place: NDArray[np.int64],
    sources: Sequence[str],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    of: Sequence[str],
    seed: int,
) -> NDArray[np.int64]:
    """``place`` of further pictures, thinned like those of which ``before`` became ``after`` (sources ``of``): the same shares
    of each source and group are kept, so that what is counted on both together stays in proportion.
    """
    kept = np.full(len(place), -1, np.int64)
    own, known = np.asarray(sources, object), np.asarray(of, object)
    dice = np.random.default_rng(seed)
    for name, group in sorted({(str(n), int(g)) for n, g in zip(own, place, strict=True) if g >= 0}):
        members = np.flatnonzero((own == name) & (place == group))
        were = int(((known == name) & (before == group)).sum())
        left = int(((known == name) & (after == group)).sum())
        share = round(len(members) * left / were) if were else 0
        kept[dice.choice(members, share, replace=False)] = group
    return kept


def _counts(place: NDArray[np.int64], sources: Sequence[str], groups: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Distinct sources, and pictures by source and group [sources, groups]."""
    names, number = np.unique(np.asarray(sources, str), return_inverse=True)
    counts = np.zeros((len(names), groups), np.int64)
    inside = place >= 0
    np.add.at(counts, (number[inside], place[inside]), 1)
    return names, counts

"""What goes along with an answer, and what changes it: association over bins, and paired effects of an edit.

Pure numpy float64, no I/O. The outcome is what a classifier answers, not whether it is right: it needs no true label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from runner.nodes.contrasts import bias_scores, mover_interval
from runner.nodes.intervals import paired_difference_interval, wilson_interval
from runner.nodes.significance import fisher_value_tests, mcnemar_exact

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Bins(NamedTuple):
    """``edges`` [bins + 1] of the bins, ``number`` [n] of each value's bin (-1 where the value is NaN)."""

    edges: FloatArray
    number: IntArray


def quantile_bins(values: ArrayLike, bins: int) -> Bins:
    """Bins of (nearly) equal size at the quantiles of [n] values; ties stay together, so that fewer bins may be left.

    A bin holds its lower edge and, the last one, its upper edge too. Raises ValueError without two different values.
    """
    measured = np.asarray(values, np.float64)
    known = ~np.isnan(measured)
    edges = np.unique(np.quantile(measured[known], np.linspace(0, 1, bins + 1))) if known.any() else np.zeros(0)
    if len(edges) < 2:
        raise ValueError("bins need at least two different values")
    index = np.clip(np.searchsorted(edges, np.where(known, measured, edges[0]), "right") - 1, 0, len(edges) - 2)
    return Bins(edges, np.where(known, index, -1).astype(np.int64))


class Association(NamedTuple):
    """One entry a bin: ``n`` pictures, ``k`` with the outcome, their rate with Wilson's interval; ``difference`` to the mean
    rate of the other bins with a MOVER interval, and Fisher's p against the others pooled; ``gap`` to the lowest bin with
    Newcombe's interval (NaN there)."""

    n: IntArray
    k: IntArray
    rate: FloatArray
    rate_limits: tuple[FloatArray, FloatArray]
    difference: FloatArray
    difference_limits: tuple[FloatArray, FloatArray]
    fisher_p: FloatArray
    gap: FloatArray
    gap_limits: tuple[FloatArray, FloatArray]


def associate(outcome: ArrayLike, index: ArrayLike, bins: int, confidence: float = 0.95) -> Association:
    """Rates of a yes-or-no outcome [n] over the bins that ``index`` [n] names; -1 stands in none."""
    yes, where = np.asarray(outcome, np.bool_), np.asarray(index, np.int64)
    n = np.bincount(where[where >= 0], minlength=bins)
    k = np.bincount(where[(where >= 0) & yes], minlength=bins)
    with_lowest = np.stack([np.broadcast_to(k[0], k.shape), k], -1), np.stack([np.broadcast_to(n[0], n.shape), n], -1)
    gap = bias_scores(*with_lowest)[:, 1]
    low, high = (limit[:, 1].copy() for limit in mover_interval(*with_lowest, confidence))
    for values in (gap, low, high):
        values[0] = np.nan
    rate = np.divide(k, n, out=np.full(bins, np.nan), where=n > 0)
    return Association(
        n, k, rate, wilson_interval(k, n, confidence), bias_scores(k, n), mover_interval(k, n, confidence),
        fisher_value_tests(k, n), gap, (low, high),
    )  # fmt: skip


class PairedTable(NamedTuple):
    """Pairs by outcome before and after: yes both times, gained (no, then yes), lost (yes, then no), neither."""

    both: int
    gained: int
    lost: int
    neither: int

    @property
    def pairs(self) -> int:
        """All of them."""
        return sum(self)


def paired_table(before: ArrayLike, after: ArrayLike) -> PairedTable:
    """Counts of two yes-or-no outcomes [n] of the same people. Raises ValueError for different lengths."""
    first, second = np.asarray(before, np.bool_), np.asarray(after, np.bool_)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError("paired outcomes must be two lists of one length")
    cells = (first & second, ~first & second, first & ~second, ~first & ~second)
    return PairedTable(*(int(cell.sum()) for cell in cells))


class PairedEffect(NamedTuple):
    """``effect`` = (gained - lost) / pairs with its interval, and the exact McNemar p; NaN without pairs."""

    effect: float
    low: float
    high: float
    p: float


def paired_effect(table: PairedTable, confidence: float = 0.95) -> PairedEffect:
    """Change of the outcome's rate between two pictures of the same people, with ``paired_difference_interval``."""
    n = table.pairs
    if not n:
        return PairedEffect(*[float("nan")] * 4)
    low, high = paired_difference_interval(table.both, table.lost, table.gained, table.neither, confidence)
    p = float(mcnemar_exact(table.lost, table.gained))
    return PairedEffect((table.gained - table.lost) / n, float(low), float(high), p)


class Mean(NamedTuple):
    """A mean with its t interval; the limits are NaN with fewer than two values, all is NaN with none."""

    mean: float
    low: float
    high: float


def mean_change(before: ArrayLike, after: ArrayLike, confidence: float = 0.95) -> Mean:
    """Mean of ``after - before`` [n] over pairs, with Student's interval."""
    change = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    if len(change) < 2:
        return Mean(float(change[0]) if len(change) else float("nan"), float("nan"), float("nan"))
    half = float(stdtrit(len(change) - 1, 0.5 + confidence / 2) * change.std(ddof=1) / np.sqrt(len(change)))
    return Mean(float(change.mean()), float(change.mean() - half), float(change.mean() + half))


def manipulated(
    change: ArrayLike, held: ArrayLike, *, least: float, most: float
) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Manipulation check of pairs: (kept, moved enough, nothing else moved), each [n].

    ``change`` [n]: of the wanted measure; ``held`` [n, m]: of those that should stay; all in standard deviations of the
    people. Kept are pairs with ``change >= least`` and ``|held| <= most`` everywhere.
    """
    moved = np.asarray(change, np.float64) >= least
    still = np.asarray((np.abs(np.asarray(held, np.float64)) <= most).all(-1))
    return moved & still, moved, still

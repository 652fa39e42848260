"""Rankings of mixtures: how far a stand-in agrees with the truth, and what choosing by it costs.

Scores are float64 numpy, higher is better, NaN where one is missing. Which correlation 2602.04937 tabulates is not known to
this project; Spearman's comes first here, the others stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TIE = 12
"""Decimals to which scores are rounded before they are ranked: means that are equal but for rounding then tie."""
LEAST = 3
"""Fewest mixtures for a correlation."""


class RankMetrics(NamedTuple):
    """Agreement of two score lists: ``n`` mixtures that both know; None where n < 3 or a side is constant."""

    n: int
    spearman: float | None
    kendall_tau_b: float | None
    pearson: float | None


class Interval(NamedTuple):
    """A value with its 95 % interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


def rank_metrics(proxy: Floats, true: Floats) -> RankMetrics:
    """Spearman's rho (average ranks), Kendall's tau-b and Pearson's r of scores [n] and [n]; pairs with a NaN are left out."""
    from scipy import stats

    left, right = paired(proxy, true)
    if undefined(left, right):
        return RankMetrics(len(left), None, None, None)
    tau = float(stats.kendalltau(left, right).statistic)
    return RankMetrics(len(left), spearman(left, right), tau, float(np.corrcoef(left, right)[0, 1]))


def paired(proxy: Floats, true: Floats) -> tuple[Floats, Floats]:
    """The scores of mixtures that both sides know, rounded so that equal means tie. Raises ``ValueError`` on two lengths."""
    left = np.asarray(np.round(proxy, TIE), np.float64)
    right = np.asarray(np.round(true, TIE), np.float64)
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(f"scores of the same mixtures are wanted, not {left.shape} beside {right.shape}")
    both = ~(np.isnan(left) | np.isnan(right))
    return left[both], right[both]


def undefined(left: Floats, right: Floats) -> bool:
    """Whether no correlation can be told: fewer than three mixtures, or one side constant."""
    return len(left) < LEAST or bool(np.ptp(left) == 0 or np.ptp(right) == 0)


def spearman(left: Floats, right: Floats) -> float:
    """Pearson's r of average ranks."""
    return float(np.corrcoef(average_ranks(left), average_ranks(right))[0, 1])


def average_ranks(scores: Floats) -> Floats:
    """Ranks from 1 upward along the last axis, ties sharing their mean."""
    from scipy import stats

    return np.asarray(stats.rankdata(scores, axis=-1), np.float64)


def best_first(scores: Floats, entropies: Floats) -> NDArray[np.int64]:
    """Row numbers by falling score; ties go to the more even mixture, then to the order of listing; NaN last."""
    keys = np.round(np.asarray(scores, np.float64), TIE)
    return np.lexsort((np.arange(len(keys)), -entropies, -keys))


def selected(scores: Floats, entropies: Floats | None = None) -> int:
    """The row that would be chosen: argmax with the ties of ``best_first``. Raises ``ValueError`` where all are NaN."""
    if np.isnan(scores).all():
        raise ValueError("no mixture has a score to choose by")
    return int(best_first(scores, np.zeros(len(scores)) if entropies is None else entropies)[0])


def regret(proxy: Floats, true: Floats, entropies: Floats | None = None) -> float:
    """Best true score less the true score of the mixture that ``proxy`` would choose; >= 0. Over mixtures both know."""
    known = ~(np.isnan(proxy) | np.isnan(true))
    if not known.any():
        return float("nan")
    even = None if entropies is None else entropies[known]
    return float(true[known].max() - true[known][selected(proxy[known], even)])


def true_rank(proxy: Floats, true: Floats, entropies: Floats | None = None) -> int:
    """Place (1 is best) that the mixture chosen by ``proxy`` really has: 1 + the number of truly better ones."""
    known = ~(np.isnan(proxy) | np.isnan(true))
    scores = np.round(true[known], TIE)
    even = None if entropies is None else entropies[known]
    return int(1 + (scores > scores[selected(proxy[known], even)]).sum())


def topk_overlap(proxy: Floats, true: Floats, k: int) -> float:
    """Share of the k best by ``proxy`` among the k best in truth, 0..1; over mixtures both know."""
    left, right = paired(proxy, true)
    k = min(k, len(left))
    if k == 0:
        return float("nan")
    flat = np.zeros(len(left))
    return len(set(best_first(left, flat)[:k]) & set(best_first(right, flat)[:k])) / k


# --- uncertainty -----------------------------------------------------------------------------------------------------


def spearman_interval(proxy: Floats, true: Floats, draws: int = 1000, seed: int = 0) -> Interval:
    """Rho with the percentile interval of resampled mixtures; draws in which a side is constant are left out.

    With few mixtures the interval is wide and itself rough: give n beside it.
    """
    left, right = paired(proxy, true)
    if undefined(left, right):
        return Interval(None, None, None)
    rows = np.random.default_rng(seed).integers(0, len(left), (draws, len(left)))
    found = _correlations(average_ranks(left[rows]), average_ranks(right[rows]))
    found = found[np.isfinite(found)]
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (np.nan, np.nan)
    return Interval(spearman(left, right), float(low), float(high))


def permutation_p(proxy: Floats, true: Floats, draws: int = 10_000, seed: int = 0) -> float | None:
    """Two-sided p-value of no association: share of shuffles with at least this absolute rho, (b + 1) / (draws + 1)."""
    left, right = paired(proxy, true)
    if undefined(left, right):
        return None
    ranks = average_ranks(right)
    shuffled = np.random.default_rng(seed).permuted(np.tile(ranks, (draws, 1)), axis=1)
    found = _correlations(np.broadcast_to(average_ranks(left), shuffled.shape), shuffled)
    return float((1 + (np.abs(found) >= abs(spearman(left, right)) - 1e-12).sum()) / (draws + 1))


def _correlations(left: Floats, right: Floats) -> Floats:
    """Pearson's r row by row, NaN where a row is constant."""
    a, b = (side - side.mean(axis=1, keepdims=True) for side in (left, right))
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    found = np.full(len(a), np.nan)
    np.divide((a * b).sum(1), scale, out=found, where=scale > 0)
    return found


class PairedDraws(NamedTuple):
    """Objectives in resampled examples: ``values`` [n], ``draws`` [R, n]; the same examples for all mixtures."""

    values: Floats
    draws: Floats


class Gaps(NamedTuple):
    """How far each mixture lies below the best: [n] each; the best itself has 0, 0, 0."""

    best: int
    gap: Floats
    low: Floats
    high: Floats


def resampled(
    tables: list[tuple[Floats, NDArray[np.int64]]],
    objective: Callable[[Floats], Floats],
    draws: int = 1000,
    seed: int = 0,
) -> PairedDraws:
    """Draw examples with replacement, task by task and by group, and compute the objective of every mixture in each draw.

    ``tables``: per task the values [n mixtures, m items] (NaN: missing) and the group of each item [m]; items of one
    group are drawn together. ``objective`` takes task means [.., n, T] to [.., n].
    """
    generator = np.random.default_rng(seed)
    means, drawn = [], []
    for values, groups in tables:
        sums, counts = _by_group(values, groups)
        means.append(sums.sum(1) / counts.sum())
        times = generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=draws)
        drawn.append(times @ sums.T / (times @ counts)[:, None])
    return PairedDraws(objective(np.stack(means, -1)), objective(np.stack(drawn, -1)))


def _by_group(values: Floats, groups: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Sums [n, G] and counts [G] of items by group."""
    _, place = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(values), place.max() + 1))
    np.add.at(sums.T, place, values.T)
    return sums, np.bincount(place).astype(np.float64)


def gaps(found: PairedDraws, best: int | None = None) -> Gaps:
    """Best less each, with percentile intervals of the paired differences. ``best`` None: the highest value."""
    best = int(np.nanargmax(found.values)) if best is None else best
    drawn = found.draws[:, [best]] - found.draws
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return Gaps(best, found.values[best] - found.values, low, high)


def indistinguishable(found: Gaps) -> NDArray[np.int64]:
    """Mixtures whose paired interval against the best holds 0, the best among them."""
    return np.flatnonzero((found.low <= 0) & (found.high >= 0))

"""Significance tests of accuracy differences, and their adjustment for multiplicity. Pure numpy float64, vectorised."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, chdtrc, gammaln

from runner.nodes.contrasts import bias_scores, checked_counts

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Adjustment = Literal["bh", "by", "holm", "none"]

_CELLS = 2_000_000  # table cells summed at once by the exact test (16 MB)
# Tables as likely as the observed one count as such although rounding separates them.
_TIE = 1 + 1e-7


def pooled_others(k: ArrayLike, n: ArrayLike) -> tuple[IntArray, IntArray]:
    """Counts of the attribute's other values taken together; both [..., values]."""
    counts, totals = checked_counts(k, n)
    return counts.sum(-1, keepdims=True) - counts, totals.sum(-1, keepdims=True) - totals


def fisher_value_tests(k: ArrayLike, n: ArrayLike) -> FloatArray:
    """Two-sided Fisher exact p per value: its right and wrong images against those of the other values pooled.

    Counts [..., values] -> float64 of that shape, NaN where the value or all others are empty. Sums the probabilities of
    all tables with the same margins that are at most as likely as the observed one.
    """
    counts, totals = checked_counts(k, n)
    k_others, n_others = pooled_others(counts, totals)
    p = np.full(counts.shape, np.nan)
    defined = (totals > 0) & (n_others > 0)
    if defined.any():
        tables = np.stack(
            [counts[defined], totals[defined], (counts + k_others)[defined], (totals + n_others)[defined]], 1
        )
        distinct, back = np.unique(tables, axis=0, return_inverse=True)
        p[defined] = _fisher(distinct)[back.ravel()]
    return p


def _fisher(tables: IntArray) -> FloatArray:
    """p of rows (k, n, all right, all images), in blocks of similar support so that memory stays bounded."""
    support = np.minimum(tables[:, 1], tables[:, 2]) + 1
    order = np.argsort(support, kind="stable")
    p = np.empty(len(tables))
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and support[order[stop]] * (stop + 1 - start) <= _CELLS:
            stop += 1
        rows = order[start:stop]
        p[rows] = _fisher_block(tables[rows])
        start = stop
    return p


def _fisher_block(tables: IntArray) -> FloatArray:
    k, n, right, images = (column[:, None] for column in tables.T)
    x = np.arange(int(np.minimum(n, right).max()) + 1)[None, :]
    possible = (x <= n) & (x <= right) & (right - x <= images - n)
    inside = np.where(possible, x, k)
    terms = (inside, n - inside, right - inside, images - n - right + inside)
    log_p = -np.sum([gammaln(t + 1.0) for t in terms], axis=0)
    observed = np.take_along_axis(log_p, np.broadcast_to(k, (len(k), 1)), 1)
    weight = np.where(possible, np.exp(log_p - log_p.max(1, keepdims=True)), 0.0)
    as_rare = log_p <= observed + np.log(_TIE)
    return np.asarray(np.minimum((weight * as_rare).sum(1) / weight.sum(1), 1.0))


def chi_square_homogeneity(k: ArrayLike, n: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Whether all values of an attribute share one accuracy: (statistic, p), each [...] (the last axis is summed).

    Pearson's chi-square over non-empty groups, m - 1 degrees of freedom, no continuity correction; statistic 0 and p 1 where
    everything is right or everything is wrong; NaN with fewer than two non-empty groups.
    """
    counts, totals = checked_counts(k, n)
    images = totals.sum(-1, keepdims=True)
    rate = np.divide(counts.sum(-1, keepdims=True), images, out=np.zeros(images.shape), where=images > 0)
    variance = totals * rate * (1 - rate)
    squares = np.divide((counts - totals * rate) ** 2, variance, out=np.zeros(counts.shape), where=variance > 0)
    m = (totals > 0).sum(-1)
    statistic = np.where(m > 1, squares.sum(-1), np.nan)
    return statistic, np.where(m > 1, chdtrc(np.maximum(m - 1, 1), np.nan_to_num(statistic)), np.nan)


def permutation_test(k: ArrayLike, n: ArrayLike, *, permutations: int = 9999, seed: int = 0) -> FloatArray:
    """p per value of |phi_j| when the value labels are shuffled among the images of one attribute; counts and p [values].

    ``p_j = (1 + #{|phi*_j| >= |phi_j|}) / (permutations + 1)``. Shuffling labels of right and wrong images is drawing the
    right ones without replacement, so the counts are drawn directly from the multivariate hypergeometric distribution.
    """
    counts, totals = checked_counts(k, n)
    if counts.ndim != 1:
        raise ValueError("permutation_test takes the values of one attribute")
    observed = np.abs(bias_scores(counts, totals))
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_hypergeometric(totals, int(counts.sum()), size=permutations, method="marginals")
    hits = (np.abs(bias_scores(drawn, totals)) >= observed - 1e-9).sum(0)
    return np.where(np.isnan(observed), np.nan, (1 + hits) / (permutations + 1))


def cochran_mantel_haenszel(
    k: ArrayLike, n: ArrayLike, k_others: ArrayLike, n_others: ArrayLike
) -> tuple[float, float, int]:
    """Is being right associated with a value, whatever the target? (pooled odds ratio, p, strata used).

    Each argument holds one entry a stratum (target): counts with the value, and of the other values pooled. Strata with an
    empty side are left out. Mantel-Haenszel odds ratio (inf where nothing contradicts it), test without continuity
    correction on one degree of freedom; p is 1 where no stratum varies, NaN (both) where no stratum is left.
    """
    a, n1 = (array.astype(np.float64) for array in checked_counts(np.atleast_1d(k), np.atleast_1d(n)))
    c, n2 = (array.astype(np.float64) for array in checked_counts(np.atleast_1d(k_others), np.atleast_1d(n_others)))
    used = (n1 > 0) & (n2 > 0)
    a, n1, c, n2 = a[used], n1[used], c[used], n2[used]
    if not used.any():
        return float("nan"), float("nan"), 0
    size = n1 + n2
    right = a + c
    for_ratio, against = (a * (n2 - c) / size).sum(), ((n1 - a) * c / size).sum()
    ratio = for_ratio / against if against else (np.inf if for_ratio else np.nan)
    variance = (n1 * n2 * right * (size - right) / (size**2 * np.maximum(size - 1, 1))).sum()
    statistic = (a - n1 * right / size).sum() ** 2 / variance if variance else 0.0
    return float(ratio), float(chdtrc(1, statistic)), int(used.sum())


def mcnemar_exact(only_first: ArrayLike, only_second: ArrayLike) -> FloatArray:
    """Exact two-sided p for paired images, from the pairs where only one of the two is right; 1 where there is none.

    Binomial with probability 1/2 on the discordant pairs, arguments broadcast. Source: McNemar (1947), exact form.
    """
    b, c = np.broadcast_arrays(np.asarray(only_first, np.int64), np.asarray(only_second, np.int64))
    if np.any(b < 0) or np.any(c < 0):
        raise ValueError("counts of pairs must not be negative")
    return np.asarray(np.minimum(1.0, 2 * bdtr(np.minimum(b, c).astype(np.float64), b + c, 0.5)))


def adjust(p: ArrayLike, method: Adjustment = "bh") -> FloatArray:
    """p-values adjusted for the number of tests along the last axis; NaN entries are no tests and stay NaN.

    ``bh`` Benjamini-Hochberg, ``by`` Benjamini-Yekutieli (any dependence), ``holm`` family-wise, ``none`` unchanged. Adjusted
    values are monotone in p and capped at 1. Raises ValueError for p outside [0, 1] or another method.
    """
    values = np.asarray(p, np.float64)
    if np.any((values < 0) | (values > 1)):
        raise ValueError("p-values must lie in [0, 1]")
    if method == "none":
        return values.copy()
    order = np.argsort(values, axis=-1, kind="stable")  # NaN last
    ranked = np.take_along_axis(values, order, -1)
    tests = (~np.isnan(values)).sum(-1, keepdims=True)
    rank = np.arange(1, values.shape[-1] + 1)
    adjusted = np.empty_like(ranked)
    np.put_along_axis(adjusted, order, np.minimum(_stepped(ranked, rank, tests, method), 1.0), -1)
    return np.where(np.isnan(values), np.nan, adjusted)


def _stepped(ranked: FloatArray, rank: IntArray, tests: IntArray, method: Adjustment) -> FloatArray:
    if method == "holm":
        return np.maximum.accumulate(np.where(np.isnan(ranked), 0.0, ranked * (tests - rank + 1)), -1)
    if method not in ("bh", "by"):
        raise ValueError(f"unknown adjustment {method!r}; known: bh, by, holm, none")
    harmonic = np.where(rank <= tests, 1.0 / rank, 0.0).sum(-1, keepdims=True) if method == "by" else 1.0
    scaled = np.where(np.isnan(ranked), np.inf, ranked * tests * harmonic / rank)
    return np.asarray(np.minimum.accumulate(scaled[..., ::-1], -1)[..., ::-1])


def adjust_within(p: ArrayLike, families: ArrayLike, method: Adjustment = "bh") -> FloatArray:
    """``adjust`` separately for each distinct entry of ``families``; p and families are [tests]."""
    values, labels = np.asarray(p, np.float64), np.asarray(families)
    adjusted = np.empty_like(values)
    for label in np.unique(labels):
        adjusted[labels == label] = adjust(values[labels == label], method)
    return adjusted

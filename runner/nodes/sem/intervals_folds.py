"""Intervals for means over folds and for resampled images. Numpy.

The published interval treats every fold and query (or every repeated image) as independent; folds overlap and images
repeat, so it is too narrow. The others are ours: over folds, and over images, which are what was sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri, stdtrit

from runner.nodes.sem.metrics import class_counts, kl_divergence, max_skew

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_CELLS_AT_ONCE = 4_000_000


class Interval(NamedTuple):
    """``mean`` with limits at the asked confidence; ``n`` units that were taken as independent. Limits are NaN for n < 2."""

    mean: float
    low: float
    high: float
    n: int


class Resampled(NamedTuple):
    """Bootstrap draws float64 [draws, ...] of three figures that belong together."""

    accuracy: FloatArray
    worst: FloatArray
    gap: FloatArray


def published_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean -+ t_{n-1} s / sqrt(n) over all values (folds x queries, or pooled 0/1 answers), as published."""
    x = np.asarray(values, np.float64).ravel()
    if not x.size or np.isnan(x).any():
        raise ValueError("an interval needs at least one value and no NaN")
    if x.size < 2:
        return Interval(float(x.mean()), float("nan"), float("nan"), x.size)
    half = float(stdtrit(x.size - 1, 0.5 + confidence / 2) * x.std(ddof=1) / np.sqrt(x.size))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, x.size)


def per_fold_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The same over the means of folds [folds, ...]: queries of one fold share its images, so a fold counts once (ours).

    Folds of repeated halves overlap, so this still takes for independent what is not quite.
    """
    x = np.asarray(values, np.float64)
    return published_interval(x.reshape(len(x), -1).mean(1), confidence)


def percentile_interval(estimate: float, draws: ArrayLike, images: int, confidence: float = 0.95) -> Interval:
    """Limits at the tails of bootstrap draws [draws], which hold the estimate from all images or clusters (ours)."""
    if images < 2:
        return Interval(estimate, float("nan"), float("nan"), images)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.asarray(draws, np.float64), [tail, 1 - tail])
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate), images)


def normal_interval(estimate: float, draws: ArrayLike, images: int, confidence: float = 0.95) -> Interval:
    """Estimate -+ z times the standard deviation of the draws, not below 0 (ours).

    For divergences: resampling makes them larger on average, which shifts percentiles but hardly the spread.
    """
    half = float(ndtri(0.5 + confidence / 2) * np.nanstd(np.asarray(draws, np.float64), ddof=1))
    return Interval(estimate, max(estimate - half, 0.0), estimate + half, images)


def resample_images(
    tries: ArrayLike,
    hits: ArrayLike,
    group: ArrayLike,
    *,
    cluster: ArrayLike | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Resampled:
    """Draws of accuracy, worst group and gap when whole images are resampled (ours); [draws, methods] each.

    ``tries`` int [n]: how often each image was evaluated over the folds; ``hits`` int [methods, n]: how often it was answered
    rightly; ``group`` int [n]: its (target, bias) group. ``cluster`` int [n]: images that show the same thing, which are
    resampled together; None: each image alone. All methods see the same draws, so differences of their columns are paired.
    Clusters that agree in group, tries and hits are exchangeable: their numbers are drawn together, from the multinomial
    distribution, which is resampling one by one. Groups without an image in a draw do not count in it. A worst group whose
    share cannot vary gets draws from Jeffreys' posterior instead (see ``_widened``).
    Raises ValueError for hits beyond tries, unequal lengths, no image.
    """
    units = _units(tries, hits, group, cluster)
    rng, n = np.random.default_rng(seed), int(units.counts.sum())
    # The same stream for every method: methods that answer alike do not differ in any draw.
    streams = [np.random.default_rng([seed, 1]) for _ in units.hits]
    parts = []
    for size in _chunks(draws, max(len(units.counts), units.share.size)):
        parts.append(_rates(rng.multinomial(n, units.counts / n, size=size), units, streams))
    return Resampled(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def cluster_codes(names: Sequence[str | None]) -> IntArray:
    """Numbers by first appearance, int64 [n]: equal names share one, and every None has its own."""
    known: dict[str | int, int] = {}
    return np.array(
        [known.setdefault(i if name is None else name, len(known)) for i, name in enumerate(names)], np.int64
    )


def resample_retrieval(
    order: ArrayLike,
    evaluated: ArrayLike,
    classes: ArrayLike,
    n_classes: int,
    k: int,
    *,
    cluster: ArrayLike | None = None,
    draws: int = 200,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Draws of mean KL and mean MaxSkew over folds and queries when whole images are resampled (ours); [draws] each.

    ``order`` int [folds, q, p]: rows of the evaluated images, most similar first, all of them or the first p (a few times
    k); ``evaluated`` int [folds, b]; ``classes`` int [n]. In a draw each image counts as often as it was drawn, in every fold, for
    the population as for the k retrieved; the queries stay. ``cluster`` int [n]: images that are drawn together; None: each
    alone. Draws in which a class vanishes from a population, or a population holds fewer than k images, are NaN.
    Raises ValueError where p places of more cannot hold k drawn images.
    """
    rows, halves, labels = (np.asarray(a, np.int64) for a in (order, evaluated, classes))
    rng = np.random.default_rng(seed)
    together = np.arange(len(labels)) if cluster is None else np.unique(cluster, return_inverse=True)[1].ravel()
    clusters = int(together.max()) + 1
    one_hot = np.eye(n_classes)[labels]
    member = np.zeros((len(halves), len(labels)))
    np.put_along_axis(member, halves, 1.0, axis=1)
    in_order, whole = one_hot[rows], rows.shape[-1] == halves.shape[-1]
    figures = np.empty((draws, 2))
    for draw in range(draws):
        weight = rng.multinomial(clusters, np.full(clusters, 1 / clusters))[together]
        prior = member @ (weight[:, None] * one_hot)
        figures[draw] = _divergences(_taken(weight[rows], k, whole), in_order, prior[:, None], k)
    return figures[:, 0], figures[:, 1]


def retrieval_figures(order: ArrayLike, evaluated: ArrayLike, classes: ArrayLike, n_classes: int, k: int) -> tuple[FloatArray, FloatArray, IntArray]:  # fmt: skip
    """KL and MaxSkew [folds, q], and the counts retrieved [folds, q, C], of the first k of each order (see above)."""
    rows, halves = np.asarray(order, np.int64)[..., :k], np.asarray(evaluated, np.int64)
    retrieved = class_counts(rows, classes, n_classes)
    prior = class_counts(halves, classes, n_classes)[:, None]
    return kl_divergence(retrieved, prior), max_skew(retrieved, prior), retrieved


class _Units(NamedTuple):
    """What is drawn: ``counts`` int [units] of exchangeable clusters; sparse ``tries`` and ``hits`` of each method [units, groups].

    ``entries`` [groups]: clusters with images of the group; ``share`` [methods, groups] of right answers over all images;
    ``constant`` [methods, groups]: whether it is the same in every cluster, so that no draw can differ.
    """

    counts: IntArray
    tries: csr_array
    hits: list[csr_array]
    entries: IntArray
    share: FloatArray
    constant: NDArray[np.bool_]


def _units(tries: ArrayLike, hits: ArrayLike, group: ArrayLike, cluster: ArrayLike | None) -> _Units:
    m, right, where, together = _evaluated(tries, hits, group, cluster)
    n_groups = int(where.max()) + 1
    # An entry is what one cluster has in one group.
    pairs, entry = np.unique(together * n_groups + where, return_inverse=True)
    of_cluster, of_group = np.divmod(pairs, n_groups)
    sums = [np.bincount(entry.ravel(), own, len(pairs)).astype(np.int64) for own in (m, *right)]
    unit, kept = _exchangeable(of_cluster, np.column_stack([of_group, *sums]))
    shape = (int(unit.max()) + 1, n_groups)
    tables = [csr_array((own[kept], (unit[kept], of_group[kept])), shape=shape) for own in sums]
    counts = np.bincount(unit[np.unique(of_cluster, return_index=True)[1]], minlength=shape[0])
    rates = np.stack([own / sums[0] for own in sums[1:]])
    low, high = np.full((len(rates), n_groups), np.inf), np.full((len(rates), n_groups), -np.inf)
    for method, own in enumerate(rates):
        np.minimum.at(low[method], of_group, own)
        np.maximum.at(high[method], of_group, own)
    whole = np.stack([np.bincount(of_group, own, n_groups) for own in sums])
    return _Units(counts, tables[0], tables[1:], np.bincount(of_group), whole[1:] / whole[0], low == high)


def _evaluated(tries: ArrayLike, hits: ArrayLike, group: ArrayLike, cluster: ArrayLike | None) -> tuple[IntArray, ...]:
    """The four arrays, checked, of the images that were evaluated; groups and clusters are numbered from 0 without gaps."""
    m, where = np.asarray(tries, np.int64), np.asarray(group, np.int64)
    right = np.atleast_2d(np.asarray(hits, np.int64))
    together = np.arange(m.size) if cluster is None else np.asarray(cluster, np.int64)
    if not (m.shape == where.shape == right.shape[1:] == together.shape) or not (m > 0).any():
        raise ValueError(
            "tries, hits, group and cluster need one entry an image, and at least one image that was evaluated"
        )
    if (right < 0).any() or (right > m).any():
        raise ValueError("an image cannot be right more often than it was evaluated")
    some = m > 0
    numbers = (np.unique(own[some], return_inverse=True)[1].ravel() for own in (where, together))
    return m[some], right[:, some], *numbers


def _exchangeable(of_cluster: IntArray, what: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """The unit of each entry, and whether the entry stands for those of its unit, [entries] each.

    Clusters of one entry are one unit where ``what`` [entries, columns] is equal; every other cluster is a unit of its own.
    """
    kinds, kind = np.unique(what, axis=0, return_inverse=True)
    alone = np.bincount(of_cluster)[of_cluster] == 1
    unit = np.unique(np.where(alone, kind.ravel(), len(kinds) + of_cluster), return_inverse=True)[1].ravel()
    first = np.zeros(len(unit), bool)
    first[np.unique(unit, return_index=True)[1]] = True
    return unit, first | ~alone


def _rates(drawn: NDArray[Any], units: _Units, streams: Sequence[np.random.Generator]) -> Resampled:
    """Figures of drawn numbers of units [draws, units]."""
    total = drawn @ units.tries
    right = np.stack([drawn @ own for own in units.hits], axis=1)
    with np.errstate(invalid="ignore"):
        by_group = right / np.where(total > 0, total, np.nan)[:, None]
    accuracy = right.sum(-1) / total.sum(-1)[:, None]
    for method, stream in enumerate(streams):
        if _widened(by_group[:, method], units, method, stream):
            accuracy[:, method] = np.nansum(total * by_group[:, method], -1) / total.sum(-1)
    worst = np.nanmin(by_group, axis=-1)
    return Resampled(accuracy, worst, np.maximum(accuracy - worst, 0.0))


def _widened(by_group: FloatArray, units: _Units, method: int, stream: np.random.Generator) -> bool:
    """Draw the shares of the worst group anew where they cannot vary, in ``by_group`` [draws, groups]; True where all groups are so.

    A bootstrap of images that are all right, or all wrong, never varies, as if no other image could be otherwise. With a
    share s of its c clusters, draws are from Jeffreys' posterior Beta(c s + 1/2, c (1 - s) + 1/2). Equally bad groups count.
    """
    share = units.share[method]
    worst = share == share.min()
    if not units.constant[method][worst].all():
        return False
    right = units.entries[worst] * share[worst]
    by_group[:, worst] = stream.beta(right + 0.5, units.entries[worst] - right + 0.5, (len(by_group), int(worst.sum())))
    return bool(worst.all())


def _chunks(draws: int, width: int) -> list[int]:
    """Sizes of chunks of draws such that a chunk of ``width`` numbers a draw stays in memory."""
    size = max(1, _CELLS_AT_ONCE // max(width, 1))
    return [min(size, draws - start) for start in range(0, draws, size)]


def _taken(weight: IntArray, k: int, whole: bool) -> IntArray:
    """How often each place [..., p] is among the first k drawn images; a ``whole`` half may hold fewer."""
    reached = np.cumsum(weight, axis=-1)
    if not whole and (reached[..., -1] < k).any():
        raise ValueError(f"the order of retrieval is too short for K = {k} resampled images: pass more places")
    return np.asarray(np.diff(np.minimum(reached, k), axis=-1, prepend=0))


def _divergences(taken: IntArray, one_hot: FloatArray, prior: FloatArray, k: int) -> tuple[float, float]:
    if (prior == 0).any() or (taken.sum(-1) < k).any():
        return float("nan"), float("nan")
    retrieved = (taken[..., None, :] @ one_hot)[..., 0, :]
    return float(kl_divergence(retrieved, prior).mean()), float(max_skew(retrieved, prior).mean())

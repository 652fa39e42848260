"""Intervals for means over folds and for resampled images. Numpy.

The published interval treats every fold and query (or every repeated image) as independent; folds overlap and images
repeat, so it is too narrow. The others are ours: over folds, and over images, which are what was sampled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
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
    """Limits at the tails of bootstrap draws [draws], around the estimate from all images (ours)."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.asarray(draws, np.float64), [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), images)


def normal_interval(estimate: float, draws: ArrayLike, images: int, confidence: float = 0.95) -> Interval:
    """Estimate -+ z times the standard deviation of the draws, not below 0 (ours).

    For divergences: resampling makes them larger on average, which shifts percentiles but hardly the spread.
    """
    half = float(ndtri(0.5 + confidence / 2) * np.nanstd(np.asarray(draws, np.float64), ddof=1))
    return Interval(estimate, max(estimate - half, 0.0), estimate + half, images)


def resample_images(
    tries: ArrayLike, hits: ArrayLike, group: ArrayLike, *, draws: int = 2000, seed: int = 0
) -> Resampled:
    """Draws of accuracy, worst group and gap when whole images are resampled (ours); [draws, methods] each.

    ``tries`` int [n]: how often each image was evaluated over the folds; ``hits`` int [methods, n]: how often it was answered
    rightly; ``group`` int [n]: its (target, bias) group. All methods see the same draws, so differences of their columns
    are paired. Images with the same group, tries and hits are exchangeable: their numbers are drawn together, from the
    multinomial distribution, which is resampling image by image. Groups without an image in a draw do not count in it.
    Raises ValueError for hits beyond tries, unequal lengths, no image.
    """
    cells, counts = _cells(tries, hits, group)
    rng = np.random.default_rng(seed)
    n, methods = int(counts.sum()), cells.shape[1] - 2
    groups, place = np.unique(cells[:, 0], return_inverse=True)
    at_group = np.eye(len(groups))[place.ravel()]
    parts = []
    for size in _chunks(draws, max(len(counts), len(groups) * methods)):
        images = rng.multinomial(n, counts / n, size=size)
        parts.append(_rates(images, cells[:, 1], cells[:, 2:], at_group))
    return Resampled(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def resample_retrieval(
    order: ArrayLike,
    evaluated: ArrayLike,
    classes: ArrayLike,
    n_classes: int,
    k: int,
    *,
    draws: int = 200,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Draws of mean KL and mean MaxSkew over folds and queries when whole images are resampled (ours); [draws] each.

    ``order`` int [folds, q, p]: rows of the evaluated images, most similar first, all of them or the first p (a few times
    k); ``evaluated`` int [folds, b]; ``classes`` int [n]. In a draw each image counts as often as it was drawn, in every fold, for
    the population as for the k retrieved; the queries stay. Draws in which a class vanishes from a population are NaN.
    Raises ValueError where p places cannot hold k drawn images.
    """
    rows, halves, labels = (np.asarray(a, np.int64) for a in (order, evaluated, classes))
    rng = np.random.default_rng(seed)
    one_hot = np.eye(n_classes)[labels]
    member = np.zeros((len(halves), len(labels)))
    np.put_along_axis(member, halves, 1.0, axis=1)
    in_order, whole = one_hot[rows], rows.shape[-1] == halves.shape[-1]
    figures = np.empty((draws, 2))
    for draw in range(draws):
        weight = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)))
        prior = member @ (weight[:, None] * one_hot)
        figures[draw] = _divergences(_taken(weight[rows], k, whole), in_order, prior[:, None])
    return figures[:, 0], figures[:, 1]


def retrieval_figures(order: ArrayLike, evaluated: ArrayLike, classes: ArrayLike, n_classes: int, k: int) -> tuple[FloatArray, FloatArray, IntArray]:  # fmt: skip
    """KL and MaxSkew [folds, q], and the counts retrieved [folds, q, C], of the first k of each order (see above)."""
    rows, halves = np.asarray(order, np.int64)[..., :k], np.asarray(evaluated, np.int64)
    retrieved = class_counts(rows, classes, n_classes)
    prior = class_counts(halves, classes, n_classes)[:, None]
    return kl_divergence(retrieved, prior), max_skew(retrieved, prior), retrieved


def _cells(tries: ArrayLike, hits: ArrayLike, group: ArrayLike) -> tuple[IntArray, IntArray]:
    """Distinct (group, tries, hits of each method) of the images that were evaluated, [cells, 2 + methods], and how many."""
    m, right, where = (
        np.asarray(tries, np.int64),
        np.atleast_2d(np.asarray(hits, np.int64)),
        np.asarray(group, np.int64),
    )
    if not (m.shape == where.shape == right.shape[1:]) or not (m > 0).any():
        raise ValueError("tries, hits and group need one entry an image, and at least one image that was evaluated")
    if (right < 0).any() or (right > m).any():
        raise ValueError("an image cannot be right more often than it was evaluated")
    table = np.column_stack([where, m, right.T])[m > 0]
    cells, counts = np.unique(table, axis=0, return_counts=True)
    return cells, counts


def _rates(images: NDArray[Any], tries: IntArray, hits: IntArray, at_group: FloatArray) -> Resampled:
    """Figures of drawn numbers of images [draws, cells]."""
    total = (images * tries) @ at_group
    right = np.stack([(images * h) @ at_group for h in hits.T], axis=1)
    with np.errstate(invalid="ignore"):
        by_group = right / np.where(total > 0, total, np.nan)[:, None]
    accuracy, worst = right.sum(-1) / total.sum(-1)[:, None], np.nanmin(by_group, axis=-1)
    return Resampled(accuracy, worst, accuracy - worst)


def _chunks(draws: int, width: int) -> list[int]:
    """Sizes of chunks of draws such that a chunk of ``width`` numbers a draw stays in memory."""
    size = max(1, _CELLS_AT_ONCE // max(width, 1))
    return [min(size, draws - start) for start in range(0, draws, size)]


def _taken(weight: IntArray, k: int, whole: bool) -> IntArray:
    """How often each place [..., p] is among the first k drawn images (all of them, where a ``whole`` half holds fewer)."""
    reached = np.cumsum(weight, axis=-1)
    if not whole and (reached[..., -1] < k).any():
        raise ValueError(f"the order of retrieval is too short for K = {k} resampled images: pass more places")
    return np.asarray(np.diff(np.minimum(reached, k), axis=-1, prepend=0))


def _divergences(taken: IntArray, one_hot: FloatArray, prior: FloatArray) -> tuple[float, float]:
    if (prior == 0).any():
        return float("nan"), float("nan")
    retrieved = (taken[..., None, :] @ one_hot)[..., 0, :]
    return float(kl_divergence(retrieved, prior).mean()), float(max_skew(retrieved, prior).mean())

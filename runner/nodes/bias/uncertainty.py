"""Intervals for bias scores, and the smallest gap that an audit of a given size can see. Pure numpy float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from runner.nodes.contrasts import bias_scores, checked_counts, mover_interval

__all__ = ["caption_bootstrap", "min_detectable_gap", "mover_interval"]

FloatArray = NDArray[np.float64]


def caption_bootstrap(
    correct: Sequence[ArrayLike],
    total: Sequence[ArrayLike],
    *,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Percentile interval of phi from resampling whole captions, because images of one caption are not independent.

    ``correct[j]`` and ``total[j]`` hold the counts of value j, one entry a caption. Captions without images are left out.
    Returns (low, high), each [values]; all NaN unless at least two values have images and each of these has two or more
    captions (one caption cannot show how much captions differ).
    """
    pairs = [_with_images(c, t) for c, t in zip(correct, total, strict=True)]
    sizes = [len(t) for _, t in pairs]
    undefined = np.full(len(pairs), np.nan)
    if sum(s > 0 for s in sizes) < 2 or min((s for s in sizes if s), default=0) < 2:
        return undefined, undefined.copy()
    rng = np.random.default_rng(seed)
    drawn = np.zeros((2, replicates, len(pairs)), np.int64)
    for j, (k, n) in enumerate(pairs):
        if len(n):
            picks = rng.integers(0, len(n), (replicates, len(n)))
            drawn[:, :, j] = k[picks].sum(1), n[picks].sum(1)
    phi = bias_scores(drawn[0], drawn[1])
    tail = (1 - confidence) / 2
    low, high = (_quantile(phi, q) for q in (tail, 1 - tail))
    return low, high


def _with_images(correct: ArrayLike, total: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    k, n = checked_counts(np.atleast_1d(np.asarray(correct, np.int64)), np.atleast_1d(np.asarray(total, np.int64)))
    return k[n > 0], n[n > 0]


def _quantile(phi: FloatArray, q: float) -> FloatArray:
    empty = np.isnan(phi).all(0)
    return np.where(empty, np.nan, np.quantile(np.where(empty, 0.0, phi), q, axis=0))


def min_detectable_gap(
    n: ArrayLike,
    n_others: ArrayLike,
    accuracy: ArrayLike,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    tests: int = 1,
) -> FloatArray:
    """Smallest difference from ``accuracy`` (that of the other images) which ``n`` against ``n_others`` images reveal.

    Two-sided test of two proportions at level ``alpha / tests`` under the arcsine approximation:
    ``2 |asin sqrt(p) - asin sqrt(p')| = (z_{1-alpha/2} + z_power) sqrt(1/n + 1/n_others)``. Where a rise and a drop are both
    possible the larger gap counts, so that "larger gaps would have been seen" holds both ways. NaN where no gap can be
    seen. ``tests`` is the number of tests of the audit: a lone finding must pass the correction for all of them.
    Source: Cohen (1988), Statistical Power Analysis, ch. 6.
    """
    own, others, p = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (n, n_others, accuracy)))
    usable = (own > 0) & (others > 0) & ~np.isnan(p)
    own, others, p = (np.where(usable, a, 0.5) for a in (own, others, p))
    z = ndtri(1 - alpha / max(tests, 1) / 2) + ndtri(power)
    half = z * np.sqrt(1 / own + 1 / others) / 2
    angle = np.arcsin(np.sqrt(np.clip(p, 0, 1)))
    drop = np.where(angle - half >= 0, p - np.sin(np.maximum(angle - half, 0)) ** 2, -np.inf)
    rise = np.where(angle + half <= np.pi / 2, np.sin(np.minimum(angle + half, np.pi / 2)) ** 2 - p, -np.inf)
    gap = np.maximum(drop, rise)
    return np.where(usable & np.isfinite(gap), gap, np.nan)

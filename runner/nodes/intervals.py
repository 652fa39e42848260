"""Intervals for proportions, shared by the methods. Vectorised numpy, no I/O."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

FloatArray = NDArray[np.float64]


def wilson_interval(k: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Wilson's score interval for ``k`` successes in ``n`` trials.

    Arrays broadcast; returns ``(low, high)`` in [0, 1], NaN where ``n`` = 0. With z the normal quantile of
    ``confidence``, the limits solve (k/n - p)^2 = z^2 p (1 - p) / n. Source: Wilson (1927), JASA 22, 209-212.
    Raises ValueError where not 0 <= k <= n, or not 0 < confidence < 1.
    """
    successes, trials = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    if np.any(successes < 0) or np.any(successes > trials) or not 0 < confidence < 1:
        raise ValueError("wilson_interval needs 0 <= k <= n and 0 < confidence < 1")
    z = float(ndtri(0.5 + confidence / 2))
    known = trials > 0
    count: NDArray[Any] = np.where(known, trials, np.nan)
    centre = (successes + z * z / 2) / (count + z * z)
    half = z / (count + z * z) * np.sqrt(successes * (count - successes) / count + z * z / 4)
    # At the ends the limits are exactly 0 and 1; rounding would miss them.
    low = np.where(known & (successes == 0), 0.0, np.clip(centre - half, 0.0, 1.0))
    high = np.where(known & (successes == trials), 1.0, np.clip(centre + half, 0.0, 1.0))
    return low, high


def paired_difference_interval(
    both: ArrayLike, only_first: ArrayLike, only_second: ArrayLike, neither: ArrayLike, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Interval for p_second - p_first where both are seen on the same items (counts of the paired 2 x 2 table).

    Hybrid-score interval: Wilson limits of the two shares, joined with their correlation. Arrays broadcast; NaN where there
    is no item. Source: Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10. Raises ValueError for negative counts.
    """
    a, b, c, d = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (both, only_first, only_second, neither)))
    if np.any(np.minimum(np.minimum(a, b), np.minimum(c, d)) < 0):
        raise ValueError("counts of pairs must not be negative")
    n = a + b + c + d
    first_low, first_high = wilson_interval(a + b, n, confidence)
    second_low, second_high = wilson_interval(a + c, n, confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (a + b) / n, (a + c) / n
    correlation = _corrected_phi(a, b, c, d)
    low = _hybrid(second - second_low, first_high - first, correlation)
    high = _hybrid(second_high - second, first - first_low, correlation)
    difference = (c - b) / np.where(n > 0, n, np.nan)
    return np.maximum(difference - low, -1.0), np.minimum(difference + high, 1.0)


def _corrected_phi(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> FloatArray:
    """Correlation of the paired table with Newcombe's continuity correction; 0 where a margin is empty."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    cross = a * d - b * c
    cross = np.where(cross > 0, np.maximum(cross - (a + b + c + d) / 2, 0.0), cross)
    return np.asarray(np.divide(cross, np.sqrt(margins), out=np.zeros(margins.shape), where=margins > 0))


def _hybrid(one: FloatArray, other: FloatArray, correlation: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(np.maximum(one**2 - 2 * correlation * one * other + other**2, 0.0)))

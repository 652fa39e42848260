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

"""Whole numbers in given shares, by largest remainder. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

K = TypeVar("K")
SAME = 9
"""Decimals that count: products such as 0.3 * 10 fall short of their whole number by rounding alone."""


def quotas(weights: Any, n: int) -> NDArray[np.int64]:
    """Whole numbers [.., K] that sum to n, nearest to n * weights (rows sum to 1): largest remainders, ties to the earlier one."""
    exact = np.round(np.asarray(weights, np.float64) * n, SAME)
    least = np.floor(exact).astype(np.int64)
    missing = n - least.sum(axis=-1, keepdims=True)
    order = np.argsort(least - exact, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1, kind="stable")
    return np.asarray(least + (rank < missing))


def apportioned(total: int, shares: Mapping[K, float]) -> dict[K, int]:
    """``quotas`` by name, in the order of ``shares``."""
    return {name: int(count) for name, count in zip(shares, quotas(list(shares.values()), total), strict=True)}

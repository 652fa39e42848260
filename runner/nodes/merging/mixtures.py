"""Points of the simplex: which shares of K domains to try, and how many records a share stands for.

Everything here is float64 numpy of shape [n, K]; rows are >= 0 and sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
SAME = 9
"""Decimals to which two mixtures must agree to count as one."""


def lattice(k: int, q: int, interior: bool = True) -> Weights:
    """All points with coordinates i/q, lexicographic; ``interior``: every share at least 1/q.

    C(q-1, K-1) points inside, C(q+K-1, K-1) with the boundary (2602.04937, the lattices for K = 2 and 3 with q = 8).
    Raises ``ValueError`` for K < 2, or q < K inside.
    """
    _need_domains(k)
    low = 1 if interior else 0
    free = q - k * low
    if free < 0:
        raise ValueError(f"a lattice of {q} steps has no point inside a simplex of {k} domains; it needs q >= {k}")
    bars = np.array(list(combinations(range(free + k - 1), k - 1)), np.int64).reshape(-1, k - 1)
    edges = np.hstack([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), free + k - 1)])
    return (np.diff(edges, axis=1) - 1 + low) / q


def lattice_size(k: int, q: int, interior: bool = True) -> int:
    """How many points ``lattice`` has, without making them."""
    return math.comb(q - 1, k - 1) if interior else math.comb(q + k - 1, k - 1)


def dirichlet(
    k: int, n: int, alpha: float = 1.0, seed: int = 42, decimals: int | None = 4, min_weight: float = 0.0
) -> Weights:
    """n draws of Dirichlet(alpha, ..., alpha) by NumPy's ``default_rng(seed)``, rounded, the last share taking up the rest.

    With the defaults, K = 4 and n = 20 these are the four-domain mixtures of 2602.04937. ``min_weight``: draws are
    shrunk towards the centre so that no share is below it (ours). ``decimals`` None: not rounded.
    """
    _need_domains(k)
    if not 0 <= min_weight * k < 1:
        raise ValueError(f"min_weight {min_weight} leaves no room for {k} domains; it must be below {1 / k:g}")
    drawn = np.random.default_rng(seed).dirichlet(np.full(k, alpha), size=n)
    return _rounded(min_weight + (1 - k * min_weight) * drawn, decimals)


def sobol(k: int, n: int, seed: int = 0) -> Weights:
    """n low-discrepancy points: the gaps between the sorted coordinates of scrambled Sobol points in K-1 dimensions."""
    from scipy.stats import qmc

    _need_domains(k)
    sampler = qmc.Sobol(d=k - 1, scramble=True, rng=np.random.default_rng(seed))
    points = np.sort(sampler.random_base2(max(0, math.ceil(math.log2(n))))[:n], axis=1)
    return np.diff(np.hstack([np.zeros((n, 1)), points, np.ones((n, 1))]), axis=1)


def corners_and_centroids(k: int) -> Weights:
    """The simplex-centroid design: for every set of domains their equal mixture; 2^K - 1 points, small sets first."""
    _need_domains(k)
    sets = [chosen for size in range(1, k + 1) for chosen in combinations(range(k), size)]
    points = np.zeros((len(sets), k))
    for row, chosen in zip(points, sets, strict=True):
        row[list(chosen)] = 1 / len(chosen)
    return points


def around(center: Sequence[float], radius: float, n: int, seed: int = 0) -> Weights:
    """n points near ``center``: ``(1 - radius) * center + radius * d`` with d from the flat Dirichlet (ours)."""
    middle = checked(np.asarray([center], np.float64))
    if not 0 < radius <= 1:
        raise ValueError(f"radius {radius} must lie in (0, 1]")
    return (1 - radius) * middle + radius * np.random.default_rng(seed).dirichlet(np.ones(middle.shape[1]), size=n)


def uniform(k: int) -> Weights:
    """The equal mixture, [1, K]."""
    return np.full((1, k), 1 / k)


def one_hot(k: int) -> Weights:
    """The corners, [K, K]."""
    return np.eye(k)


def checked(weights: Any, tolerance: float = 1e-6) -> Weights:
    """``weights`` as [n, K] rows that sum to 1 exactly. Raises ``ValueError`` naming the first row that is no mixture."""
    rows = np.atleast_2d(np.asarray(weights, np.float64))
    for number, row in enumerate(rows):
        if not np.isfinite(row).all() or (row < 0).any() or abs(row.sum() - 1) > tolerance:
            shown = ", ".join(f"{value:g}" for value in row)
            raise ValueError(f"mixture {number} ({shown}) wants shares >= 0 that sum to 1; they sum to {row.sum():g}")
    return np.asarray(rows / rows.sum(axis=1, keepdims=True), np.float64)


def distinct(weights: Weights) -> NDArray[np.int64]:
    """Row numbers of the first of each mixture, in order."""
    _, first = np.unique(np.round(weights, SAME), axis=0, return_index=True)
    return np.sort(first)


def entropy(weights: Weights) -> NDArray[np.float64]:
    """Shannon entropy of each row, in nats, [n]."""
    logs = np.log(weights, where=weights > 0, out=np.zeros_like(weights))
    return np.asarray(np.maximum(-(weights * logs).sum(axis=1), 0.0), np.float64)


def _rounded(weights: Weights, decimals: int | None) -> Weights:
    if decimals is None:
        return weights
    rows = np.round(weights, decimals)
    rows[:, -1] = np.maximum(0.0, np.round(1 - rows[:, :-1].sum(axis=1), decimals))
    return rows / rows.sum(axis=1, keepdims=True) if (np.abs(rows.sum(axis=1) - 1) > 1e-9).any() else rows


def _need_domains(k: int) -> None:
    if k < 2:
        raise ValueError(f"a mixture wants at least 2 domains, not {k}")

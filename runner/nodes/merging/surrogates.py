"""Fits of an objective over the simplex: Scheffe's quadratic mixture model.

f(w) = sum_i b_i w_i + sum_{i<j} b_ij w_i w_j; natural here, since the loss of a merged model is second-order in w to
leading order (2602.04937). Float64 numpy throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RIDGE = 1e-6
MOST_DOMAINS = 12
"""Domains up to which the maximum is found exactly, face by face of the simplex: 2^K - 1 small systems."""


class Quadratic(NamedTuple):
    """``coefficients`` [K + K(K-1)/2]: the b_i, then the b_ij with i < j in lexicographic order. ``loo_r2``: leave-one-out R
    squared, None where a point fits itself (no more points than coefficients) or all values are equal."""

    coefficients: Floats
    loo_r2: float | None
    domains: int

    def predict(self, weights: Floats) -> Floats:
        """Values at weights [n, K] -> [n]."""
        return np.asarray(features(weights) @ self.coefficients)


class Peak(NamedTuple):
    """The highest point: ``weights`` [K] and the value predicted there."""

    weights: Floats
    value: float


def quadratic_row(task: str, weights: Floats, values: Floats, round_: int = 0) -> dict[str, Any] | None:
    """Row of ``dmo_surrogate`` for values [n] (higher is better, NaN: missing) at weights [n, K]; None where no value is known.

    Without an exact maximum (more than ``MOST_DOMAINS`` domains) the row has none.
    """
    known = ~np.isnan(values)
    if not known.any():
        return None
    fit = fit_quadratic(weights[known], values[known])
    peak = highest(fit) if fit.domains <= MOST_DOMAINS else None
    return {
        "round": round_, "task": task, "model": "scheffe2", "coefficients": fit.coefficients.tolist(), "loo_r2": fit.loo_r2,
        "argmax": None if peak is None else peak.weights.tolist(), "value": None if peak is None else peak.value,
        "n": int(known.sum()),
    }  # fmt: skip


def features(weights: Floats) -> Floats:
    """[n, K] -> [n, K + K(K-1)/2]: the shares, then their products."""
    left, right = np.triu_indices(weights.shape[1], 1)
    return np.hstack([weights, weights[:, left] * weights[:, right]])


def fit_quadratic(weights: Floats, values: Floats, ridge: float = RIDGE) -> Quadratic:
    """Ridge least squares of ``values`` [n] on the features of ``weights`` [n, K]. Raises ``ValueError`` without points."""
    if not len(values):
        raise ValueError("a fit wants at least one mixture with a score")
    x = features(weights)
    solver = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T)
    fitted = solver @ values
    return Quadratic(fitted, _loo_r2(x @ solver, values, values - x @ fitted, x.shape[1]), weights.shape[1])


def _loo_r2(hat: Floats, values: Floats, residuals: Floats, free: int) -> float | None:
    total = float(((values - values.mean()) ** 2).sum())
    if len(values) <= free or total == 0:
        return None
    return float(1 - ((residuals / (1 - np.diag(hat))) ** 2).sum() / total)


def highest(fit: Quadratic) -> Peak:
    """The maximum over the simplex, exact: the best of the stationary points of all its faces and of its corners.

    Raises ``ValueError`` for more than ``MOST_DOMAINS`` domains.
    """
    if fit.domains > MOST_DOMAINS:
        raise ValueError(f"the exact maximum is found for at most {MOST_DOMAINS} domains, not {fit.domains}")
    points = np.stack(list(_candidates(fit)))
    values = fit.predict(points)
    best = int(np.argmax(values))
    return Peak(points[best], float(values[best]))


def _candidates(fit: Quadratic) -> Iterator[Floats]:
    k = fit.domains
    linear, products = fit.coefficients[:k], np.zeros((k, k))
    products[np.triu_indices(k, 1)] = fit.coefficients[k:]
    hessian = products + products.T
    for size in range(1, k + 1):
        for face in combinations(range(k), size):
            inside = _stationary(hessian[np.ix_(face, face)], linear[list(face)])
            if inside is not None:
                point = np.zeros(k)
                point[list(face)] = inside
                yield point


def _stationary(hessian: Floats, linear: Floats) -> Floats | None:
    """Where the gradient is the same along all shares of a face, by its Lagrange conditions; None outside the face."""
    size = len(linear)
    system = np.block([[hessian, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
    solved = np.linalg.lstsq(system, np.append(-linear, 1.0), rcond=None)[0][:size]
    if (solved < -1e-12).any() or abs(solved.sum() - 1) > 1e-6:
        return None
    kept = np.maximum(solved, 0)
    return np.asarray(kept / kept.sum())

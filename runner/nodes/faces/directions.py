"""Directions in the generator's style space that change one measured thing and hold others. Pure numpy float64.

Styles are whitened by the covariance of the generator's own styles, so that the shortest edit is the most ordinary one, and
ridge regression holds back most where the generator varies least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
RIDGES = tuple(10.0**power for power in np.arange(0.0, 4.1, 0.5))
"""Penalties that are tried."""


@dataclass(frozen=True)
class Whitening:
    """Styles w [n, d] <-> whitened z [n, r]: ``w = mean + z factor``, unit covariance over the generator's styles."""

    mean: FloatArray
    factor: FloatArray
    inverse: FloatArray

    def to_white(self, styles: ArrayLike) -> FloatArray:
        """[n, d] -> [n, r]."""
        return np.asarray((np.asarray(styles, np.float64) - self.mean) @ self.inverse)

    def step(self, direction: ArrayLike) -> FloatArray:
        """A whitened direction [r] as a displacement of a style [d]."""
        return np.asarray(np.asarray(direction, np.float64) @ self.factor)


def whitening(styles: ArrayLike, share: float = 0.99) -> Whitening:
    """From many styles [n, d]: the principal axes that hold ``share`` of the variance, each scaled to variance 1."""
    values = np.asarray(styles, np.float64)
    mean = values.mean(0)
    variance, axes = np.linalg.eigh(np.cov(values - mean, rowvar=False))
    variance, axes = variance[::-1], axes[:, ::-1]
    rank = int(np.searchsorted(np.cumsum(variance) / variance.sum(), share)) + 1
    scale = np.sqrt(variance[:rank])
    return Whitening(mean, (axes[:, :rank] * scale).T, axes[:, :rank] / scale)


def standardised(values: ArrayLike) -> FloatArray:
    """Columns of [n, m] with mean 0 and standard deviation 1; a constant column becomes 0."""
    columns = np.asarray(values, np.float64)
    deviation = columns.std(0)
    return np.asarray((columns - columns.mean(0)) / np.where(deviation > 0, deviation, 1.0))


def ridge_slopes(
    white: ArrayLike, measures: ArrayLike, penalties: tuple[float, ...] = RIDGES
) -> tuple[FloatArray, FloatArray]:
    """Slopes [m, r] of standardised measures [n, m] on whitened styles [n, r], and each fit's R^2 [m] on faces left out.

    The penalty of each measure is the one with the least leave-one-out error, in closed form: with the hat matrix H the
    residual of a face that was left out is ``(y - Hy)_i / (1 - H_ii)``. Source: Golub, Heath & Wahba (1979), section 1.
    """
    x, y = np.asarray(white, np.float64), standardised(measures)
    x = x - x.mean(0)
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    errors = []
    for penalty in penalties:
        shrink = singular**2 / (singular**2 + penalty)
        hat = ((left * shrink) * left).sum(1) + 1 / len(x)
        residual = (y - left @ (shrink[:, None] * (left.T @ y))) / (1 - hat)[:, None]
        errors.append((residual**2).mean(0))
    best = np.argmin(errors, 0)
    chosen = np.asarray(penalties)[best]
    weights = singular[:, None] / (singular[:, None] ** 2 + chosen)
    slopes = (right.T @ (weights * (left.T @ y))).T
    return slopes, 1 - np.min(errors, 0) / np.maximum(y.var(0), 1e-12)


def edit_direction(slopes: ArrayLike, wanted: int, held: list[int]) -> FloatArray:
    """The shortest whitened step [r] that moves measure ``wanted`` by one standard deviation and, as far as the linear fit
    knows, none of ``held``: its slope without its part in the span of theirs, scaled.

    Raises ValueError where nothing is left: the wanted measure is a mixture of the held ones.
    """
    rows = np.asarray(slopes, np.float64)
    slope = rows[wanted]
    if held:
        basis, singular, _ = np.linalg.svd(rows[held].T, full_matrices=False)
        basis = basis[:, singular > 1e-9 * max(singular.max(), 1e-300)]
        slope = slope - basis @ (basis.T @ slope)
    gain = float(slope @ rows[wanted])
    if gain <= 1e-9 * float(rows[wanted] @ rows[wanted]) or gain == 0:
        raise ValueError("the wanted measure cannot be told from those that are to be held")
    return np.asarray(slope / gain)


def random_direction(length: float, size: int, seed: int, against: ArrayLike) -> FloatArray:
    """A placebo: a random whitened step [size] of the given length, without any part along the slopes ``against`` [m, size]."""
    step = np.random.default_rng(seed).standard_normal(size)
    basis = np.linalg.svd(np.asarray(against, np.float64).T, full_matrices=False)[0]
    step = step - basis @ (basis.T @ step)
    return np.asarray(step * (length / np.linalg.norm(step)))

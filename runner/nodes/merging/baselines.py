"""Mixtures chosen by regression from many small training runs, to compare merged stand-ins with.

These are other people's methods as this project knows them from general reading, not re-read in their sources: RegMix
(2407.01492), data mixing laws, DoReMi (2305.10429). Float64 numpy; scores higher is better unless said to be losses.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FOLDS = 20
"""Most parts of a cross-validation; fewer runs are left out one by one."""


class Fitted(NamedTuple):
    """A regression of scores on weights: ``model`` (of scikit-learn), and its R squared on runs left out (None: not defined)."""

    model: Any
    left_out_r2: float | None


def regmix(
    weights: Floats,
    values: Floats,
    kind: Literal["linear", "boosting"] = "linear",
    seed: int = 0,
    *,
    validate: bool = True,
) -> Fitted:
    """Fit scores [n] of small runs on their mixtures [n, K]: ordinary least squares, or boosted trees.

    ``validate``: also fit without some runs, to say how well they are predicted.

    Raises ``ValueError`` for fewer than three runs.
    """
    if len(values) < 3:
        raise ValueError(f"a regression over mixtures wants at least 3 scored ones, not {len(values)}")
    quality = _left_out(weights, values, kind, seed) if validate else None
    return Fitted(_regressor(kind, seed).fit(weights, values), quality)


def _regressor(kind: str, seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.linear_model import LinearRegression

    # Shares sum to 1: an intercept would be one coefficient too many.
    return LinearRegression(fit_intercept=False) if kind == "linear" else GradientBoostingRegressor(random_state=seed)


def _left_out(weights: Floats, values: Floats, kind: str, seed: int) -> float | None:
    total = float(((values - values.mean()) ** 2).sum())
    if total == 0 or (kind == "linear" and len(values) <= weights.shape[1]):
        return None
    from sklearn.model_selection import KFold, cross_val_predict

    folds = KFold(min(len(values), FOLDS), shuffle=True, random_state=seed)
    predicted = cross_val_predict(_regressor(kind, seed), weights, values, cv=folds)
    return float(1 - ((values - predicted) ** 2).sum() / total)


def regmix_choice(fitted: Fitted, k: int, simulated: int = 100_000, top: int = 100, seed: int = 0) -> Floats:
    """Simulate mixtures of the flat Dirichlet, predict all, and average the best ``top``: [K]."""
    drawn = np.random.default_rng(seed).dirichlet(np.ones(k), simulated)
    predicted = fitted.model.predict(drawn)
    mean = drawn[np.argsort(-predicted, kind="stable")[:top]].mean(0)
    return np.asarray(mean / mean.sum(), np.float64)


class MixingLaw(NamedTuple):
    """L(w) = c + k exp(sum_j t_j w_j) of one domain's loss; ``residual``: root mean squared error of the fit."""

    c: float
    k: float
    t: Floats
    residual: float

    def predict(self, weights: Floats) -> Floats:
        """Losses at weights [n, K] -> [n]."""
        return np.asarray(self.c + self.k * np.exp(weights @ self.t))


def fit_mixing_law(weights: Floats, losses: Floats, starts: int = 8, seed: int = 0) -> MixingLaw:
    """Least squares over c, log k and t from several starts; K + 1 free numbers, since a shift of t is a scale of k.

    Raises ``ValueError`` with fewer than K + 1 runs.
    """
    from scipy.optimize import least_squares

    n, k = weights.shape
    if n < k + 1:
        raise ValueError(f"a mixing law of {k} domains wants at least {k + 1} runs, not {n}")
    low, spread = float(losses.min()), float(np.ptp(losses)) or 1e-6
    generator = np.random.default_rng(seed)

    def miss(x: Floats) -> Floats:
        return np.asarray(x[0] + np.exp(np.clip(weights @ x[1:], -50, 50)) - losses)

    first = [np.append(low - spread * a, np.full(k, np.log(spread))) for a in (0.1, 1.0)]
    further = [
        np.append(low - spread * generator.random(), np.log(spread) + generator.normal(0, 1, k)) for _ in range(starts)
    ]
    found = min((least_squares(miss, x) for x in first + further), key=lambda r: r.cost)
    scale = float(found.x[1:].mean())
    return MixingLaw(float(found.x[0]), float(np.exp(scale)), found.x[1:] - scale, float(np.sqrt(2 * found.cost / n)))


def doremi(losses: Floats, reference: Floats, step: float = 1.0, smoothing: float = 1e-3) -> Floats:
    """Weights [K] from losses a domain over rounds of training [R, K] and a reference model's [K].

    w <- w exp(step * max(loss - reference, 0)), scaled to sum 1 and mixed with the uniform one by ``smoothing``; the mean over
    rounds is returned, starting from the uniform mixture.
    """
    rounds, k = losses.shape
    weights, total = np.full(k, 1 / k), np.zeros(k)
    for excess in np.maximum(losses - reference, 0):
        raised = weights * np.exp(step * (excess - excess.max()))
        weights = (1 - smoothing) * raised / raised.sum() + smoothing / k
        total += weights
    return np.asarray(total / rounds)

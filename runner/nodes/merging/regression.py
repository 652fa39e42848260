"""Predictions of mixtures' scores from small training runs: each mixture by a fit that has not seen it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runner.nodes.merging import baselines
from runner.nodes.merging.validity import ScoreTable

Floats = NDArray[np.float64]
Model = Literal["regmix_linear", "regmix_boosting", "mixing_law"]
SAME = 1e-6


def predictions(runs: ScoreTable, weights: Floats, model: Model, seed: int = 0) -> Floats:
    """Scores [n, T] of mixtures [n, K], task by task; a mixture that is among the runs is predicted from the others.

    Raises ``ValueError`` where a task has too few runs for the model.
    """
    found = np.full((len(weights), len(runs.tasks)), np.nan)
    for task in range(len(runs.tasks)):
        known = ~np.isnan(runs.values[:, task])
        x, y = runs.weights[known], runs.values[known, task]
        everything = _fit(x, y, model, seed)
        for i, point in enumerate(weights):
            others = np.abs(x - point).sum(1) > SAME
            fitted = everything if others.all() else _fit(x[others], y[others], model, seed)
            found[i, task] = fitted(point[None])[0]
    return found


def _fit(weights: Floats, values: Floats, model: Model, seed: int) -> Callable[[Floats], Floats]:
    if model == "mixing_law":
        return baselines.fit_mixing_law(weights, values, seed=seed).predict
    kind: Literal["linear", "boosting"] = "linear" if model == "regmix_linear" else "boosting"
    predict: Callable[[Floats], Floats] = baselines.regmix(weights, values, kind, seed, validate=False).model.predict
    return predict


def score_rows(
    ids: list[str], tasks: list[dict[str, Any]], predicted: Floats, runs: int, kind: str
) -> list[dict[str, Any]]:
    """Rows of ``dmo_score``; ``n`` counts the runs behind each prediction."""
    return [
        {"mixture_id": name, "kind": kind, "task": task["task"], "key": task["key"], "value": float(value), "n": runs, "status": "done"}
        for name, row in zip(ids, predicted, strict=True)
        for task, value in zip(tasks, row, strict=True)
    ]  # fmt: skip

"""Two studies of SEM: how much of an attribute leaks into a task's probe, and content kept against bias neutralised.

Source: Guimard et al. (2026): the disentanglement study (figure 2) and the qualitative study. Numpy, scikit-learn's probes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from runner.nodes.sem.checks import unit_rows

FloatArray = NDArray[np.float64]
LeakRule = Literal["clamped", "official"]
_ITERATIONS = 1000


class Disentanglement(NamedTuple):
    """Mean accuracies of three probes over the folds, D = 1 - (acc_leak - chance) / (acc_bias - chance), and its spread.

    ``acc_main``: the task from the features; ``acc_bias``: the attribute from the features; ``acc_leak``: the attribute from the
    logits of the task's probe. ``d`` and ``d_std`` are NaN where the attribute cannot be read from the features.
    """

    acc_main: float
    acc_bias: float
    acc_leak: float
    d: float
    d_std: float


class Preservation(NamedTuple):
    """``cp``: cosine of debiased texts to the *original* neutral ones; ``bn``: cosine among an item's debiased versions."""

    cp: float
    bn: float


def disentanglement(
    features: ArrayLike,
    task: ArrayLike,
    attribute: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    folds: int = 5,
    seed: int = 42,
    rule: LeakRule = "clamped",
) -> Disentanglement:
    """Probe features [n, d] for a task [n] (profession), an attribute [n] (gender), and the attribute through the task's logits.

    Logistic regressions on standardised features, ``folds`` folds stratified by the task. ``groups`` [n] (such as the caption
    template) keeps rows of one group in one fold (ours): otherwise templates of the test rows were trained on.
    Raises ValueError for fewer than two values, fewer rows of one task than folds, unequal lengths, NaN.
    """
    x, y, a = np.asarray(features), np.asarray(task), np.asarray(attribute)
    _check_study(x, y, a, folds)
    accuracies = np.array(
        [_probe_fold(x, y, a, train, test, seed) for train, test in _split(x, y, groups, folds, seed)]
    )
    mean, std = accuracies.mean(0), accuracies.std(0)
    d, d_std = leak_score(mean[1], mean[2], 1 / len(np.unique(a)), std[1], std[2], rule)
    return Disentanglement(float(mean[0]), float(mean[1]), float(mean[2]), d, d_std)


def leak_score(
    acc_bias: float, acc_leak: float, chance: float, bias_std: float, leak_std: float, rule: LeakRule = "clamped"
) -> tuple[float, float]:
    """D = 1 - E with E = (acc_leak - chance) / (acc_bias - chance), and |E| sqrt((s_A / A)^2 + (s_B / B)^2).

    ``official`` gives 0 as soon as one of the differences is not positive, as published. ``clamped`` (ours): no leak (A <= 0) is
    D = 1, D stays in [0, 1], and an attribute that the features do not hold (B <= 0) is NaN.
    """
    a, b = acc_leak - chance, acc_bias - chance
    if rule == "official" and (a <= 0 or b <= 0):
        return 0.0, 0.0
    if b <= 0:
        return float("nan"), float("nan")
    # |E| s_A / |A| = s_A / B, which is also defined where nothing leaks.
    spread = float(np.hypot(leak_std / b, a / b * bias_std / b))
    d = 1 - a / b
    return (d if rule == "official" else float(np.clip(d, 0.0, 1.0))), spread


def cp_bn(debiased: Tensor, neutral: Tensor) -> Preservation:
    """Content preservation and bias neutralisation of debiased texts [p, g, d] (item x attribute value).

    ``neutral`` [p, d]: the *original* embeddings of the items' neutral texts. CP = mean cos(z_pg, neutral_p); BN = mean over items
    and pairs of values of cos(z_pg, z_pg'). Raises ValueError for other shapes, fewer than two values, NaN, a norm of 0.
    """
    if debiased.ndim != 3 or debiased.shape[1] < 2 or debiased.shape[::2] != neutral.shape:
        raise ValueError(
            f"texts must be [p, at least 2, d] and neutral ones [p, d], not {tuple(debiased.shape)} and {tuple(neutral.shape)}"
        )
    z = unit_rows("debiased texts", debiased.flatten(0, 1)).view(debiased.shape)
    kept = (z * unit_rows("neutral texts", neutral)[:, None]).sum(-1)
    first, second = torch.triu_indices(z.shape[1], z.shape[1], offset=1, device=z.device)
    return Preservation(float(kept.mean()), float((z[:, first] * z[:, second]).sum(-1).mean()))


def principal_plane(vectors: Tensor, components: int = 2) -> Tensor:
    """Coordinates [n, components] of unit rows [n, d] on their first principal components, float64.

    Sign: the entry of each component with the largest absolute value is positive, so that pictures of it can be compared.
    Library only: no step of a spec draws it.
    """
    rows = unit_rows("vectors", vectors)
    centred = rows - rows.mean(0)
    _, _, vh = torch.linalg.svd(centred, full_matrices=False)
    axes = vh[:components]
    peaks = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    coordinates: Tensor = centred @ (axes * peaks.sign()).mT
    return coordinates


def _split(
    x: NDArray[Any], y: NDArray[Any], groups: ArrayLike | None, folds: int, seed: int
) -> Iterator[tuple[Any, Any]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if groups is None:
        return iter(StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y))
    labels = np.asarray(groups)
    if labels.shape != y.shape or len(np.unique(labels)) < folds:
        raise ValueError(f"groups need one entry for each of {len(y)} rows and at least {folds} distinct values")
    return iter(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(x, y, labels))


def _probe_fold(
    x: NDArray[Any], y: NDArray[Any], a: NDArray[Any], train: Any, test: Any, seed: int
) -> tuple[float, float, float]:
    """Accuracies (task, attribute, attribute through the task's logits) on the rows ``test``."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def probe() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS, random_state=seed))

    main, bias = probe().fit(x[train], y[train]), probe().fit(x[train], a[train])
    # Two tasks have one column of logits.
    seen, held = (np.reshape(main.decision_function(x[rows]), (len(rows), -1)) for rows in (train, test))
    leak = probe().fit(seen, a[train])
    return main.score(x[test], y[test]), bias.score(x[test], a[test]), leak.score(held, a[test])


def _check_study(x: NDArray[Any], y: NDArray[Any], a: NDArray[Any], folds: int) -> None:
    if x.ndim != 2 or y.shape != (len(x),) or a.shape != (len(x),):
        raise ValueError(
            f"the study needs features [n, d], task [n] and attribute [n], not {x.shape}, {y.shape}, {a.shape}"
        )
    if not np.isfinite(x).all():
        raise ValueError("features contain NaN or infinity")
    values, counts = np.unique(y, return_counts=True)
    if len(values) < 2 or len(np.unique(a)) < 2:
        raise ValueError("task and attribute need at least two values each")
    if folds < 2 or counts.min() < folds:
        raise ValueError(
            f"{folds} folds need at least 2 folds and as many rows of each task; the rarest has {counts.min()}"
        )

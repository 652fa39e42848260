"""Ridge probes: one factorisation for all attributes that share their rows. Pure torch, float64.

W = (Z'Z/n + lambda I)^-1 Z'(y - ybar)/n with Z standardised on the rows of the attribute (population std); score = Z W + ybar.
lambda is per sample: repeating every row changes nothing. The default 0.01 and the grid are definitions of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from runner.nodes.leakage.linear_probe import (
    LinearProbe,
    Moments,
    RowGroup,
    checked,
    empty_probe,
    fold,
    moments,
    row_groups,
)
from runner.nodes.leakage.ranking import auroc

PENALTY = 0.01
GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


class _Normal(NamedTuple):
    """Normal equations of a group: ``local`` moments, covariance [D, D] and Z'(y - ybar)/n [D, k] in local units, ``rate`` [k]."""

    local: Moments
    covariance: Tensor
    moment: Tensor
    rate: Tensor


class _Gram:
    """Gram matrix of all used rows; that of a group takes the rows it lacks off, where that is less work than starting anew."""

    def __init__(self, features: Tensor, used: Tensor) -> None:
        self.shared = moments(features[used]) if bool(used.any()) else moments(features)
        self.rows = (features - self.shared.mean) / self.shared.scale
        self.used = used
        self._all: Tensor | None = None

    def of(self, rows: Tensor) -> Tensor:
        """Z'Z [D, D] of these rows, in shared units."""
        lacking = self.used.clone()
        lacking[rows] = False
        if 2 * int(lacking.sum()) >= len(rows):
            return self.rows[rows].T @ self.rows[rows]
        if self._all is None:
            self._all = self.rows[self.used].T @ self.rows[self.used]
        others = self.rows[lacking]
        return self._all - others.T @ others if len(others) else self._all


def _normal(gram: _Gram, group: RowGroup, targets: Tensor) -> _Normal:
    own, n = gram.rows[group.rows], len(group.rows)
    mean, spread = own.mean(0), own.std(0, correction=0)
    spread = torch.where(spread * gram.shared.scale < 1e-8, 1 / gram.shared.scale, spread)
    y = targets[group.rows][:, group.columns]
    covariance = (gram.of(group.rows) / n - mean[:, None] * mean) / (spread[:, None] * spread)
    moment = own.T @ (y - y.mean(0)) / n / spread[:, None]
    local = Moments(gram.shared.mean + gram.shared.scale * mean, gram.shared.scale * spread)
    return _Normal(local, covariance, moment, y.mean(0))


def ridge_probe(features: Tensor, targets: Tensor, valid: Tensor | None = None, lam: float = PENALTY) -> LinearProbe:
    """Fit all attributes: features [n, D], targets [n, A] of 0 and 1, valid [n, A] (None: all) -> weights [D, A].

    One Cholesky factorisation for each distinct column of ``valid``. Rows that no attribute uses may hold NaN. Raises
    ValueError for lam <= 0 and as ``checked``.
    """
    if lam <= 0:
        raise ValueError(f"the penalty of a ridge probe must be above 0, not {lam}")
    features, targets, valid = checked(features, targets, valid)
    gram = _Gram(features, valid.any(1))
    probe = empty_probe(gram.shared, targets.shape[1])
    for group in row_groups(valid):
        normal = _normal(gram, group, targets)
        system = normal.covariance + lam * torch.eye(len(normal.moment)).to(normal.moment)
        weight = torch.cholesky_solve(normal.moment, torch.linalg.cholesky(system))
        fold(probe, group, normal.local, weight, normal.rate)
    return probe


class ChosenRidge(NamedTuple):
    """A probe, and the penalty of each attribute, float64 [A]; NaN where there was no row."""

    probe: LinearProbe
    penalty: Tensor


def ridge_grid(
    features: Tensor,
    targets: Tensor,
    valid: Tensor | None,
    held_out: tuple[Tensor, Tensor, Tensor],
    grid: Sequence[float] = GRID,
) -> ChosenRidge:
    """Ridge probes with the penalty of each attribute chosen by AUROC on ``held_out`` (features, targets, valid).

    One eigendecomposition for each distinct column of ``valid`` serves the whole grid. Equal AUROC: the largest penalty; an
    attribute without both classes among the held-out rows takes the middle of the grid. Raises ValueError as ``ridge_probe``.
    """
    if not grid or min(grid) <= 0:
        raise ValueError("a grid of penalties needs values above 0")
    values = sorted(grid, reverse=True)
    features, targets, valid = checked(features, targets, valid)
    gram = _Gram(features, valid.any(1))
    probe = empty_probe(gram.shared, targets.shape[1])
    penalty = torch.full_like(probe.intercept, torch.nan)
    for group in row_groups(valid):
        normal = _normal(gram, group, targets)
        weight, picked = _choose(
            normal, values, tuple(t if i == 0 else t[:, group.columns] for i, t in enumerate(held_out))
        )
        penalty[group.columns] = picked
        fold(probe, group, normal.local, weight, normal.rate)
    return ChosenRidge(probe, penalty)


def _choose(normal: _Normal, values: Sequence[float], held_out: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Weights [D, k] and penalty [k] of the best of the grid (``values`` from large to small)."""
    spread, axes = torch.linalg.eigh(normal.covariance)
    turned = axes.T @ normal.moment
    x, y, kept = held_out
    seen = torch.where(kept.bool().any(1, keepdim=True), x, 0).to(axes)
    seen = (seen - normal.local.mean) / normal.local.scale @ axes
    solved = [turned / (spread.clamp_min(0)[:, None] + lam) for lam in values]
    quality = torch.stack([auroc(seen @ w, y, kept) for w in solved])
    best = quality.nan_to_num(-1).argmax(0)
    best = torch.where(quality[0].isnan(), len(values) // 2, best)
    weight = torch.stack(solved).gather(0, best.expand(1, len(turned), -1))[0]
    return axes @ weight, weight.new_tensor(values)[best]

"""What linear probes share: standardisation, and attributes grouped by the rows that are valid for them. Pure torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

FLAT = 1e-8
"""Standard deviations below this count as 1: the column is constant."""


class LinearProbe(NamedTuple):
    """score = (x - mean) / scale @ weight + intercept. ``mean``, ``scale`` [D]; ``weight`` [D, A]; ``intercept`` [A]; float64.

    Attributes fitted on different rows share ``mean`` and ``scale`` here; the standardisation on their own rows is folded into
    ``weight`` and ``intercept``. Columns of attributes without any row are NaN.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    intercept: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """[m, D] -> float64 [m, A], linear in the features (logits of a logistic probe)."""
        return (features.to(self.mean) - self.mean) / self.scale @ self.weight + self.intercept


class Moments(NamedTuple):
    """Mean and population standard deviation (1 where below 1e-8) of columns, [D] each."""

    mean: Tensor
    scale: Tensor


class RowGroup(NamedTuple):
    """Attributes (``columns`` int64 [k]) that share their valid rows (``rows`` int64 [r])."""

    columns: Tensor
    rows: Tensor


def moments(features: Tensor) -> Moments:
    """Of [n, D]: mean, and population std with 1 for constant columns; 0 and 1 without any row."""
    if not len(features):
        return Moments(features.new_zeros(features.shape[1]), features.new_ones(features.shape[1]))
    spread = features.std(0, correction=0)
    return Moments(features.mean(0), torch.where(spread < FLAT, 1.0, spread))


def row_groups(valid: Tensor) -> Iterator[RowGroup]:
    """Groups of columns of ``valid`` bool [n, A] with equal rows; columns without any row are in none."""
    if not valid.numel():
        return
    patterns, member = torch.unique(valid.T, dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if bool(pattern.any()):
            yield RowGroup((member == number).nonzero().flatten(), pattern.nonzero().flatten())


def checked(features: Tensor, targets: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Features float64 with 0 in rows that no attribute uses, targets float64, valid bool [n, A].

    Raises ValueError for shapes that do not fit, for features of used rows that are not finite, and for targets other than 0, 1.
    """
    valid = torch.ones_like(targets, dtype=torch.bool) if valid is None else valid.bool()
    if features.ndim != 2 or targets.ndim != 2 or targets.shape != valid.shape or len(features) != len(targets):
        raise ValueError(f"[n, D], [n, A] and [n, A] are needed, not {features.shape}, {targets.shape}, {valid.shape}")
    used = valid.any(1, keepdim=True)
    features, targets = torch.where(used, features, 0).double(), torch.where(valid, targets, 0).double()
    if not bool(features.isfinite().all()):
        raise ValueError("features of rows that are used must be finite")
    if not bool(((targets == 0) | (targets == 1)).all()):
        raise ValueError("targets must be 0 or 1")
    return features, targets, valid


Solve = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Standardised features [r, D], targets [r, k], attributes [k] -> weight [D, k], intercept [k]."""


def fit_by_rows(features: Tensor, targets: Tensor, valid: Tensor | None, solve: Solve) -> LinearProbe:
    """Fit each group of attributes on its own rows, standardised on them. Shapes and errors as ``checked``."""
    features, targets, valid = checked(features, targets, valid)
    shared = moments(features[valid.any(1)]) if bool(valid.any()) else moments(features)
    probe = empty_probe(shared, targets.shape[1])
    for group in row_groups(valid):
        own = features[group.rows]
        local = moments(own)
        solved = solve((own - local.mean) / local.scale, targets[group.rows][:, group.columns], group.columns)
        fold(probe, group, local, *solved)
    return probe


def empty_probe(shared: Moments, attributes: int) -> LinearProbe:
    """A probe of NaN to be filled by ``fold``."""
    mean, scale = shared
    weight = torch.full((len(mean), attributes), torch.nan, dtype=mean.dtype, device=mean.device)
    return LinearProbe(mean, scale, weight, weight.new_full((attributes,), torch.nan))


def fold(probe: LinearProbe, group: RowGroup, local: Moments, weight: Tensor, intercept: Tensor) -> None:
    """Write a group's solution (standardised by ``local``) into the columns of ``probe``, in place."""
    raw = weight / local.scale[:, None]
    probe.weight[:, group.columns] = raw * probe.scale[:, None]
    probe.intercept[group.columns] = intercept + (probe.mean - local.mean) @ raw

"""Models trained on mixtures along the axes of the experts: how far training on a mixture is the linear merge.

The analysis is told of 2602.04937 by third parties; the least squares through the experts' Gram matrix are ``geometry.projection``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.nodes.merging.checkpoints import Checkpoint
from runner.nodes.merging.experts import Expert, changed_names, open_expert
from runner.nodes.merging.geometry import inner, projection


def products(base: Checkpoint, experts: Sequence[Expert], models: Sequence[Expert]) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products of differences to the base, float64: of experts [K, K], of experts with models [K, M], of models with
    themselves [M]. Tensor by tensor; the experts' and one model's are held together."""
    count, others = len(experts), len(models)
    table, across = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, others, dtype=torch.float64)
    squared = torch.zeros(others, dtype=torch.float64)
    for name in changed_names(base, [*experts, *models]):
        tensor = base.tensor(name)
        own = {k: found for k, one in enumerate(experts) if (found := one.difference(name, tensor)) is not None}
        for i, left in own.items():
            for j, right in own.items():
                table[i, j] += inner(left, right) if i <= j else 0.0
        for m, model in enumerate(models):
            other = model.difference(name, tensor)
            if other is not None:
                squared[m] += inner(other, other)
                for k, expert in own.items():
                    across[k, m] += inner(expert, other)
    return table.triu() + table.triu(1).T, across, squared


def projection_rows(
    base_folder: Path, experts: Mapping[str, Path], models: Mapping[str, Path], weights: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """Rows of ``dmo_projection``: a row a model and expert. ``weights``: of each model's mixture, in the experts' order."""
    base = Checkpoint(base_folder)
    opened = [[open_expert(name, path, base) for name, path in side.items()] for side in (experts, models)]
    coefficients, rest = projection(*products(base, *opened))
    return [
        {
            "mixture_id": model, "domain": expert, "coefficient": float(coefficients[k, m]), "weight": float(weights[model][k]),
            "residual": None if bool(rest[m].isnan()) else float(rest[m]),
        } for m, model in enumerate(models) for k, expert in enumerate(experts)
    ]  # fmt: skip

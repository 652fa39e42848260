"""How the experts' differences to the base lie to each other: norms, cosines, projections; from low-rank factors without forming them.

Sources: distance of merged and mixed models along the experts' axes is an analysis of 2602.04937 as third parties tell it; the trace
identities and the least-squares projection are standard. Sums in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from runner.nodes.lora_geometry import inner_of_factors
from runner.nodes.merging.execution import LowRank

Difference = LowRank | Tensor
"""Of one tensor: low-rank factors, or all of it."""
CHUNK = 1 << 22


def inner(one: Difference, other: Difference) -> float:
    """Frobenius inner product of two differences of the same tensor.

    For factors: s_i s_j tr((B_i A_i)^T B_j A_j), see ``inner_of_factors``.
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _dot(one, other)
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        return one.scaling * other.scaling * inner_of_factors(one.a, one.b, other.a, other.b)
    low, full = (one, other) if isinstance(one, LowRank) else (other, one)
    assert isinstance(low, LowRank) and isinstance(full, Tensor)
    # <B A, D> = sum(B * (D A^T)); D is never multiplied out with B.
    return low.scaling * float((low.b.double() * (full.double() @ low.a.double().T)).sum())


def gram(models: Sequence[Mapping[str, Difference]]) -> Tensor:
    """Inner products of whole differences, float64 [K, K]; tensors that a model does not name are zero."""
    count = len(models)
    table = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        for j in range(i, count):
            shared = models[i].keys() & models[j].keys()
            table[i, j] = table[j, i] = sum(inner(models[i][name], models[j][name]) for name in sorted(shared))
    return table


def projection(table: Tensor, across: Tensor, squared: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares coefficients of other differences on the span of the experts, and the share they leave unexplained.

    ``table`` [K, K] of the experts, ``across`` [K, M] inner products with M others, ``squared`` [M] their squared norms ->
    coefficients float64 [K, M] (smallest ones where experts depend on each other), residual share |rest|^2 / |difference|^2 [M] in
    0..1, NaN for a zero difference.
    """
    coefficients = torch.linalg.pinv(table, hermitian=True) @ across
    explained = (coefficients * across).sum(0)
    rest = torch.where(squared > 0, (1 - explained / squared).clamp(0, 1), torch.nan)
    return coefficients, rest


def _dot(one: Tensor, other: Tensor) -> float:
    flat, second = one.reshape(-1), other.reshape(-1)
    parts = range(0, len(flat), CHUNK)
    return float(sum((flat[p : p + CHUNK].double() @ second[p : p + CHUNK].double()).item() for p in parts))

"""How low-rank differences of models lie to each other: inner products and cosines, without forming a matrix of full size. Pure, float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def inner_of_factors(a: Tensor, b: Tensor, other_a: Tensor, other_b: Tensor) -> float:
    """Frobenius inner product of B A and B' A' for A (r, in), B (out, r), A' (s, in), B' (out, s).

    tr((B A)^T B' A') = sum((B^T B') * (A A'^T)), which costs r s (in + out).
    """
    return float(((b.double().T @ other_b.double()) * (a.double() @ other_a.double().T)).sum())


def cosines(table: Tensor) -> Tensor:
    """Gram [K, K] -> cosines [K, K], clamped to -1..1; NaN where a difference is zero."""
    norms = table.diagonal().clamp(min=0).sqrt()
    scale = norms[:, None] * norms[None, :]
    return torch.where(scale > 0, (table / scale).clamp(-1, 1), torch.nan)


def pair_rows(names: list[str], table: Tensor) -> list[dict[str, Any]]:
    """Rows of ``dmo_geometry`` from cosines [K, K]: each pair once, None where there is no angle."""
    rows = []
    for i, one in enumerate(names):
        for j, other in enumerate(names[i + 1 :], i + 1):
            value = float(table[i, j])
            rows.append({"domain_i": one, "domain_j": other, "cosine": None if value != value else value})
    return rows

"""Sparse codes without a greedy full fit: matching pursuit, and the lasso by active sets (ours). Terms as in ``coding``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from runner.nodes.sith.coding_picked import (
    DEFAULT,
    Code,
    Picked,
    Settings,
    check,
    fit_rows,
    gap_of,
    residual_of,
    search_of,
)
from runner.nodes.sith.coding_rows import Rows, as_rows


def matching_pursuit(
    targets: Tensor, atoms: Tensor | Rows, k: int, signed: bool = False, *, settings: Settings = DEFAULT
) -> Code:
    """Matching pursuit without refitting: the best atom takes what it can of the residual, at most ``k`` times.

    ``signed``: by size, coefficients of either sign. A row ends once its residual is below 1e-6 or, unsigned, no atom
    has a positive product.
    """
    rows = as_rows(atoms)
    check(targets, rows, [k], 0.0)
    search = search_of(rows, settings, absolute=signed)
    residual, picked = targets.to(torch.float64, copy=True), Picked.none(targets, k)
    for step in range(k):
        live = torch.nonzero(residual.norm(dim=1) >= 1e-6)[:, 0]
        if not len(live):
            break
        found = search.top(residual[live], min(2, rows.shape[0]), picked.support[live, :step])
        atom = rows.take(found.atoms[:, 0]).double()
        product = (atom * residual[live]).sum(1)
        kept = torch.ones_like(product, dtype=torch.bool) if signed else product > 0
        live, product = live[kept], product[kept]
        residual[live] -= product[:, None] * atom[kept]
        picked.support[live, step] = found.atoms[kept, 0]
        picked.coefficients[live, step] = product
        picked.gap[live, step] = gap_of(found)[kept]
    return picked.code(residual, k)


def lasso(
    targets: Tensor,
    atoms: Tensor | Rows,
    l1: float,
    *,
    settings: Settings = DEFAULT,
    at_once: int = 8,
    tolerance: float = 1e-7,
) -> Code:
    """Non-negative lasso: minimise ``||x - a G||^2 + l1 sum(a)`` over a >= 0, by active sets (ours).

    In scikit-learn's terms ``alpha = l1 / (2 d)``, positive, without intercept. Atoms that break the optimality condition
    ``2 <r, g_i> <= l1`` enter, ``at_once`` at a time, until none breaks it by more than ``tolerance``; on the active atoms
    the problem is a non-negative least-squares one with ``<x, g_i> - l1 / 2`` in the place of ``<x, g_i>``. Slots are
    ordered by coefficient. Raises ValueError unless l1 is finite and > 0.
    """
    rows = as_rows(atoms)
    if not (math.isfinite(l1) and l1 > 0):
        raise ValueError(f"l1 must be finite and above 0, not {l1}")
    check(targets, rows, [1], 0.0)
    search, picked = search_of(rows, settings), Picked.none(targets, 0)
    residual = targets.to(torch.float64, copy=True)
    live = torch.arange(len(targets), device=targets.device)
    for _ in range(10 * rows.shape[1] + 10):  # each round lowers the objective until only rounding is left
        if not len(live):
            break
        found = search.top(residual[live], min(at_once, rows.shape[0]), picked.support[live])
        entering = torch.where(found.scores > l1 / 2 + tolerance, found.atoms, -1)
        live, entering = live[(entering >= 0).any(1)], entering[(entering >= 0).any(1)]
        picked = picked.grown(live, entering)
        fit_rows(targets, rows, picked, live, l1 / 2)
        residual[live] = residual_of(targets, rows, picked, live)
        picked = picked.without_zeros()
    return picked.code(residual, picked.support.shape[1])

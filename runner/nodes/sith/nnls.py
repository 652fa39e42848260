"""Small non-negative least-squares problems, many at once, solved exactly by a warm-started active set. Float64.

Minimise ``a G a^T / 2 - a b^T`` over ``a >= 0``, where G is the Gram matrix of the atoms of a row. Source: Lawson and
Hanson, Solving Least Squares Problems (1974), chapter 23; the batched form is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

KKT = 1e-10
"""Largest gradient ``b - a G`` that is taken for zero, for atoms of unit norm."""
DEPENDENT = 1e-10
"""Squared distance of a unit atom from the span of the others below which it cannot have a coefficient of its own."""


def nnls(gram: Tensor, rhs: Tensor, start: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
    """Coefficients float64 [B, k] >= 0 for Gram matrices [B, k, k] and products with the targets [B, k].

    ``start``: a feasible point to begin at, [B, k], such as the solution without the newest atom. ``allowed``: boolean
    [B, k], the others stay 0. At the solution the gradient is at most ``KKT``, and 0 within it where a coefficient is
    positive. Atoms that depend linearly on chosen ones get 0.
    """
    a = torch.zeros_like(rhs) if start is None else start.clone()
    allowed = torch.ones_like(rhs, dtype=torch.bool) if allowed is None else allowed
    blocked = ~allowed
    passive = (a > 0) & allowed
    open_rows = torch.arange(len(rhs), device=rhs.device)
    for _ in range(3 * rhs.shape[1] + 10):
        a[open_rows], passive[open_rows], blocked[open_rows], done = _advance(
            gram[open_rows], rhs[open_rows], a[open_rows], passive[open_rows], blocked[open_rows], allowed[open_rows]
        )
        open_rows = open_rows[~done]
        if not len(open_rows):
            break
    return a


def _advance(
    gram: Tensor, rhs: Tensor, a: Tensor, passive: Tensor, blocked: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One solve on the passive set: a full step with the next atom let in, or a step to the boundary."""
    solved, dependent = solve_on(gram, rhs, passive)
    unusable = dependent.any(1, keepdim=True)
    outside = passive & (solved <= 0) & ~unusable
    full = ~(outside | unusable).any(1)
    ratio = torch.where(outside, a / (a - solved).clamp_min(1e-300), torch.inf)
    length = ratio.amin(1, keepdim=True).clamp(max=1.0)
    moved = torch.where(passive & ~unusable, a + length * (solved - a), a)
    leaving = (outside & (ratio <= length)) | dependent
    # An atom that leaves without having had a coefficient is not tried again until the others have changed.
    blocked = blocked | dependent | (leaving & (a <= 0))
    new = torch.where(full[:, None], solved, moved).masked_fill(leaving, 0.0)
    changed = full & ((new - a).abs().amax(1) > KKT)
    blocked = torch.where(changed[:, None], ~allowed, blocked)
    passive = passive & ~leaving
    gradient = rhs - torch.einsum("bk,bkj->bj", new, gram)
    best, newest = gradient.masked_fill(passive | blocked, -torch.inf).max(1)
    done = full & (best <= KKT)
    entering = torch.zeros_like(passive).scatter_(1, newest[:, None], (full & ~done)[:, None])
    a = new
    return a, passive | entering, blocked, done


def solve_on(gram: Tensor, rhs: Tensor, passive: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares without a sign on the atoms of ``passive``: coefficients [B, k], and which atoms depend on others.

    A row with a dependent atom names one; its coefficients mean nothing until that atom is taken out.
    """
    both = passive[:, :, None] & passive[:, None, :]
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    inside = torch.where(both, gram, eye)
    lower, failed = torch.linalg.cholesky_ex(inside)
    pivots = lower.diagonal(dim1=1, dim2=2).square()
    # Where the factorisation stops, the pivot at which it stopped is the first that cannot be used.
    stopped = (torch.arange(1, gram.shape[1] + 1, device=gram.device) == failed[:, None]) & (failed[:, None] > 0)
    weak = (pivots < DEPENDENT) & (failed[:, None] == 0)
    dependent = passive & (stopped | (weak & (weak.cumsum(1) == 1)))
    lower = torch.where((failed > 0)[:, None, None], eye, lower)
    solved = torch.cholesky_solve((rhs * passive)[:, :, None], lower)[:, :, 0]
    return solved * passive, dependent

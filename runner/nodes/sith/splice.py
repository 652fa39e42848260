"""SpLiCE: image embeddings as sparse non-negative sums of concepts.

Source: "Interpreting CLIP with Sparse Linear Concept Embeddings" (arXiv 2402.10376). Image embeddings of unit norm lose
their mean and are scaled again, as the concepts are; the code is a non-negative lasso. Solvers: ``coding.lasso`` (ours,
exact), or the published ADMM, here with a d x d factorisation in place of the M x M one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from runner.nodes.sith.coding_picked import Code
from runner.nodes.sith.coding_search import stretches
from runner.nodes.sith.weights import unit

_DENSE = 1 << 23  # coefficients held at once


def centred_images(images: Tensor, mean: Tensor) -> Tensor:
    """Unit image embeddings [n, d] less their mean [d], scaled to unit norm."""
    return unit(unit(images) - mean)


def admm(
    targets: Tensor, atoms: Tensor, l1: float, *, rho: float = 5.0, tolerance: float = 1e-6, iterations: int = 2000
) -> Code:
    """Non-negative lasso ``min ||x - a G||^2 + l1 sum(a)`` of targets [B, d] over atoms [M, d] by ADMM.

    Stops where neither the split nor a step exceeds ``tolerance``, or after ``iterations``. Slots are ordered by
    coefficient, -1 behind. Raises ValueError unless l1 and rho are > 0.
    """
    if not (l1 > 0 and rho > 0):
        raise ValueError(f"l1 and rho must be above 0, not {l1} and {rho}")
    G = atoms.double()
    small = rho / 2 * torch.eye(G.shape[1], dtype=G.dtype, device=G.device) + G.mT @ G
    lower = torch.linalg.cholesky(small)
    supports, values, left = [], [], []
    for some in stretches(len(targets), max(1, _DENSE // len(G))):
        x = targets[some].double()
        dense = _admm_block(x, G, lower, l1, rho, tolerance, iterations)
        support, value = _sparse(dense)
        supports.append(support)
        values.append(value)
        left.append((x - dense @ G).norm(dim=1))
    width = max((support.shape[1] for support in supports), default=0)
    support = torch.cat([pad(part, (0, width - part.shape[1]), value=-1) for part in supports])
    value = torch.cat([pad(part, (0, width - part.shape[1])) for part in values]).float()
    return Code(support, value, torch.cat(left).float(), torch.full_like(value, torch.nan))


def _admm_block(
    x: Tensor, G: Tensor, lower: Tensor, l1: float, rho: float, tolerance: float, iterations: int
) -> Tensor:
    """Dense coefficients [b, M]."""
    fixed = 2 * x @ G.mT
    z, u = torch.zeros_like(fixed), torch.zeros_like(fixed)
    for _ in range(iterations):
        b = fixed + rho * (z - u)
        # (2 G G^T + rho I)^-1 b by Woodbury's identity.
        a = (b - torch.cholesky_solve((b @ G).mT, lower).mT @ G.mT) / rho
        before, z = z, (a + u - l1 / rho).clamp_min(0)
        u = u + a - z
        if max(float((a - z).abs().max()), float((z - before).abs().max())) < tolerance:
            break
    return z


def _sparse(dense: Tensor) -> tuple[Tensor, Tensor]:
    values, order = dense.sort(dim=1, descending=True, stable=True)
    width = int((values > 0).sum(1).max()) if len(values) else 0
    values, order = values[:, :width], order[:, :width]
    return torch.where(values > 0, order, -1), values


def recomposed(sums: Tensor, mean: Tensor) -> Tensor:
    """Unit embeddings [n, d] from sums of centred atoms [n, d]; NaN for empty codes."""
    empty = sums.norm(dim=-1, keepdim=True) == 0
    return unit(unit(sums) + mean).masked_fill(empty, torch.nan)

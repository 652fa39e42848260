"""How good a sparse autoencoder is. Pure torch; float32 or better, any device; memory bounded by batches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from runner.nodes.sem.sae import SparseAutoencoder

CKNNA_EPSILON = 1e-6


def fvu(x: Tensor, recon: Tensor) -> Tensor:
    """Fraction of variance unexplained [n] of rows [n, d]: ``var_d(x - recon) / var_d(x)``, over the features of each
    row, ddof 1. (MSAE's code calls it explained variance.) Infinite or NaN for a row that is constant."""
    return (x - recon).var(-1) / x.var(-1)


class Quality(NamedTuple):
    """Means over rows. ``l2``: norm of the error; ``l0``: active latents; ``sparsity``: share of zeros; ``dead``:
    latents that no row activates."""

    fvu: float
    cosine: float
    l2: float
    l0: float
    sparsity: float
    dead: int


@torch.no_grad()
def measure(sae: SparseAutoencoder, rows: Tensor, batch: int = 4096) -> Quality:
    """Quality on raw embeddings ``rows`` [n, d] with the latents of inference. Raises ValueError for no rows."""
    if not len(rows):
        raise ValueError("the quality of a sparse autoencoder needs at least one row")
    device = sae.b_pre.device
    alive = torch.zeros(sae.latents, dtype=torch.bool, device=device)
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for start in range(0, len(rows), batch):
        z = rows[start : start + batch].to(device)
        h = sae.encode(z)
        recon = sae.decode(h)
        active = h > 0
        alive |= active.any(0)
        of_rows = (
            fvu(z, recon),
            functional.cosine_similarity(z, recon, dim=-1),
            (z - recon).norm(dim=-1),
            active.sum(-1),
        )
        sums += torch.stack([value.double().sum() for value in of_rows])
    unexplained, cosine, l2, l0 = (sums / len(rows)).tolist()
    return Quality(unexplained, cosine, l2, l0, 1 - l0 / sae.latents, int((~alive).sum()))


def decoder_coherence(directions: Tensor) -> float:
    """Mean over all L^2 pairs of the squared product of two different rows of ``directions`` [L, d] (W_d transposed).

    ``|D D^T|_F = |D^T D|_F``, so that no [L, L] matrix is needed: ``(|D^T D|_F^2 - sum_i |d_i|^4) / L^2``. In float64.
    """
    rows = directions.double()
    everything = (rows.T @ rows).square().sum()
    own = rows.square().sum(-1).square().sum()
    return float((everything - own).clamp(min=0) / len(rows) ** 2)


@torch.no_grad()
def cknna(a: Tensor, b: Tensor, neighbours: int = 10) -> float:
    """Alignment of two sets of features [n, p] and [n, q] of the same n things (CKNNA, linear kernels).

    Kernels are masked to pairs that are among the ``neighbours`` nearest in both, compared by the unbiased HSIC, and divided by
    ``sqrt(self_a self_b) + 1e-6``. Holds two [n, n] matrices of float64. Raises ValueError where n < 4 or n <= neighbours.
    """
    if len(a) != len(b) or len(a) < 4 or len(a) <= neighbours:
        raise ValueError(
            f"CKNNA needs the same things twice, more than {max(3, neighbours)}; got {len(a)} and {len(b)}"
        )
    K, L = (_kernel(features) for features in (a, b))
    near_k, near_l = (_nearest(kernel, neighbours) for kernel in (K, L))
    across = _hsic(K, L, near_k & near_l)
    alone = _hsic(K, K, near_k) * _hsic(L, L, near_l)
    return float(across / (alone.clamp(min=0).sqrt() + CKNNA_EPSILON))


def _kernel(features: Tensor) -> Tensor:
    x = features.double()
    return x @ x.T


def _nearest(kernel: Tensor, neighbours: int) -> Tensor:
    """Bool [n, n]: whether the column's thing is among the row's nearest others."""
    others = kernel.clone().fill_diagonal_(-torch.inf)
    return torch.zeros_like(kernel, dtype=torch.bool).scatter(1, others.topk(neighbours, dim=1).indices, True)


def _hsic(K: Tensor, L: Tensor, mask: Tensor) -> Tensor:
    """Unbiased HSIC of masked kernels [n, n] (Song et al., 2012, equation 5)."""
    n = len(K)
    k, l = (torch.where(mask, kernel, 0).fill_diagonal_(0) for kernel in (K, L))  # noqa: E741
    trace = (k * l.T).sum()
    sums = k.sum() * l.sum() / ((n - 1) * (n - 2))
    mixed = 2 * (k.sum(0) * l.sum(1)).sum() / (n - 2)
    return (trace + sums - mixed) / (n * (n - 3))

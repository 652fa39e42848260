"""Sparser differences: which entries of ``theta_k - theta_0`` a merge keeps. Pure: tensors in, tensors out.

All functions take a float32 or float64 tensor of any shape and device and return one like it, dropped entries zero. Random
ones draw on the CPU from ``stream``, so that order of tensors, sharding and device do not matter.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

Rescale = Literal["paper", "mergekit", "none"]


def stream(seed: int, expert: str, name: str) -> torch.Generator:
    """Random numbers of one tensor of one expert: the seed is hashed with both names."""
    digest = hashlib.sha256(f"{seed}\0{expert}\0{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def keep_largest(delta: Tensor, density: float) -> Tensor:
    """The ``max(1, int(density * n))`` entries largest in absolute value (TIES, arXiv 2306.01708; mergekit's count).

    Of equal entries at the border the first in memory order stay.
    """
    n = delta.numel()
    if density >= 1 or n == 0:
        return delta
    return delta * largest(delta.abs().flatten(), max(1, int(density * n))).view_as(delta)


def keep_at_threshold(delta: Tensor, density: float) -> Tensor:
    """Entries not below the ``int((1 - density) * n)``-th smallest absolute value, which stays itself (reference code of DMO)."""
    magnitude = delta.abs().flatten()
    # 1 - 0.9 is a little more than 0.1 in binary: the count must be that of the decimal rate.
    rank = int(round(1 - density, 12) * len(magnitude))
    if rank < 1:
        return delta
    return delta * (delta.abs() >= magnitude.kthvalue(rank).values)


def keep_between(delta: Tensor, density: float, gamma: float) -> Tensor:
    """``int(density * n)`` entries below the ``int(gamma * n)`` largest (Model Breadcrumbs, arXiv 2312.06795).

    As in mergekit fewer outliers go where the density leaves no room for them, and density 1 keeps everything.
    """
    n = delta.numel()
    if density >= 1 or n == 0:
        return delta
    kept = int(density * n)
    below = max(0, n - kept - int(gamma * n))
    magnitude = delta.abs().flatten()
    mask = largest(magnitude, n - below) & ~largest(magnitude, n - below - kept)
    return delta * mask.view_as(delta)


def drop_random(delta: Tensor, density: float, generator: torch.Generator, rescale: Rescale = "paper") -> Tensor:
    """Each entry kept with probability ``density`` (DARE, arXiv 2311.03099), then ``rescaled``. Density 1: unchanged."""
    if density >= 1:
        return delta
    draw = torch.rand(delta.shape, generator=generator, dtype=torch.float32).to(delta.device)
    return rescaled(delta, delta * (draw < density), density, rescale)


def drop_by_rank(
    delta: Tensor, density: float, epsilon: float, generator: torch.Generator, rescale: Rescale = "mergekit"
) -> Tensor:
    """Kept with a probability that grows with the rank in absolute value within a row (DELLA, arXiv 2406.11617).

    From ``density - epsilon`` for the smallest to ``density + epsilon`` for the largest; a row runs along the second axis (the
    only one of a vector), as in mergekit. A row of one entry has the probability ``density``.
    """
    if density >= 1:
        return delta
    probability = keep_probability(delta, density, epsilon)
    draw = torch.rand(delta.shape, generator=generator, dtype=torch.float32).to(delta.device)
    return rescaled(delta, delta * (draw < probability), density, rescale)


def keep_probability(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """DELLA's probability of keeping each entry, shape of ``delta``."""
    rows = delta.abs().unsqueeze(0) if delta.ndim < 2 else delta.abs()
    ranks = rows.argsort(dim=1, stable=True).argsort(dim=1).to(delta.dtype)
    last = rows.shape[1] - 1
    place = ranks / last if last > 0 else torch.full_like(ranks, 0.5)
    return (density - epsilon + 2 * epsilon * place).view_as(delta)


def rescaled(delta: Tensor, kept: Tensor, density: float, rescale: Rescale) -> Tensor:
    """What was kept, made longer: by ``1 / density`` (paper), or to the L1 norm before the drop (mergekit 0.1.5)."""
    if rescale == "none":
        return kept
    if rescale == "paper":
        return kept / density
    before, after = delta.abs().sum(), kept.abs().sum()
    tiny = (before < 1e-7) | (after < 1e-7)
    return kept * torch.where(tiny, torch.ones_like(before), before / after.clamp_min(1e-30))


def largest(magnitude: Tensor, k: int) -> Tensor:
    """Mask of the ``k`` largest of a vector; of equal ones at the border the first. Linear time, where a sort is not."""
    if k < 1:
        return torch.zeros_like(magnitude, dtype=torch.bool)
    border = magnitude.kthvalue(len(magnitude) - k + 1).values
    mask = magnitude > border
    equal = (magnitude == border).nonzero().flatten()
    mask[equal[: k - int(mask.sum())]] = True
    return mask

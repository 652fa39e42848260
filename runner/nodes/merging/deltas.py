"""Merges of differences ``D_k = theta_k - theta_0``, one tensor at a time. Pure: float32 or float64 tensors in and out.

``base`` is theta_0, ``tensors`` the experts' theta_k, ``weights`` the w_k; X_k = w_k D_k. Experts are taken one after another,
so that no stack of all of them is held where the method allows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from runner.nodes.merging.sparsify import (
    Rescale,
    drop_by_rank,
    drop_random,
    keep_at_threshold,
    keep_between,
    keep_largest,
    largest,
    stream,
)

Then = Literal["linear", "ties"]
Densities = float | Sequence[float]


def task_arithmetic(base: Tensor, tensors: Sequence[Tensor], weights: Sequence[float], scale: float = 1.0) -> Tensor:
    """theta_0 + lambda * sum_k w_k D_k (arXiv 2212.04089; the DMO paper's merge, lambda = 1)."""
    return base + scale * weighted_sum((x - base for x in tensors), weights)


def ties(
    base: Tensor,
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    density: Densities = 1.0,
    convention: Literal["mergekit", "reference"] = "mergekit",
    normalize: bool = True,
    scale: float = 1.0,
) -> Tensor:
    """Trim, elect a sign, merge what agrees with it (arXiv 2306.01708). The conventions differ in every one of the three.

    mergekit: the ``max(1, int(density * n))`` largest stay; ``elected_sum`` of X_k. reference (code of the DMO paper, there with
    density 0.2 = 1 - rate): entries at or above a threshold stay; ``disjoint_mean``, without weights and without ``normalize``.
    """
    trim = keep_largest if convention == "mergekit" else keep_at_threshold
    pairs = zip(tensors, _each(density, len(tensors)), strict=True)
    return base + scale * _agreed([trim(x - base, share) for x, share in pairs], weights, convention, normalize)


def dare(
    base: Tensor,
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    density: Densities,
    seed: int,
    name: str,
    rescale: Rescale = "paper",
    then: Then = "linear",
    *,
    experts: Sequence[str] | None = None,
    convention: Literal["mergekit", "reference"] = "mergekit",
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Differences with entries dropped at random and the rest made longer (arXiv 2311.03099), summed or merged as in ``ties``.

    ``name`` of the tensor and names of the ``experts`` (their numbers without them) seed the drops, so that the weights do not
    change what is dropped. ``then = "ties"`` elects signs without a further trim, as mergekit's ``dare_ties``.
    """
    dropped = (
        drop_random(x - base, share, stream(seed, expert, name), rescale)
        for x, share, expert in _named(tensors, density, experts)
    )
    return base + scale * _combined(dropped, weights, then, convention, normalize)


def breadcrumbs(
    base: Tensor,
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    density: Densities,
    gamma: float = 0.01,
    then: Then = "linear",
    *,
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Differences without their largest and smallest entries (arXiv 2312.06795), summed or merged as in ``ties``."""
    pairs = zip(tensors, _each(density, len(tensors)), strict=True)
    kept = (keep_between(x - base, share, gamma) for x, share in pairs)
    return base + scale * _combined(kept, weights, then, "mergekit", normalize)


def della(
    base: Tensor,
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    density: Densities,
    epsilon: float,
    seed: int,
    name: str,
    rescale: Rescale = "mergekit",
    then: Then = "ties",
    *,
    experts: Sequence[str] | None = None,
    normalize: bool = True,
    scale: float = 1.0,
) -> Tensor:
    """Differences with entries dropped the likelier the smaller they are (arXiv 2406.11617), merged as in ``ties`` or summed.

    Defaults are those of mergekit's ``della``; its ``della_linear`` has ``normalize`` off. Seeds as in ``dare``.
    """
    dropped = (
        drop_by_rank(x - base, share, epsilon, stream(seed, expert, name), rescale)
        for x, share, expert in _named(tensors, density, experts)
    )
    return base + scale * _combined(dropped, weights, then, "mergekit", normalize)


def sce(base: Tensor, tensors: Sequence[Tensor], density: float = 1.0) -> Tensor:
    """Select, calculate, erase (arXiv 2408.07990): entries of largest variance, weights by mean squared difference, one sign.

    Selected are the ``int(density * m)`` entries of largest variance over the experts among the m with any; equal ones at the
    border by position. Weights are relative, so that the result scales with the differences: mergekit takes equal ones below a
    mean square of 1e-6 in sum, which is where differences of real fine-tuning lie.
    """
    stack = torch.stack([x - base for x in tensors])
    if density < 1:
        stack = stack * _of_largest_variance(stack, density)
    energy = stack.square().flatten(1).mean(1)
    total = energy.sum()
    weights = torch.where(total > 0, energy / total.clamp_min(torch.finfo(stack.dtype).tiny), 1 / len(stack))
    kept = (stack.sign() == _elected(stack.sum(0))) * weights.view(-1, *[1] * base.ndim)
    divisor = kept.sum(0)
    return base + (stack * kept).sum(0) / torch.where(divisor > 0, divisor, 1.0)


def weighted_sum(deltas: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_k w_k D_k, one after another."""
    total: Tensor | None = None
    for delta, weight in zip(deltas, weights, strict=True):
        total = delta * weight if total is None else total.add_(delta, alpha=weight)
    if total is None:
        raise ValueError("nothing to sum")
    return total


def elected_sum(deltas: Sequence[Tensor], weights: Sequence[float], normalize: bool = True) -> Tensor:
    """Sum of those X_k = w_k D_k whose sign is that of sum_k X_k (+ for 0), by the sum of their weights if ``normalize``.

    TIES as mergekit has it. A weight sum of exactly 0 divides by 1.
    """
    sign = _elected(weighted_sum(deltas, weights))
    total, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, weight in zip(deltas, weights, strict=True):
        weighted = delta * weight
        agrees = weighted.sign() == sign
        total += weighted * agrees
        divisor += agrees * weight
    return total / torch.where(divisor == 0, 1.0, divisor) if normalize else total


def disjoint_mean(deltas: Sequence[Tensor]) -> Tensor:
    """Mean of the non-zero D_k whose sign is that of sum_k D_k; where that is 0, the sign of most entries of the tensor."""
    sign = weighted_sum(deltas, [1.0] * len(deltas)).sign()
    sign = torch.where(sign == 0, sign.sum().sign(), sign)
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta in deltas:
        agrees = delta * sign > 0
        total += delta * agrees
        count += agrees
    return total / count.clamp_min(1)


def _combined(
    deltas: Iterable[Tensor], weights: Sequence[float], then: Then, convention: str, normalize: bool
) -> Tensor:
    if then == "ties":
        return _agreed(list(deltas), weights, convention, normalize)
    total = sum(weights) if normalize else 1.0
    return weighted_sum(deltas, weights) / (total if abs(total) >= 1e-8 else 1.0)


def _agreed(deltas: Sequence[Tensor], weights: Sequence[float], convention: str, normalize: bool) -> Tensor:
    return elected_sum(deltas, weights, normalize) if convention == "mergekit" else disjoint_mean(deltas)


def _elected(total: Tensor) -> Tensor:
    return (total >= 0).to(total.dtype) * 2 - 1


def _of_largest_variance(stack: Tensor, density: float) -> Tensor:
    variance = stack.var(0, unbiased=False).flatten()
    kept = int(int(torch.count_nonzero(variance)) * density)
    return largest(variance, kept).view(stack.shape[1:])


def _each(density: Densities, n: int) -> Sequence[float]:
    return [float(density)] * n if isinstance(density, (int, float)) else density


def _named(
    tensors: Sequence[Tensor], density: Densities, experts: Sequence[str] | None
) -> Iterable[tuple[Tensor, float, str]]:
    names = [str(k) for k in range(len(tensors))] if experts is None else experts
    return zip(tensors, _each(density, len(tensors)), names, strict=True)

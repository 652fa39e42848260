"""Attribute-driven part discovery: part maps, part vectors and the masks of stage 2. Pure torch, any device, float32 or better.

Maps and prototypes follow PDiscoFormer (arXiv 2407.04538) and iFAM (arXiv 2506.08915); reading attributes from slots, masks
per slot and the routing of attributes are definitions of this project. B pictures, N patches, D width, K slots, A attributes;
of K + 1 maps the last is the background.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from runner.models.backbones.attention import multiplicative_mask_attention
from runner.nodes.leakage.discovery_metrics import keypoint_error, nmi_ari
from runner.nodes.leakage.shaping import (
    background_presence,
    concentration,
    entropy,
    equivariance,
    orthogonality,
    presence,
    total_variation,
)

__all__ = [
    "Quantiles",
    "annealed",
    "background_presence",
    "bce_attributes",
    "concentration",
    "entropy",
    "equivariance",
    "foreground_gate",
    "gumbel",
    "hard_slots",
    "keypoint_error",
    "leave_one_out",
    "low_confidence_thresholds",
    "multiplicative_mask_attention",
    "nmi_ari",
    "orthogonality",
    "part_logits",
    "part_maps",
    "part_vectors",
    "presence",
    "remove_low_confidence",
    "routed",
    "slot_gates",
    "total_variation",
]


def part_logits(tokens: Tensor, prototypes: Tensor) -> Tensor:
    """Negative squared distances u_kn = -(|t_n|^2 - 2 t_n . q_k + |q_k|^2).

    ``tokens`` t [B, N, D], after the final norm; ``prototypes`` q [K + 1, D]. Returns [B, K + 1, N], at most 0 up to rounding.
    """
    dots = torch.einsum("bnd,kd->bkn", tokens, prototypes)
    lengths = tokens.square().sum(2)[:, None] + prototypes.square().sum(1)[None, :, None]
    return 2 * dots - lengths


def gumbel(shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Gumbel noise g = -log(-log U), float32, finite. Drawn where ``generator`` lives, so that it is the same on every device."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    tiny = torch.finfo(torch.float32).tiny
    exponential = -torch.log(uniform.clamp_min(tiny))
    return (-torch.log(exponential.clamp_min(tiny))).to(device)


def part_maps(tokens: Tensor, prototypes: Tensor, tau: float = 1.0, noise: Tensor | None = None) -> Tensor:
    """Part maps A = softmax_k((u + g) / tau) [B, K + 1, N], summing to 1 over k.

    ``noise`` g [B, K + 1, N]: ``gumbel``, in training only; None: none, so that evaluation is repeatable.
    """
    logits = part_logits(tokens, prototypes)
    return torch.softmax((logits if noise is None else logits + noise) / tau, 1)


def part_vectors(tokens: Tensor, maps: Tensor, *, by_area: bool = True) -> Tensor:
    """Part vectors v_k [B, K + 1, D] of ``tokens`` [B, N, D] under ``maps`` [B, K + 1, N].

    ``by_area``: divided by the map's sum, v_k = sum_n A_kn t_n / sum_n A_kn; without, by N as the public code of the sibling
    systems does, which makes the length of v_k tell the part's area. A map that is 0 everywhere gives 0.
    """
    summed = torch.einsum("bkn,bnd->bkd", maps, tokens)
    if not by_area:
        return summed / tokens.shape[1]
    return summed / maps.sum(2, keepdim=True).clamp_min(1e-6)


def hard_slots(maps: Tensor) -> Tensor:
    """The slot of each patch: argmax over k, int64 [B, N] of ``maps`` [B, K + 1, N]; K is the background. Ties: the first."""
    return maps.argmax(1)


def slot_gates(maps: Tensor) -> Tensor:
    """Masks of the K slots for stage 2 [B, K, N]: exactly 0 or 1 in value, with the gradient of the soft maps.

    Straight-through: hard - sg(y) + y with y = ``maps`` [B, K + 1, N] and hard the one-hot argmax. Per slot (definition of
    this project), where iFAM masks the union (``foreground_gate``).
    """
    hard = functional.one_hot(hard_slots(maps), maps.shape[1]).transpose(1, 2).to(maps.dtype)
    return _straight_through(hard, maps)[:, :-1]


def foreground_gate(maps: Tensor, keep: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """iFAM's mask of the union of the foreground parts [B, N]: exactly 0 or 1 in value, with the gradient of s = sum_{k<=K} y_k.

    A patch is foreground where fg = max_{k<=K} y_k is at least bg = y_{K+1}. ``keep`` bool [B, K]: parts that dropout left; the
    others leave fg and s, and what stays is divided by 1 - ``dropout``.
    """
    foreground, background = maps[:, :-1], maps[:, -1]
    if keep is not None:
        foreground = foreground * keep[..., None].to(maps.dtype) / (1 - dropout)
    hard = (foreground.amax(1) >= background).to(maps.dtype)
    return _straight_through(hard, foreground.sum(1))


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    # soft - sg(soft) is exactly 0, so that the value is exactly hard; hard - soft + soft would round.
    return hard + (soft - soft.detach())


def annealed(done: float, *, first: float = 1.0, last: float = 0.1, hard_from: float = 0.8) -> float:
    """Temperature of learned routing after the share ``done`` of the training: geometric from ``first`` to ``last``, then 0 (hard)."""
    if done >= hard_from:
        return 0.0
    return float(first * (last / first) ** (done / hard_from))


def routed(logits: Tensor, temperature: float) -> Tensor:
    """Shares of the slots per attribute group, rows summing to 1: softmax of ``logits`` [G, K] / temperature.

    ``temperature`` 0: the one-hot argmax in value, with the gradient of the softmax at 0.1. Definition of this project.
    """
    if temperature > 0:
        return torch.softmax(logits / temperature, 1)
    soft = torch.softmax(logits / 0.1, 1)
    return _straight_through(functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype), soft)


def bce_attributes(logits: Tensor, targets: Tensor, valid: Tensor, positive_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over the labels that are annotated and certain. All [B, A]; ``positive_weight`` [A] or None.

    Mean over valid entries; 0 (with a gradient of 0) where there is none, never NaN.
    """
    each = functional.binary_cross_entropy_with_logits(
        logits, targets.to(logits.dtype), pos_weight=positive_weight, reduction="none"
    )
    known = valid.to(logits.dtype)
    return (each * known).sum() / known.sum().clamp_min(1)


# --- interventions at test time --------------------------------------------------------------------------------------


class Quantiles(NamedTuple):
    """``levels`` q [Q] and ``thresholds`` [Q, K]: the q-quantile of t . q_k over training patches of slot k; -inf without any."""

    levels: Tensor
    thresholds: Tensor


def low_confidence_thresholds(tokens: Tensor, prototypes: Tensor, slots: Tensor, levels: Tensor) -> Quantiles:
    """Quantiles of the raw dot product t . q_k over the training patches that slot k won.

    ``tokens`` [M, D] patches of training pictures, ``slots`` int64 [M] (K: background), ``levels`` [Q] in 0..1.
    """
    rows = []
    for slot in range(len(prototypes) - 1):
        dots = (tokens[slots == slot] * prototypes[slot]).sum(1)  # as they are compared, to the last bit
        rows.append(torch.quantile(dots, levels) if len(dots) else torch.full_like(levels, -torch.inf))
    return Quantiles(levels, torch.stack(rows, 1))


def remove_low_confidence(slots: Tensor, tokens: Tensor, prototypes: Tensor, thresholds: Tensor) -> Tensor:
    """Slots [B, N] where patches whose t . q_k lies below their slot's threshold [K] became background."""
    background = len(prototypes) - 1
    floor = torch.cat([thresholds, thresholds.new_full((1,), -torch.inf)])
    dots = (tokens * prototypes[slots]).sum(2)
    return torch.where(dots < floor[slots], background, slots)


def leave_one_out(slots: Tensor, slot: int, background: int) -> Tensor:
    """Slots [B, N] where the patches of ``slot`` are forced to background."""
    return torch.where(slots == slot, background, slots)

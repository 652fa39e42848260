"""Which directions carry an attribute. OURS, not the paper's: a first-order reading of the weights against embeddings.

What a head writes along a right singular vector v reaches the image embedding, to first order and up to a common scale,
as q = (v - mean v) * gamma proj (gamma: gain of ln_post). The attribute's direction is the difference of mean embeddings
between pictures (or texts) with and without a value. effect = s <q, direction> says how far the direction can move an
embedding along the attribute; how far it does also depends on what the head reads, and is told by ``activations``, whose
differences between groups of pictures then stand in the place of s.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.nodes.sith.tower import norm_affine, projection
from runner.nodes.sith.weights import TINY, unit


class Effects(NamedTuple):
    """Each (...): ``cosine`` of what is written and the attribute, signed ``effect``, ``share`` of the sum of effect^2."""

    cosine: Tensor
    effect: Tensor
    share: Tensor


def attribute_direction(vectors: Tensor, has: Tensor, strata: Tensor | None = None) -> Tensor:
    """Unit direction (d,) from embeddings without an attribute's value to those with it.

    ``vectors`` (n, d) unit; ``has`` (n,) bool; ``strata`` (n,) int64: the difference is taken within each stratum that has
    both and averaged with equal weight, so that a class that goes along with the value is not taken for it. Raises
    ValueError where no stratum has both, or the means are equal.
    """
    strata = torch.zeros(len(has), dtype=torch.int64, device=has.device) if strata is None else strata
    _, place = torch.unique(strata, return_inverse=True)
    cell = place * 2 + has.long()
    count = torch.bincount(cell, minlength=2 * (int(place.max()) + 1) if len(place) else 2)
    sums = vectors.new_zeros(len(count), vectors.shape[1]).index_add_(0, cell, vectors)
    difference = stratified_difference(sums.reshape(-1, 2, vectors.shape[1]), count.reshape(-1, 2))
    if float(difference.norm()) <= TINY:
        raise ValueError("the mean embeddings with and without the value are equal")
    return unit(difference)


def stratified_difference(sums: Tensor, count: Tensor) -> Tensor:
    """Mean with a value less mean without, (...), from sums (strata, 2, ...) and counts (strata, 2); with it comes second.

    Strata that have both count equally, others not. Raises ValueError where no stratum has both.
    """
    both = (count > 0).all(1)
    if not both.any():
        raise ValueError("no class has pictures both with and without the value")
    means = sums[both] / count[both].to(sums).reshape(-1, 2, *[1] * (sums.ndim - 2))
    return (means[:, 1] - means[:, 0]).mean(0)


def written(vh: Tensor, visual: Any) -> Tensor:
    """q (..., d) of right singular vectors (..., D): what writing along them adds to the embedding, first order, unscaled."""
    gain, _ = norm_affine(visual.ln_post, vh)
    q: Tensor = ((vh - vh.mean(-1, keepdim=True)) * gain) @ projection(visual).to(vh)
    return q


def direction_effects(s: Tensor, q: Tensor, direction: Tensor) -> Effects:
    """Effects of directions with gains ``s`` (...) that write ``q`` (..., d) along a ``direction`` (d,) of any length.

    ``s``: singular values, for what a direction can do, or differences of activations, for what it does.
    """
    along = q @ direction.to(q)
    effect = s * along
    total = effect.square().sum().clamp_min(TINY**2)
    return Effects(along / (q.norm(dim=-1) * direction.to(q).norm()).clamp_min(TINY), effect, effect.square() / total)

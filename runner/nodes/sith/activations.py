"""What singular directions of heads do on pictures. All OURS: the paper (arXiv 2603.24653, section 4.2) grounds directions in
pictures, but no code of it was released and its formula is not known to us.

c_j = s_j sum_i A_cls,i <n(x_i), u_j> is how much of v_j a head adds to the class token. To first order, and past later blocks unseen, that moves the unit embedding by
c_j q_j / (deviation of the final class token x norm of the embedding), with q_j as in ``effects.written``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.nodes.sith.effects import stratified_difference
from runner.nodes.sith.listening import FINAL, class_reads, final_deviation, listening


class Directions(NamedTuple):
    """``layers`` and ``heads`` that were read, what they read ``u`` (layers, heads, D, r), gains ``s`` (layers, heads, r)."""

    layers: Sequence[int]
    heads: Sequence[int]
    u: Tensor
    s: Tensor
    fold_ln: bool


class Activity(NamedTuple):
    """``coefficients`` [n, layers, heads, r]; ``scale`` [n]: what the final norm and the unit norm divide by, together."""

    coefficients: Tensor
    scale: Tensor


def activity(visual: Any, images: Tensor, directions: Directions) -> Activity:
    """Coefficients of the directions for preprocessed images [n, 3, h, w]; float64 for float64 towers, else float32."""
    u, s = directions.u.to(images.device), directions.s.to(images.device)
    row = {layer: at for at, layer in enumerate(directions.layers)}

    def take(layer: int, stream: Tensor) -> Tensor:
        reads = class_reads(visual, layer, stream, fold_ln=directions.fold_ln)[:, list(directions.heads)]
        return torch.einsum("nhd,hdr->nhr", reads, u[row[layer]].to(reads)) * s[row[layer]].to(reads)

    with torch.inference_mode(), listening(visual, directions.layers, take) as heard:
        embeddings = visual(images).to(heard[FINAL])
        scale = final_deviation(visual, heard[FINAL])[:, 0] * embeddings.norm(dim=-1)
        return Activity(torch.stack([heard[layer] for layer in directions.layers], 1), scale)


class Sums(NamedTuple):
    """Running sums over pictures: ``total`` float64 [strata, values, layers, heads, r] of coefficients, ``number`` of
    pictures int64 [strata, values], ``scale`` float64 [1]."""

    total: Tensor
    number: Tensor
    scale: Tensor

    def add(self, found: Activity, strata: Tensor, values: Tensor) -> None:
        """Add pictures whose stratum and value are ``strata`` and ``values`` int64 [n]."""
        cell = strata * self.number.shape[1] + values
        self.total.view(-1, *self.total.shape[2:]).index_add_(0, cell, found.coefficients.to(self.total))
        self.number.view(-1).index_add_(0, cell, torch.ones_like(cell))
        self.scale.add_(found.scale.to(self.scale).sum())


def no_sums(strata: int, values: int, shape: Sequence[int]) -> Sums:
    """Sums over no picture."""
    total = torch.zeros(strata, values, *shape, dtype=torch.float64)
    return Sums(total, torch.zeros(strata, values, dtype=torch.int64), torch.zeros(1, dtype=torch.float64))


def activity_difference(sums: Sums, value: int) -> Tensor:
    """Mean coefficient with the value less without it, [layers, heads, r], over the mean scale of all pictures.

    Taken within each stratum that has both and averaged with equal weight; of more than two values the others are pooled.
    Raises ValueError where no stratum has both.
    """
    total, count = _against_rest(sums.total, value), _against_rest(sums.number, value)
    return stratified_difference(total, count) * sums.number.sum() / sums.scale


def _against_rest(parts: Tensor, value: int) -> Tensor:
    """[strata, 2, ...]: all other values, then the value."""
    own = parts[:, value]
    return torch.stack([parts.sum(1) - own, own], 1)

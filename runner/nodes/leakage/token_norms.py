"""Tokens of high norm, which may hold what is not their patch ("Vision Transformers Need Registers", 2309.16588).

The threshold needs pictures with texture: tokens of a flat background have nearly the same norm, so that the median absolute
deviation is tiny and ordinary tokens of the object lie above the threshold. The threshold, and what is compared with and without these tokens, are definitions of this project.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from runner.nodes.leakage.dependence import cosine_distance

DEVIATIONS = 5.0
"""Median absolute deviations above the median from which a norm is high."""


class WithAndWithout(NamedTuple):
    """1 - cosine of part vectors before and after a change, float64 [..., B]: pooled over all the part's tokens, and over
    those whose norm is high neither before nor after (NaN where none is left)."""

    all_tokens: Tensor
    without: Tensor


def high_norm(norms: Tensor, deviations: float = DEVIATIONS) -> Tensor:
    """Norms [..., N] of a picture's patch tokens -> bool [..., N]: above median + ``deviations`` x the median absolute deviation
    of that picture."""
    median = norms.median(-1, keepdim=True).values
    spread = (norms - median).abs().median(-1, keepdim=True).values
    return norms > median + deviations * spread


def distance_without(
    before: Tensor, after: Tensor, high_before: Tensor, high_after: Tensor, part: Tensor
) -> WithAndWithout:
    """Mean-pooled vectors of one part: tokens [..., B, N, D] of both pictures (normed as they are pooled), their high-norm tokens
    bool [..., B, N], ``part`` bool [B, N]."""
    kept = part & ~high_before & ~high_after
    masks = part.expand_as(kept), kept
    return WithAndWithout(*(cosine_distance(_mean(before, m), _mean(after, m)) for m in masks))


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of a mask: [..., N, D] and [..., N] -> [..., D]; NaN where it is empty."""
    chosen = mask.to(tokens.dtype)
    return torch.einsum("...nd,...n->...d", tokens, chosen) / chosen.sum(-1, keepdim=True)

"""Where the attention of a part's tokens goes, by block and head, and by rollout. Descriptive only: no measure of leakage.

Definitions of this project; rollout is that of Abnar and Zuidema ("Quantifying Attention Flow in Transformers", 2020).
B pictures, h heads, T = prefix + N tokens, P parts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionFlow(NamedTuple):
    """Mean attention that a part's queries pay, [B, h, P] each; the four sum to 1. ``own``: on the part's own patches,
    ``object``: on the rest of the object, ``background``: on patches outside it, ``prefix``: on CLS and registers. NaN where a
    part has no patch."""

    own: Tensor
    object: Tensor
    background: Tensor
    prefix: Tensor


def attention_flow(attention: Tensor, parts: Tensor, whole: Tensor, prefix: int) -> AttentionFlow:
    """``attention`` float [B, h, T, T], rows sum to 1; ``parts`` bool [B, P, N]; ``whole`` bool [B, N], the object (patches of a
    part count as object even where it leaves them out)."""
    chosen = parts.to(attention.dtype)
    weights = chosen / chosen.sum(-1, keepdim=True)
    rows = torch.einsum("bpn,bhnt->bhpt", weights, attention[:, :, prefix:])
    on_prefix, on_patches = rows[..., :prefix].sum(-1), rows[..., prefix:]
    own = torch.einsum("bhpn,bpn->bhp", on_patches, chosen)
    rest = (whole[:, None] | parts) & ~parts
    others = torch.einsum("bhpn,bpn->bhp", on_patches, rest.to(attention.dtype))
    outside = torch.einsum("bhpn,bpn->bhp", on_patches, (~(rest | parts)).to(attention.dtype))
    return AttentionFlow(own, others, outside, on_prefix)


def rollout(previous: Tensor | None, attention: Tensor) -> Tensor:
    """One block further: (mean over heads + identity) / 2 times the rollout so far, [B, h, T, T] -> [B, T, T]; rows sum to 1."""
    mixed = (attention.mean(1) + torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)) / 2
    return mixed if previous is None else mixed @ previous

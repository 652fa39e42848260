"""Attention that is looked into or masked: what backbones put in the place of their library's fused attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from runner.errors import ModelRefused

MOST_EXPONENT = 50.0
"""Exponents of dropped keys are clamped here (they are measured from the greatest kept score), so that none overflows."""

Attend = Callable[..., Tensor]
"""Takes the place of ``torch.nn.functional.scaled_dot_product_attention``, with its arguments."""


def attention_weights(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale q k'): query, key [B, h, T, d] -> float32 (or better) [B, h, T, T]; rows sum to 1."""
    return _scores(query, key, scale).softmax(-1)


def multiplicative_mask_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None = None
) -> Tensor:
    """Attention whose weights are multiplied by a gate of their key and divided by their sum, differentiable in the gate.

    w_ij = m_j exp(s_ij - max over kept s_ij) / sum_j' m_j' exp(...), with s = scale q k', exponents clamped at 50 and a
    key kept where m_j > 0. With a mask of 0 and 1 this is the boolean mask: nothing of a dropped key enters the result,
    and a gradient reaches the mask at kept and at dropped keys alike (made for straight-through masks).

    ``query``, ``key``, ``value`` float [B, h, T, d]; ``mask`` float >= 0, [B, T] or [B, 1, 1, T]; ``scale`` defaults to
    d ** -0.5. Returns [B, h, T, d] of the value's dtype, computed in float32 or better. A picture without any kept key
    gives NaN. NaN or infinity in a dropped value survives (0 times NaN): sanitise pixels, or drop the tokens.
    """
    scores = _scores(query, key, scale)
    gate = mask.view(mask.shape[0], 1, 1, mask.shape[-1]).to(scores.dtype)
    top = scores.detach().masked_fill(gate <= 0, -torch.inf).amax(-1, keepdim=True)
    unscaled = gate * (scores - top).clamp(max=MOST_EXPONENT).exp()
    weights = unscaled / unscaled.sum(-1, keepdim=True)
    return (weights @ value.to(weights.dtype)).to(value.dtype)


def _scores(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    query, key = (_at_least_float32(each) for each in (query, key))
    return (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, scale: float | None = None
) -> Tensor:
    """Fused attention in float32 or better: a query reads only keys that ``allowed`` (bool [B or 1, T, T]) lets it read.

    Forbidden keys have exactly no influence (their weight is 0, not small). The result has the value's dtype. A query that may
    read nothing means nothing (torch gives zeros or no number, by device): leave each at least one key, or leave it out.
    """
    mask = None if allowed is None else allowed.unsqueeze(1)
    wide = (_at_least_float32(query), _at_least_float32(key), _at_least_float32(value))
    return scaled_dot_product_attention(wide[0], wide[1], wide[2], attn_mask=mask, scale=scale).to(value.dtype)


class Interception(TorchFunctionMode):
    """While it is entered, calls of the fused attention made by this thread go to ``attend``; ``calls`` counts them.

    A torch function mode belongs to its thread: steps that run beside are not touched, and nothing global is patched.
    """

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self._attend, self.calls = attend, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hand on everything but the fused attention."""
        if func is scaled_dot_product_attention:
            self.calls += 1
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def with_attention(attend: Attend, run: Callable[[], Tensor], name: str) -> Tensor:
    """``run()`` with ``attend`` in the place of its one fused attention.

    Raises ``ModelRefused`` where ``run`` called it never (another kind of attention) or several times.
    """
    with Interception(attend) as mode:
        result = run()
    if mode.calls != 1:
        raise ModelRefused(
            f"{name}: a block called the fused attention of torch {mode.calls} times where one call was expected, "
            "so its attention can be neither masked nor read",
            hint="Take a backbone whose blocks have one plain self-attention each (ViT, DeiT, DINO, CLIP, SigLIP, MAE, EVA).",
        )
    return result

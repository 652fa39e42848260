"""Group-relative policy optimisation, pure: advantages, and the clipped loss with its reductions.

The objective is that of DeepSeekMath (2402.03300, eq. 3 and 4) as ProactiveBench (2603.19466) trains with it; reductions `dr_grpo` are of
2503.20783, `dapo` of 2503.14476, the ratio of whole sequences of 2507.18071.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo"]
Level = Literal["token", "sequence"]


def advantages(rewards: Tensor, *, scale: Scale = "group", eps: float = 1e-4) -> Tensor:
    """A_j = (r_j - mean r) / (std r + eps) of rewards (P, G), a row a group of answers to one prompt; (P, G), in float32 or better.

    ``std`` has ddof 1, over the group or over the whole batch; ``none`` divides by nothing. Groups whose rewards are all alike get exact
    zeros. Raises ``ValueError`` for other shapes.
    """
    if rewards.ndim != 2:
        raise ValueError(f"rewards are (prompts, rollouts), not {tuple(rewards.shape)}")
    values = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    centred = values - values.mean(1, keepdim=True)
    alike = values.amax(1, keepdim=True) == values.amin(1, keepdim=True)
    centred = torch.where(alike, 0.0, centred)  # the mean of equal numbers may differ from them by a rounding
    if scale == "none":
        return centred
    std = _std(values) if scale == "group" else _std(values.reshape(1, -1))
    return centred / (std + eps)


def _std(values: Tensor) -> Tensor:
    """With ddof 1 along rows (R, K) -> (R, 1); 0 where a row holds one value."""
    return values.std(1, keepdim=True) if values.shape[1] > 1 else torch.zeros_like(values)


def grpo_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    loss_type: LossType = "grpo",
    clip: float = 0.2,
    beta: float = 0.0,
    ref_logp: Tensor | None = None,
    level: Level = "token",
    max_completion_length: int | None = None,
    window_tokens: float | None = None,
    kl_times_ratio: bool = False,
) -> Tensor:
    """The loss of N answers of at most T tokens, a scalar whose gradient flows through ``logp`` alone.

    Token loss = -min(rho A, clip(rho, 1 - clip, 1 + clip) A) + beta KL with rho = exp(logp - old_logp), or, at level ``sequence``, the
    exponential of its mean log over the answer. Reductions over ``mask``: see ``reduced``.

    Args:
        logp, old_logp, ref_logp: log-probabilities (nats) of the drawn tokens (N, T); values outside ``mask`` are ignored.
        advantages: (N,), the same for every token of an answer.
        mask: (N, T), true (or 1) where a token belongs to the answer.
        kl_times_ratio: weigh the divergence by rho, which makes its gradient unbiased off policy.

    Raises:
        ValueError: ``beta`` without ``ref_logp``, or what a reduction needs is missing.
    """
    if beta and ref_logp is None:
        raise ValueError("beta > 0 needs ref_logp")
    inside = mask.bool()
    ratio = ratios(logp, old_logp, inside, level)
    gain = advantages.detach()[:, None]
    loss = -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    if beta and ref_logp is not None:
        kl = divergence(logp, ref_logp, inside)
        loss = loss + beta * (kl * ratio if kl_times_ratio else kl)
    return reduced(loss, inside, loss_type, max_completion_length=max_completion_length, window_tokens=window_tokens)


def ratios(logp: Tensor, old_logp: Tensor, mask: Tensor, level: Level = "token") -> Tensor:
    """rho (N, T) in float32 or better; 1 outside ``mask`` (bool) at level ``token``. ``old_logp`` takes no gradient."""
    log_ratio = _inside(logp - old_logp.detach(), mask)
    if level == "sequence":
        log_ratio = (log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)).expand_as(log_ratio)
    return log_ratio.exp()


def divergence(logp: Tensor, ref_logp: Tensor, mask: Tensor) -> Tensor:
    """KL = exp(ref - logp) - (ref - logp) - 1 >= 0 at each token (N, T), an unbiased estimate on policy; 0 outside ``mask`` (bool)."""
    difference = _inside(ref_logp.detach() - logp, mask)
    return difference.exp() - difference - 1


def reduced(
    loss: Tensor, mask: Tensor, loss_type: LossType, *, max_completion_length: int | None = None,
    window_tokens: float | None = None,
) -> Tensor:  # fmt: skip
    """Token losses (N, T) over a bool mask as a scalar.

    ``grpo``: mean over answers of the mean over an answer's tokens; ``bnpo``: sum / tokens; ``dr_grpo``: sum / (N max_completion_length);
    ``dapo``: sum / ``window_tokens``, the tokens of the whole step (default: those of this batch).
    """
    kept = torch.where(mask, loss, 0.0)
    if loss_type == "grpo":
        return (kept.sum(1) / mask.sum(1).clamp(min=1)).mean()
    if loss_type == "dr_grpo":
        if max_completion_length is None:
            raise ValueError("dr_grpo needs max_completion_length")
        return kept.sum() / (len(loss) * max_completion_length)
    tokens = window_tokens if loss_type == "dapo" and window_tokens is not None else mask.sum().clamp(min=1)
    return kept.sum() / tokens


def clipped(ratio: Tensor, advantages: Tensor, clip: float = 0.2) -> Tensor:
    """Whether clipping takes the gradient of a token: bool (N, T) of ratios (N, T) and advantages (N,)."""
    gain = advantages[:, None]
    return ((ratio < 1 - clip) & (gain < 0)) | ((ratio > 1 + clip) & (gain > 0))


def _inside(values: Tensor, mask: Tensor) -> Tensor:
    """0 outside the mask, so that no infinity of a padded place reaches a gradient."""
    return torch.where(mask, values.to(torch.promote_types(values.dtype, torch.float32)), 0.0)

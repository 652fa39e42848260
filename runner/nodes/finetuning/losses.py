"""Distances between a student and its teacher, in float32 by chunks of positions.

Temperature T, student and teacher logits z_s, z_t, p = softmax(z / T). Divergences carry the factor T^2, so that their gradients
keep their size when T changes (2604.24380, section on recovery; "batch_sum" over all positions is what its code computes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Reduction = Literal["token_mean", "batch_sum"]
Divergence = Literal["forward_kl", "reverse_kl"]
CHUNK = 1024


def forward_kl(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    reduction: Reduction = "token_mean",
    chunk: int = CHUNK,
) -> Tensor:
    """T^2 * KL(p_t || p_s) of logits (B, S, V) -> scalar float32.

    ``mask`` bool (B, S): positions that count; None: all. ``token_mean``: mean over them; ``batch_sum``: their sum / B.
    ``chunk`` positions are turned to float32 at a time. Raises ``ValueError`` where the shapes differ.
    """
    return _reduced("forward_kl", student, teacher, mask, temperature, reduction, chunk)


def reverse_kl(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    reduction: Reduction = "token_mean",
    chunk: int = CHUNK,
) -> Tensor:
    """T^2 * KL(p_s || p_t) of logits (B, S, V) -> scalar float32; see ``forward_kl``."""
    return _reduced("reverse_kl", student, teacher, mask, temperature, reduction, chunk)


def hidden_l2(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of (h_s - h_t)^2 over positions that count and channels; hidden states (B, S, D) -> scalar float32."""
    _need_same(student, teacher)
    keep = _flat_mask(mask, student)
    return squared_error(student.flatten(0, -2)[keep], teacher.flatten(0, -2)[keep]).mean()


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over channels of (h_s - h_t)^2: (N, D) -> (N,) float32."""
    return (student.float() - teacher.float()).square().mean(-1)


def divergence(kind: Divergence, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL of each row of logits (N, V) -> (N,) float32, without the factor T^2."""
    return _kl(kind, _log_softmax(student, temperature), _log_softmax(teacher, temperature))


def coarse_teacher(teacher: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens of logits (N, V): their indices (N, k) and log-probabilities (N, k + 1), the rest as one at
    the end; k is at most V - 1, which says all."""
    log_p = _log_softmax(teacher, temperature)
    index = log_p.topk(min(k, teacher.shape[-1] - 1), dim=-1).indices
    return index, _coarse(log_p, index)


def coarse_divergence(
    kind: Divergence, student: Tensor, index: Tensor, teacher_log_p: Tensor, temperature: float
) -> Tensor:
    """KL of each row after all tokens but the teacher's k likeliest are counted as one -> (N,) float32.

    Never above ``divergence`` of the same rows, since merging outcomes loses information; equal to it for k = V - 1 or V.
    """
    log_p = _log_softmax(student, temperature)
    return _kl(kind, _coarse(log_p, index), teacher_log_p.float())


def by_chunks(compute: Callable[..., Tensor], chunk: int, *rows: Tensor) -> Tensor:
    """``compute`` on chunks of the rows (N, ...), its results (n,) joined; inner tensors are made again for the gradient."""
    length = len(rows[0])
    if length <= chunk:
        return compute(*rows)
    parts = []
    for start in range(0, length, chunk):
        piece = [r[start : start + chunk] for r in rows]
        parts.append(checkpoint(compute, *piece, use_reentrant=False))
    return torch.cat(parts)


def _reduced(
    kind: Divergence,
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    temperature: float,
    reduction: Reduction,
    chunk: int,
) -> Tensor:
    _need_same(student, teacher)
    keep = _flat_mask(mask, student)

    def rows(s: Tensor, t: Tensor) -> Tensor:
        return divergence(kind, s, t, temperature)

    each = by_chunks(rows, chunk, student.flatten(0, -2)[keep], teacher.flatten(0, -2)[keep])
    total = each.sum() / (len(student) if reduction == "batch_sum" else max(1, each.numel()))
    return temperature**2 * total


def _kl(kind: Divergence, student_log_p: Tensor, teacher_log_p: Tensor) -> Tensor:
    if kind == "reverse_kl":
        student_log_p, teacher_log_p = teacher_log_p, student_log_p
    # p log p is 0 where p is 0, also when log p is -inf on both sides.
    each = functional.kl_div(student_log_p, teacher_log_p, reduction="none", log_target=True)
    return torch.where(teacher_log_p == -torch.inf, torch.zeros_like(each), each).sum(-1)


def _coarse(log_p: Tensor, index: Tensor) -> Tensor:
    """Log-probabilities (N, V) of the words of ``index`` (N, k < V), and of all others together: (N, k + 1).

    The rest is summed over the other words: 1 minus the sum of the first loses all digits, and its gradient, where they hold nearly all.
    """
    rest = log_p.scatter(-1, index, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_p.gather(-1, index), rest], -1)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return functional.log_softmax(logits.float() / temperature, -1)


def _flat_mask(mask: Tensor | None, like: Tensor) -> Tensor:
    shape = like.shape[:-1]
    if mask is None:
        return torch.ones(shape.numel(), dtype=torch.bool, device=like.device)
    if mask.shape != shape:
        raise ValueError(f"the mask {tuple(mask.shape)} does not fit positions {tuple(shape)}")
    return mask.bool().flatten()


def _need_same(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")

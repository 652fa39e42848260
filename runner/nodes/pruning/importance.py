"""How much a decoder block, an attention group or a neuron matters: every criterion as a function on tensors.

T tokens, D width of the residual stream, W [out, in] a weight, g its gradient, C channels of a coupled group (rows of q, k, v, gate
and up; columns of o and down). Everything is computed in float32, or float64 where float64 comes in; sums over tokens are float64.

Sources: block influence and Taylor kinds as "Structural Pruning of Large Vision Language Models" (2604.24380) takes them from ShortGPT
and LLM-Pruner; angular distance after Gromov et al.; ``activation`` after Minitron; ``wanda_sp`` and ``flap`` in the structured form
of those methods. Forms that are more exact in floating point, and what is said below to be ours, are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from runner.nodes.pruning.names import Reduction, Saliency

MAGNITUDES = ("l1", "l2")
"""Kinds that read weights alone; the reference averages their members whatever reduction is asked for."""
GRADIENTS = ("param_first", "vectorize", "param_mix")
"""Kinds that need the gradient of the whole calibration set."""
FISHER = ("param_second", "param_mix")
"""Kinds that need squared gradients sample by sample."""

CHUNK = 1 << 22
"""Elements of the float32 copies made at a time."""
CACHED = 1 << 16
"""The same on a CPU, where copies that stay in its cache cost little."""
UNDEFINED = 0.5
"""The cosine with a zero vector, as the reference counts it."""


def exact(x: Tensor) -> Tensor:
    """As float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


# --- decoder blocks ----------------------------------------------------------------------------------------------------


def block_influence(inputs: Tensor, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
    """BI of a block by token: 1 - cos(x_t, y_t), in 0..2 ([..., T, D], [..., T, D] -> [..., T]).

    Computed as half the squared distance of the unit vectors, which is the same number and keeps its digits where the cosine
    is nearly 1. A zero vector counts 0.5. ``mask`` bool [..., T]: tokens where it is False get 0, whatever stands there.
    """
    return _by_token(_half_squared_distance, inputs, outputs, mask)


def angular_distance(inputs: Tensor, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
    """arccos(cos(x_t, y_t)) / pi by token, in 0..1 ([..., T, D], [..., T, D] -> [..., T]).

    By the half-angle form 2 atan2(|u - v|, |u + v|) of the unit vectors, which no rounding takes out of its range (arccos of a
    cosine of 1 + 1e-7 is NaN). A zero vector counts as a cosine of 0.5, so 1/3. ``mask`` as in ``block_influence``.
    """
    return _by_token(_angle, inputs, outputs, mask)


def angular_triangle(states: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sums over tokens of the angular distance between all pairs of states ([L + 1, ..., T, D] -> float64 [L + 1, L + 1]).

    State l enters block l, so entry (l, l + n) is what removing blocks l .. l + n - 1 turns the stream by. The rest of the
    matrix is 0. ``mask`` bool [..., T].
    """
    count, width = states.shape[0], states.shape[-1]
    flat = states.reshape(count, -1, width)
    if mask is not None:
        flat = flat[:, mask.reshape(-1)]
    sums = torch.zeros(count, count, dtype=torch.float64, device=states.device)
    for rows in torch.split(flat, max(1, CHUNK // (count * width)), 1):
        for start in range(count - 1):
            later = rows[start + 1 :]
            angles = _angle(rows[start].expand_as(later).reshape(-1, width), later.reshape(-1, width))
            sums[start, start + 1 :] += angles.view(later.shape[:-1]).double().sum(1)
    return sums


def _by_token(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """``distance`` of rows, chunk by chunk: no [T, T] and no full float32 copy is made."""
    width = x.shape[-1]
    rows = max(1, min(CHUNK, CACHED if x.device.type == "cpu" else CHUNK) // width)
    pairs = zip(*(torch.split(v.reshape(-1, width), rows) for v in (x, y)), strict=True)
    found = torch.cat([distance(a, b) for a, b in pairs]).view(x.shape[:-1])
    return found if mask is None else found.where(mask, found.new_zeros(()))


def _units(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors of the rows, and where one of the two is zero."""
    x, y = exact(x), exact(y)
    sizes = [torch.linalg.vector_norm(v, dim=-1, keepdim=True) for v in (x, y)]
    void = (sizes[0] == 0) | (sizes[1] == 0)
    u, v = (vector / size.masked_fill(size == 0, 1) for vector, size in zip((x, y), sizes, strict=True))
    return u, v, void.squeeze(-1)


def _half_squared_distance(x: Tensor, y: Tensor) -> Tensor:
    u, v, void = _units(x, y)
    return u.sub_(v).square_().sum(-1).div_(2).masked_fill(void, 1 - UNDEFINED)


def _angle(x: Tensor, y: Tensor) -> Tensor:
    u, v, void = _units(x, y)
    apart, along = (torch.linalg.vector_norm(w, dim=-1) for w in (u - v, u + v))
    return (2 / math.pi * torch.atan2(apart, along)).masked_fill(void, math.acos(UNDEFINED) / math.pi)


# --- weights -------------------------------------------------------------------------------------------------------------


def weight_saliency(kind: Saliency, weight: Tensor, grad: Tensor | None = None, fisher: Tensor | None = None) -> Tensor:
    """I(w) of every weight, in its shape; signed for ``vectorize``, else >= 0.

    ``param_first`` |w g|, ``vectorize`` w g, ``param_second`` w^2 F, ``param_mix`` |w g - w^2 F / 2|, ``l1`` |w|, ``l2`` w^2 (no
    root). ``fisher`` F: mean over samples of squared gradients. ValueError where a kind lacks what it needs.
    """
    if (kind in GRADIENTS and grad is None) or (kind in FISHER and fisher is None):
        raise ValueError(f"{kind} needs {'a gradient' if grad is None and kind in GRADIENTS else 'a Fisher diagonal'}")
    w = exact(weight.detach())
    if kind == "l1":
        return w.abs()
    if kind == "l2":
        return w.square()
    if kind == "param_second":
        return w.square() * exact(_given(fisher))
    first = w * exact(_given(grad))
    if kind == "vectorize":
        return first
    return first.abs() if kind == "param_first" else (first - w.square() * exact(_given(fisher)) / 2).abs()


def _given(x: Tensor | None) -> Tensor:
    assert x is not None  # weight_saliency has looked
    return x


def channel_scores(saliency: Tensor, axis: int, kind: Saliency = "param_first") -> Tensor:
    """Sums over the other axis of a matrix: rows (axis 0) over inputs, columns (axis 1) over outputs ([out, in] -> [C]).

    For ``vectorize`` the absolute value is taken after the sum: |dL/dm_c| of a factor m_c = 1 on that row or column.
    """
    summed = saliency.sum(1 - axis)
    return summed.abs() if kind == "vectorize" else summed


# --- coupled groups ------------------------------------------------------------------------------------------------------


def group_scores(
    members: Sequence[Tensor],
    kind: Saliency = "param_first",
    reduction: Reduction = "sum",
    *,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
) -> Tensor:
    """Channel scores of a group's members to scores of its units.

    Neurons: members [C] each (gate, up, down) -> [C]. Attention (``heads`` given): q [heads d], k, v [kv_heads d], o [heads d] ->
    [kv_heads]: query heads g r .. g r + r - 1 (r = heads / kv_heads) belong to key-value head g, side by side; members are reduced by
    channel, then channels are summed. (Folding with a stride of kv_heads d, as a published code does, adds other heads.)
    ``l1`` and ``l2`` take the mean of the members whatever ``reduction`` says, as the reference does.
    """
    how: Reduction = "mean" if kind in MAGNITUDES else reduction
    if heads is None:
        return _reduced(members, how)
    groups = kv_heads or heads
    width = head_dim or members[0].shape[0] // heads
    folded = [member.reshape(groups, -1, width).sum(1) for member in members]
    return _reduced(folded, how).sum(1)


def query_head_scores(
    q: Tensor, o: Tensor, heads: int, kind: Saliency = "param_first", reduction: Reduction = "sum"
) -> Tensor:
    """Scores of single query heads, from the rows of q and the columns of o alone ([heads d], [heads d] -> [heads]). Ours."""
    how: Reduction = "mean" if kind in MAGNITUDES else reduction
    return _reduced([m.reshape(heads, -1) for m in (q, o)], how).sum(1)


def _reduced(members: Sequence[Tensor], reduction: Reduction) -> Tensor:
    stacked = torch.stack(list(members))
    if reduction == "first":
        return stacked[0]
    if reduction == "max":
        return stacked.amax(0)
    if reduction == "prod":
        return stacked.prod(0)
    return stacked.sum(0) if reduction == "sum" else stacked.mean(0)


def unit_sums(channels: Tensor, units: int) -> Tensor:
    """Scores of units whose channels lie side by side: sums ([C] -> [units])."""
    return channels.reshape(units, -1).sum(1)


# --- inputs of o and down, forward only -----------------------------------------------------------------------------------


def activation_score(samples: Tensor, units: int | None = None) -> Tensor:
    """Minitron: sqrt(sum_b (mean_t |a_btc|)^2); a unit: the L2 norm over its channels ([B, C] -> [C] or [units]).

    ``samples``: mean over tokens of |a| for each sample, a being what enters down or o.
    """
    squares = exact(samples).square().sum(0)
    return (squares if units is None else unit_sums(squares, units)).sqrt()


def wanda_sp(weight: Tensor, squares: Tensor) -> Tensor:
    """Column scores sum_i |W_ij| ||X_j||_2 ([out, C], [C] -> [C]); ``squares``: sums over tokens of x_j^2."""
    return exact(weight.detach()).abs().sum(0) * exact(squares).sqrt().to(exact(weight).dtype)


def flap(weight: Tensor, variance: Tensor) -> Tensor:
    """Column scores Var_t(X_j) ||W_:j||^2 ([out, C], [C] -> [C])."""
    return exact(weight.detach()).square().sum(0) * variance.to(exact(weight).dtype)

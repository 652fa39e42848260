"""SITH in weight space: value-output matrices, their singular vectors, the joint space, and edited weights.

Row-vector convention: head h writes y = x A_h B_h. Source: "From Weights to Concepts: Data-Free Interpretability of CLIP
via Singular Vector Decomposition" (arXiv 2603.24653). The QR route to the singular vectors and the write-back as a plain
state dict are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from runner.errors import DataError, ModelRefused
from runner.nodes.sith.tower import attention_weights, layer_indices, norm_affine, plain_tower, precise, projection

Readout = Literal["full", "no_bias", "linear"]
TINY = 1e-12


class HeadFactors(NamedTuple):
    """W_VO^h = A_h B_h: ``A`` (H, D, r), ``B`` (H, r, D); ``bias`` (D,): what the block writes whatever it reads."""

    A: Tensor
    B: Tensor
    bias: Tensor


class HeadSvd(NamedTuple):
    """W = u diag(s) vh: ``u`` (..., D, r) reads, ``s`` (..., r) descending gains, ``vh`` (..., r, D) rows write."""

    u: Tensor
    s: Tensor
    vh: Tensor


def vo_factors(visual: Any, layer: int, fold_ln: bool = True, dtype: torch.dtype | None = None) -> HeadFactors:
    """Factors of the value-output matrices of block ``layer`` (negative counts from the end).

    float64 towers give float64, others float32, unless ``dtype`` says otherwise. ``bias`` = b_out + W_out b_V, constant because attention rows sum to 1.
    Raises ``ModelRefused`` for towers that are no plain ViT, ``DataError`` for a layer out of range.
    """
    tower = plain_tower(visual)
    at = layer_indices([layer], tower.layers)[0]
    weights = attention_weights(visual, at, fold_ln=fold_ln, dtype=dtype)
    D, H, r = tower.width, tower.heads, tower.head_dim
    w_v, b_v = weights.w_in[2 * D :], weights.b_in[2 * D :]
    A = w_v.reshape(H, r, D).transpose(1, 2)
    B = weights.w_out.reshape(D, H, r).permute(1, 2, 0)
    return HeadFactors(A, B, weights.b_out + weights.w_out @ b_v)


def svd_of_product(A: Tensor, B: Tensor) -> HeadSvd:
    """SVD of A B for ``A`` (..., D, r) and ``B`` (..., r, D) without forming D x D: QR of both, SVD of the r x r core.

    Signs: the entry of each u_j of largest magnitude is positive. Rank-deficient factors give zero singular values with
    orthonormal vectors all the same.
    """
    q1, r1 = torch.linalg.qr(A)
    q2, r2 = torch.linalg.qr(B.transpose(-1, -2))
    p, s, n = torch.linalg.svd(r1 @ r2.transpose(-1, -2), full_matrices=False)
    return turned(HeadSvd(q1 @ p, s, n @ q2.transpose(-1, -2)))


def turned(svd: HeadSvd) -> HeadSvd:
    """Each pair (u_j, v_j) turned so that the entry of u_j of largest magnitude is positive (rule ``max_u``)."""
    largest = svd.u.gather(-2, svd.u.abs().argmax(-2, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(svd.u)
    return HeadSvd(svd.u * sign, svd.s, svd.vh * sign.transpose(-1, -2))


def near_degenerate(s: Tensor, tolerance: float = 1e-4) -> Tensor:
    """Which of the descending values (..., r) equal a neighbour within ``tolerance`` of it: vectors only up to rotation."""
    close = (s[..., :-1] - s[..., 1:]) <= tolerance * s[..., :-1]
    edge = torch.zeros_like(close[..., :1])
    return torch.cat([edge, close], -1) | torch.cat([close, edge], -1)


# --- the joint space ---------------------------------------------------------------------------------------------------


def unit(x: Tensor) -> Tensor:
    """Rows (..., n) scaled to norm 1, norms floored at 1e-12."""
    scaled: Tensor = x / x.norm(dim=-1, keepdim=True).clamp_min(TINY)
    return scaled


def to_joint(
    vectors: Tensor, visual: Any, mu: Tensor | None, *, ln_post: Readout = "full", centre: bool = True
) -> Tensor:
    """Residual vectors (..., D) in the joint space (..., d), unit: proj(ln_post(v)), scaled, minus ``mu``, scaled.

    ``full`` is the tower's LayerNorm with its own eps; ours: ``no_bias`` leaves its beta out, so that -v maps to -p, and
    ``linear`` only multiplies by gamma. ``mu`` (d,): mean of unit image embeddings, not itself scaled; None or
    ``centre=False`` leaves it out. Raises ``DataError`` for a mean of another size.
    """
    proj = projection(visual).to(vectors)
    if mu is not None and mu.shape != proj.shape[1:]:
        raise DataError(f"the image mean has shape {tuple(mu.shape)}, the joint space has {proj.shape[1]} dimensions")
    joint = unit(_read_out(vectors, visual.ln_post, ln_post) @ proj)
    return unit(joint - mu.to(joint)) if centre and mu is not None else joint


def _read_out(vectors: Tensor, norm: Any, how: Readout) -> Tensor:
    gain, bias = norm_affine(norm, vectors)
    if how == "linear":
        return vectors * gain
    shape = (vectors.shape[-1],)
    return torch.nn.functional.layer_norm(vectors, shape, gain, bias if how == "full" else None, norm.eps)


# --- edited weights ----------------------------------------------------------------------------------------------------


def write_back(
    visual: Any, edits: Mapping[int, Tensor], fold_ln: bool = True, *, truncate: bool = False
) -> dict[str, Tensor]:
    """State dict of the stock tower with W_VO' = U diag(s * m) V^T for the layers in ``edits``: multipliers (H, k), k <= r.

    W_V' = (U sqrt|s m|)^T, W_O' = sign(s m) sqrt|s m| V^T, value bias 0 and the block's constant in b_out; with ``fold_ln``
    ln_1 becomes the identity and QK are folded too. Directions beyond k are kept (m = 1) unless ``truncate``. float32, or
    float64 where the tower is. Raises ``DataError`` for multipliers of another shape or not finite.
    """
    tower = plain_tower(visual)
    factors = {}
    for layer, multipliers in zip(layer_indices([*edits], tower.layers) if edits else [], edits.values(), strict=True):
        own = vo_factors(visual, layer, fold_ln)
        m = _padded(multipliers.to(own.A), tower.heads, tower.head_dim, 0.0 if truncate else 1.0)
        svd = svd_of_product(own.A, own.B)
        factors[layer] = HeadFactors(*balanced(svd.u, svd.s * m, svd.vh), own.bias)
    return write_factors(visual, factors, fold_ln)


def _padded(multipliers: Tensor, heads: int, rank: int, rest: float) -> Tensor:
    if multipliers.ndim != 2 or len(multipliers) != heads or multipliers.shape[1] > rank:
        raise DataError(f"multipliers have shape {tuple(multipliers.shape)}, expected [{heads}, at most {rank}]")
    if not torch.isfinite(multipliers).all():
        raise DataError("multipliers contain NaN or infinity")
    full = multipliers.new_full((heads, rank), rest)
    full[:, : multipliers.shape[1]] = multipliers
    return full


def balanced(u: Tensor, s: Tensor, vh: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (A, B) of u diag(s) vh with the gain shared evenly; signs of ``s`` go to B. vh need not be orthonormal."""
    root = s.abs().sqrt()
    return u * root[..., None, :], (s.sign() * root)[..., None] * vh


def write_factors(visual: Any, factors: Mapping[int, HeadFactors], fold_ln: bool = True) -> dict[str, Tensor]:
    """State dict of the stock tower whose blocks in ``factors`` have these value-output matrices; others untouched.

    ``factors`` must come from the same ``fold_ln``. Raises ``ModelRefused`` where attention has no bias to hold the constant.
    """
    state = {name: precise(value).clone() for name, value in visual.state_dict().items()}
    for layer, own in factors.items():
        made = _block_state(visual, layer, own, fold_ln)
        for name in made.keys() - state.keys():
            if name.endswith("bias") and bool(made[name].abs().max() > 0):
                raise ModelRefused(
                    f"{name}: this attention has no bias, and the edited weights need one",
                    hint="Use fold_ln: false, which leaves ln_1 as it is.",
                )
        state |= {name: value.contiguous() for name, value in made.items() if name in state}
    return state


def _block_state(visual: Any, layer: int, own: HeadFactors, fold_ln: bool) -> dict[str, Tensor]:
    weights = attention_weights(visual, layer, fold_ln=fold_ln)
    D, at = len(own.bias), f"transformer.resblocks.{layer}"
    w_v, w_o = own.A.transpose(1, 2).reshape(-1, D), own.B.permute(2, 0, 1).reshape(D, -1)
    made = {
        f"{at}.attn.in_proj_weight": torch.cat([weights.w_in[: 2 * D], w_v]),
        f"{at}.attn.in_proj_bias": torch.cat([weights.b_in[: 2 * D], torch.zeros_like(own.bias)]),
        f"{at}.attn.out_proj.weight": w_o,
        f"{at}.attn.out_proj.bias": own.bias,
        f"{at}.ls_1.gamma": torch.ones_like(own.bias),
    }
    if fold_ln:
        made[f"{at}.ln_1.weight"], made[f"{at}.ln_1.bias"] = torch.ones_like(own.bias), torch.zeros_like(own.bias)
    return made

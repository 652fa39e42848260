"""Vision towers that can be read head by head: what is accepted, and the weights of one attention block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from runner.errors import DataError, ModelRefused


class Tower(NamedTuple):
    """Sizes of a plain vision transformer. ``notes``: what a reader of its directions must know."""

    layers: int
    heads: int
    width: int
    head_dim: int
    dim: int
    notes: tuple[str, ...]


class Attention(NamedTuple):
    """One block's attention: ``w_in`` (3D, D), ``b_in`` (3D,), ``w_out`` (D, D), ``b_out`` (D,); y = W x + b."""

    w_in: Tensor
    b_in: Tensor
    w_out: Tensor
    b_out: Tensor


def plain_tower(visual: Any) -> Tower:
    """Sizes of an open_clip ``VisionTransformer`` with class token and joint in_proj.

    Raises ``ModelRefused`` for convolutional and timm towers, attentional pooling, attention of another class or with q,
    k and v given separately, and a norm before it that is no LayerNorm.
    """
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks) or not hasattr(visual, "class_embedding"):
        raise ModelRefused(
            f"the vision tower is a {type(visual).__name__}, not a plain vision transformer of open_clip",
            hint="Heads can be read in models such as ViT-B-32, ViT-B-16, ViT-L-14.",
        )
    if getattr(visual, "attn_pool", None) is not None or not isinstance(visual.ln_post, nn.LayerNorm):
        raise ModelRefused(
            "the vision tower pools by attention or has no final LayerNorm: what a head writes is not read by a projection"
        )
    for number, block in enumerate(blocks):
        _check_block(f"block {number} of the vision tower", block)
    attention: Any = blocks[0].attn
    width, heads = int(attention.embed_dim), int(attention.num_heads)
    return Tower(len(blocks), heads, width, width // heads, projection(visual).shape[1], _notes(visual))


def _check_block(where: str, block: Any) -> None:
    attention = getattr(block, "attn", None)
    if type(attention) is not nn.MultiheadAttention:
        raise ModelRefused(f"{where}: attention is a {type(attention).__name__}; torch.nn.MultiheadAttention is needed")
    if attention.in_proj_weight is None:
        raise ModelRefused(f"{where}: q, k and v are given separately; one in_proj_weight [3D, D] is needed")
    if attention.bias_k is not None or attention.add_zero_attn:
        raise ModelRefused(f"{where}: attention has an extra key, so the value bias is not constant")
    if not isinstance(getattr(block, "ln_1", None), nn.LayerNorm):
        raise ModelRefused(f"{where}: ln_1 is a {type(getattr(block, 'ln_1', None)).__name__}, not a LayerNorm")
    if type(block).__name__ != "ResidualAttentionBlock" or not _layer_scale_known(block):
        raise ModelRefused(f"{where}: a {type(block).__name__} is not x + attn(ln_1(x)), then x + mlp(ln_2(x))")


def _layer_scale_known(block: Any) -> bool:
    scale = getattr(block, "ls_1", None)
    return scale is None or isinstance(scale, nn.Identity) or isinstance(getattr(scale, "gamma", None), Tensor)


def _notes(visual: Any) -> tuple[str, ...]:
    if getattr(visual, "pool_type", "tok") == "tok":
        return ()
    return (
        f"the tower pools by {visual.pool_type!r}, not by its class token: what a head writes reaches the embedding through "
        "all tokens, so read its directions with care",
    )


def layer_indices(layers: Sequence[int], count: int) -> list[int]:
    """Blocks from 0 for numbers that may count from the end (-1 is the last). Raises ``DataError``: out of range, repeated."""
    outside = [layer for layer in layers if not -count <= layer < count]
    if outside or not layers:
        raise DataError(
            f"layers {list(layers)}: {outside[0] if outside else 'none'} given, the vision tower has {count} blocks",
            hint=f"Give some of {-count} .. {count - 1}, such as {list(range(-min(4, count), 0))}.",
        )
    found = [layer % count for layer in layers]
    twice = sorted({layer for layer in found if found.count(layer) > 1})
    if twice:
        raise DataError(f"layers {list(layers)}: block {twice[0]} is named twice", hint="-1 is the last block.")
    return found


def precise(tensor: Tensor) -> Tensor:
    """Half-precision numbers as float32; float32, float64 and integers as they are. Detached."""
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def projection(visual: Any) -> Tensor:
    """The projection (D, d) into the joint space; the identity where the tower has none."""
    proj = getattr(visual, "proj", None)
    if proj is None:
        gain: Tensor = visual.ln_post.weight
        return torch.eye(gain.shape[0], dtype=precise(gain).dtype, device=gain.device)
    if not isinstance(proj, Tensor):
        raise ModelRefused(f"the vision tower's proj is a {type(proj).__name__}, not a matrix [D, d]")
    return precise(proj)


def norm_affine(norm: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and bias of a LayerNorm in dtype and device of ``like``; ones and zeros where it has none."""
    size = norm.normalized_shape[0]
    gain = like.new_ones(size) if norm.weight is None else norm.weight.detach().to(like)
    bias = like.new_zeros(size) if norm.bias is None else norm.bias.detach().to(like)
    return gain, bias


def attention_weights(visual: Any, layer: int, *, fold_ln: bool = True, dtype: torch.dtype | None = None) -> Attention:
    """Weights of block ``layer``, LayerScale included, missing biases as zeros.

    ``fold_ln``: the affine part of ln_1 goes into W_in and b_in (bias first, with W_in unscaled), the rows of W_in and the
    columns of W_out lose their mean. The model's output is unchanged: LayerNorm gives vectors orthogonal to 1 and never
    sees what is written along 1. b_out keeps its mean. ``dtype``: that of the folding and of what comes out.
    """
    block = visual.transformer.resblocks[layer]
    attention = block.attn
    w_in, w_out = (precise(w) for w in (attention.in_proj_weight, attention.out_proj.weight))
    if dtype is not None:
        w_in, w_out = w_in.to(dtype), w_out.to(dtype)
    b_in = w_in.new_zeros(len(w_in)) if attention.in_proj_bias is None else attention.in_proj_bias.detach().to(w_in)
    b_out = (
        w_out.new_zeros(len(w_out)) if attention.out_proj.bias is None else attention.out_proj.bias.detach().to(w_out)
    )
    scale = getattr(getattr(block, "ls_1", None), "gamma", None)
    if scale is not None:
        w_out, b_out = w_out * scale.detach().to(w_out)[:, None], b_out * scale.detach().to(b_out)
    if not fold_ln:
        return Attention(w_in, b_in, w_out, b_out)
    gain, bias = norm_affine(block.ln_1, w_in)
    b_in, w_in = b_in + w_in @ bias, w_in * gain
    return Attention(w_in - w_in.mean(1, keepdim=True), b_in, w_out - w_out.mean(0, keepdim=True), b_out)

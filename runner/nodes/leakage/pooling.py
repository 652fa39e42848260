"""Tokens by layer, and tokens pooled to vectors of parts.

Pure functions on tensors. B pictures, P parts, N patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from runner.models.base import VisionBackbone
from runner.nodes.leakage.masks import coverage, patch_mask
from runner.nodes.leakage.names import POOLS, Norm, Pool, Rule


class LayerTokens(NamedTuple):
    """Tokens of one layer before any norm: ``prefix`` [B, prefix tokens, D], ``patches`` [B, N, D]."""

    layer: int
    prefix: Tensor
    patches: Tensor


def layer_numbers(depth: int, layers: Sequence[int] | Literal["all"] | None) -> list[int]:
    """Layers 0 .. depth by number, negative from the end; None: the last, ``all``: every one. ``ValueError`` for others."""
    if layers is None:
        return [depth]
    if layers == "all":
        return list(range(depth + 1))
    numbers = [int(each) + depth + 1 if int(each) < 0 else int(each) for each in layers]
    wrong = [given for given, number in zip(layers, numbers, strict=True) if not 0 <= number <= depth]
    if wrong or not numbers:
        raise ValueError(
            f"no layer {wrong[0] if wrong else '(none given)'}: there are 0 .. {depth} (or -{depth + 1} .. -1)"
        )
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"layers {list(layers)} name one layer twice")
    return numbers


def normed(backbone: VisionBackbone, tokens: Tensor, norm: Norm) -> Tensor:
    """Tokens [..., D] of a layer as they are pooled, float32 or better: under the final norm, raw, or projected by a CLIP."""
    if norm != "raw" and backbone.kind_of_layers == "tokens":
        tokens = backbone.norm(tokens)
    if norm == "projected":
        tokens = _projected(backbone, tokens)
    return tokens.float() if tokens.dtype in (torch.float16, torch.bfloat16) else tokens


def check_norm(backbone: VisionBackbone, norm: Norm) -> None:
    """Raise ``ValueError`` where this backbone has no such norm."""
    if norm == "projected":
        _projected(backbone, torch.zeros(1, backbone.widths[-1], device=backbone.device))


def _projected(backbone: VisionBackbone, vectors: Tensor) -> Tensor:
    projected = backbone.project(vectors)
    if projected is None:
        raise ValueError(f"{backbone.name} has no joint space to project into: norm is final or raw")
    return projected


def by_layer(
    backbone: VisionBackbone,
    tokens: Tensor,
    layers: Iterable[int],
    positions: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Tokens [B, T, D] of layer 0 through the blocks: (layer, tokens) of the layers asked for, in rising order."""
    wanted = sorted(set(layers))
    for number in range(wanted[-1] + 1):
        if number:
            tokens = backbone.block(number, tokens, positions=positions, allowed=allowed)
        if number in wanted:
            yield number, tokens


def plain_layers(backbone: VisionBackbone, images: Tensor, layers: Iterable[int]) -> Iterator[LayerTokens]:
    """One pass of whole pictures [B, 3, H, W]: the tokens of each layer asked for (places of the map, row by row, of a CNN)."""
    pixels = backbone.normalise(images)
    if backbone.kind_of_layers == "maps":
        maps = backbone.maps(pixels)
        for number in sorted(set(layers)):
            patches = maps[number].flatten(2).transpose(1, 2)
            yield LayerTokens(number, patches[:, :0], patches)
        return
    for number, tokens in by_layer(backbone, backbone.embed(pixels), layers):
        yield LayerTokens(number, tokens[:, : backbone.prefix_tokens], tokens[:, backbone.prefix_tokens :])


def pool_parts(tokens: Tensor, masks: Tensor, how: Pool = "mean") -> Tensor:
    """Vectors of parts: tokens [B, N, D], masks [B, P, N] (bool; weights >= 0 for ``soft``) -> [B, P, D], NaN where empty.

    ``mean``: sum_n M t / sum_n M. ``mean_all``: sum_n M t / N, whose norm grows with the part's area: an area leak of its own.
    ``max``: by component. ``keypoint``: the token of the first patch of the mask. ``soft``: sum_n A t / sum_n A.
    """
    if how not in POOLS:
        raise ValueError(f"no pooling {how!r}; there are {', '.join(POOLS)}")
    if how != "soft" and masks.is_floating_point():
        raise ValueError(f"pooling {how} takes bool masks; weights are for soft")
    there = (masks > 0).any(-1, keepdim=True)
    if how == "max":
        pooled = torch.stack([_largest(tokens, part | ~part.any(-1, keepdim=True)) for part in masks.unbind(1)], 1)
    elif how == "keypoint":
        place = masks.to(torch.uint8).argmax(-1, keepdim=True)
        pooled = tokens.gather(1, place.expand(-1, -1, tokens.shape[-1]))
    else:
        weights = masks.to(tokens.dtype)
        total = torch.where(there, weights.sum(-1, keepdim=True), 1)  # 0 / 0 would put NaN into every gradient
        pooled = (weights @ tokens) / (tokens.shape[1] if how == "mean_all" else total)
    return torch.where(there, pooled, torch.nan)


def _largest(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill(~mask[..., None], -torch.inf).amax(1)


def patches_to_pool(masks: Tensor, patch_size: int, rule: Rule, pool: Pool, keypoints: Tensor | None = None) -> Tensor:
    """What ``pool_parts`` takes: pixel masks [B, P, H, W] -> bool [B, P, N]; coverage (float) for ``soft``.

    ``keypoint``: the one patch under ``keypoints`` float [B, P, 2] (x, y in pixels of the input; NaN: none), masks are not read.
    """
    if pool == "soft":
        return coverage(masks, patch_size)
    if pool != "keypoint":
        return patch_mask(masks, patch_size, rule)
    if keypoints is None:
        raise ValueError("pooling at keypoints needs keypoints")
    across, known = masks.shape[-1] // patch_size, keypoints.isfinite().all(-1)
    column, row = (torch.where(known[..., None], keypoints, 0).long() // patch_size).unbind(-1)
    place = torch.arange(across * (masks.shape[-2] // patch_size), device=masks.device)
    return (place == (row * across + column)[..., None]) & known[..., None]

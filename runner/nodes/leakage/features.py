"""Vectors of parts: pooled after the network (single-stage), or computed from the part's pixels alone (two-stage).

Single-stage ("late masking"): one pass of the whole picture, tokens pooled under the part's mask; its blocks have mixed in
everything else. Two-stage ("early masking"): no token of the part ever reads another one ("Metonymy in vision models", 2605.06095;
the masked second stage is iFAM's, 2506.08915). Packing, fills and checks are definitions of this project.

B pictures of H x W pixels in 0..1, P parts, N patches, D width. Vectors are NaN where a part is absent. Everything can be
differentiated in the pictures. Soft and logarithmic masks are refused in two-stage: any finite floor lets the outside through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from runner.models.base import VisionBackbone
from runner.nodes.leakage.masks import coverage, filling, in_pixels, patch_mask, strict_pixels
from runner.nodes.leakage.names import MODES, RULES, TOKEN_MODES, Fill, Mode, Norm, Pool, Rule, boundary_leaks
from runner.nodes.leakage.packing import Sequences, dropped_sequences, packed_sequences, whole_sequences
from runner.nodes.leakage.pooling import (
    by_layer,
    layer_numbers,
    normed,
    patches_to_pool,
    plain_layers,
    pool_parts,
)

__all__ = ["check_two_stage", "pool_parts", "single_stage", "single_stage_layers", "two_stage", "two_stage_layers"]

PICTURES = 64
"""Redrawn pictures of one forward pass."""
LARGEST = 1e4
"""Tokens that nobody reads are kept within this, so that a bad pixel outside a part cannot become NaN under a mask."""


def single_stage_layers(
    backbone: VisionBackbone,
    images: Tensor,
    masks: Tensor,
    pool: Pool = "mean",
    *,
    rule: Rule = "majority",
    layers: Sequence[int] | Literal["all"] | None = None,
    norm: Norm = "final",
    keypoints: Tensor | None = None,
) -> list[Tensor]:
    """``single_stage`` layer by layer, in the order asked for, whatever their widths: list of [B, P, D_l]."""
    numbers = layer_numbers(backbone.depth, layers)
    sizes = {backbone.patch_sizes[number] for number in numbers}
    weights = {size: patches_to_pool(masks, size, rule, pool, keypoints) for size in sizes}
    made = {
        number: pool_parts(normed(backbone, patches, norm), weights[backbone.patch_sizes[number]], pool)
        for number, _, patches in plain_layers(backbone, images, numbers)
    }
    return [made[number] for number in numbers]


def single_stage(
    backbone: VisionBackbone,
    images: Tensor,
    masks: Tensor,
    pool: Pool = "mean",
    *,
    rule: Rule = "majority",
    layers: Sequence[int] | Literal["all"] | None = None,
    norm: Norm = "final",
    keypoints: Tensor | None = None,
) -> Tensor:
    """Tokens of an ordinary pass pooled under each part ("late masking"): leaks whatever the pooling.

    ``images`` float [B, 3, H, W] in 0..1, ``masks`` bool [B, P, H, W] (weights for ``soft``) -> [B, P, D] of the last layer, or
    [L, B, P, D] of the ``layers`` asked for. ``rule``: how pixels become patches.
    """
    made = single_stage_layers(
        backbone, images, masks, pool, rule=rule, layers=layers, norm=norm, keypoints=keypoints
    )  # fmt: skip
    return _stacked(made, layers)


def _stacked(made: list[Tensor], layers: object) -> Tensor:
    if layers is None:
        return made[0]
    if len({each.shape[-1] for each in made}) > 1:
        raise ValueError("these layers have different widths: ask for one of them, or take them as a list")
    return torch.stack(made)


# --- two-stage -------------------------------------------------------------------------------------------------------


def check_two_stage(
    backbone: VisionBackbone, mode: str, pool: str, *, rule: str, strict_pixels: bool, fill: Fill, allow_boundary_leak: bool
) -> None:  # fmt: skip
    """Raise ``ValueError`` for what this backbone cannot do, and for what would leak without having been allowed to."""
    if mode not in MODES or pool not in ("mean", "cls") or rule not in RULES:
        raise ValueError(f"two-stage takes mode {'|'.join(MODES)}, pool mean|cls, rule {'|'.join(RULES)}")
    if backbone.kind_of_layers == "maps" and (mode in TOKEN_MODES or pool == "cls"):
        wrong = f"pool: {pool}" if pool == "cls" else f"mode: {mode}"
        raise ValueError(f"{backbone.name} is convolutional and has no tokens to drop or mask ({wrong}): take pixel_fill or crop, pool mean")  # fmt: skip
    if pool == "cls" and not backbone.prefix_tokens:
        raise ValueError(f"{backbone.name} has no CLS token: take pool mean")
    if mode in TOKEN_MODES and fill == "blur":
        raise ValueError(f"fill blur is for pixel_fill and crop, not for {mode}: take mean, zero, noise or a colour")
    if boundary_leaks(mode, rule, strict_pixels) and not allow_boundary_leak:
        raise ValueError(
            f"mode {mode} with rule {rule} and strict_pixels false lets pixels outside a part into its vector: "
            "take rule all (not for crop) or strict_pixels true, or say allow_boundary_leak true"
        )


def two_stage_patches(masks: Tensor, patch_size: int, mode: str, rule: Rule) -> Tensor:
    """Patches that a two-stage vector is made of: bool [B, P, H, W] -> bool [B, P, N], on the crop's own grid for ``crop``."""
    return patch_mask(cropped(masks.float().unsqueeze(2), masks, "nearest").squeeze(2) > 0.5 if mode == "crop" else masks, patch_size, rule)  # fmt: skip


def two_stage_layers(
    backbone: VisionBackbone,
    images: Tensor,
    masks: Tensor,
    mode: Mode = "packed",
    pool: Literal["mean", "cls"] = "mean",
    *,
    rule: Rule = "all",
    strict_pixels: bool = True,
    fill: Fill = "mean",
    layers: Sequence[int] | Literal["all"] | None = None,
    norm: Norm = "final",
    allow_boundary_leak: bool = False,
    seed: int = 0,
) -> list[Tensor]:
    """``two_stage`` layer by layer, in the order asked for, whatever their widths: list of [B, P, D_l]."""
    if masks.dtype != torch.bool:
        raise ValueError(
            f"two-stage masks are bool, not {masks.dtype}: under a soft or logarithmic mask large attention scores still reach "
            "the outside, so the vector would leak; threshold the mask"
        )
    check_two_stage(
        backbone, mode, pool, rule=rule, strict_pixels=strict_pixels, fill=fill, allow_boundary_leak=allow_boundary_leak
    )
    numbers = layer_numbers(backbone.depth, layers)
    how = _How(mode, pool, rule, norm, fill if strict_pixels or mode == "pixel_fill" else None, seed)
    made = (_masked if mode in TOKEN_MODES else _redrawn)(backbone, images, masks, numbers, how)
    return [made[number] for number in numbers]


def two_stage(
    backbone: VisionBackbone,
    images: Tensor,
    masks: Tensor,
    mode: Mode = "packed",
    pool: Literal["mean", "cls"] = "mean",
    *,
    rule: Rule = "all",
    strict_pixels: bool = True,
    fill: Fill = "mean",
    layers: Sequence[int] | Literal["all"] | None = None,
    norm: Norm = "final",
    allow_boundary_leak: bool = False,
    seed: int = 0,
) -> Tensor:
    """Vectors computed from each part alone ("early masking"): [B, P, D] of the last layer, or [L, B, P, D] of ``layers``.

    ``images`` float [B, 3, H, W] in 0..1, ``masks`` bool [B, P, H, W]. ``mode``: ``attn_mask``: in every block all queries read the
    prefix and the part's patches only; ``token_drop``: the other patches are deleted after the embedding; ``packed``: the same for all
    parts of all pictures in one pass, each part with its copy of the prefix; ``pixel_fill``: an ordinary pass of the picture with
    everything else painted over; ``crop``: the part's tight box scaled to the input. ``strict_pixels``: pixels outside the part
    become ``fill`` (see ``filling``) before anything is computed, so that patches at its border are clean. What remains in the
    vector is the shape and the place of the mask.
    NaN and infinite pixels outside the part do not come through: such pixels are painted over, tokens of other patches are
    deleted, or kept finite where they are only masked. Inside the part they give NaN.
    Raises ``ValueError`` for what ``check_two_stage`` refuses, and for masks that are not bool.
    """
    made = two_stage_layers(
        backbone, images, masks, mode, pool, rule=rule, strict_pixels=strict_pixels, fill=fill, layers=layers, norm=norm,
        allow_boundary_leak=allow_boundary_leak, seed=seed,
    )  # fmt: skip
    return _stacked(made, layers)


class _How(NamedTuple):
    mode: Mode
    pool: Literal["mean", "cls"]
    rule: Rule
    norm: Norm
    fill: Fill | None
    seed: int

    def ground(self, backbone: VisionBackbone, images: Tensor, masks: Tensor) -> Tensor | None:
        """What stands outside a part, None where the picture stays as it is."""
        return None if self.fill is None else filling(self.fill, images, masks, backbone.mean, self.seed)


# Modes on tokens: attn_mask, token_drop, packed.


def _masked(backbone: VisionBackbone, images: Tensor, masks: Tensor, layers: list[int], how: _How) -> dict[int, Tensor]:
    patch_size, prefix = backbone.patch_sizes[0], backbone.prefix_tokens
    keep = patch_mask(masks, patch_size, how.rule)
    pictures, table_row = embeddings_needed(images, masks, keep, patch_size, how.ground(backbone, images, masks))
    table = backbone.embed(backbone.normalise(pictures))
    if how.mode == "packed":
        passes = packed_sequences(keep, table_row, prefix, table.shape[-1])
    else:
        passes = (whole_sequences if how.mode == "attn_mask" else dropped_sequences)(keep, table_row, prefix)
    parts: dict[int, list[Tensor]] = {number: [] for number in layers}
    order: list[Tensor] = []
    for sequences in passes:
        order.append(sequences.segment[sequences.segment >= 0])
        for number, vectors in _pass(backbone, table.flatten(0, 1), sequences, layers, how):
            parts[number].append(vectors)
    return {number: _in_place(keep.any(-1), order, parts[number], backbone, number, how) for number in layers}


def embeddings_needed(
    images: Tensor, masks: Tensor, keep: Tensor, patch_size: int, ground: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Pictures to embed, [B', 3, H, W] with the originals first, and for each patch of each part the one it is taken from.

    A patch that lies within its part is the same in every picture, so the original serves all parts. Where a kept patch reaches
    beyond its part, the pixels there become ``ground``; patches at different places share a picture, so that as many more
    pictures are embedded as parts meet in one border patch (none under the rule ``all``). ``table_row`` int64 [B, P, N].
    """
    plain = torch.arange(len(images), device=images.device)[:, None, None].expand(keep.shape)
    border = keep & (coverage(masks, patch_size) < 1)
    rank = border.cumsum(1) - 1
    most = int(border.sum(1).max()) if ground is not None and keep.numel() else 0
    if ground is None or most == 0:
        return images, plain
    holds = [border & (rank == k) for k in range(most)]
    part = torch.stack([each.to(torch.uint8).argmax(1) for each in holds], 1)  # [B, most, N]: whose patch stands there
    shown = masks.gather(1, in_pixels(part, patch_size, masks.shape[-1]))
    drawn = strict_pixels(images, shown, ground).flatten(0, 1)
    rows = len(images) + plain * most + rank
    return torch.cat([images, drawn]), torch.where(border, rows, plain)


def _pass(
    backbone: VisionBackbone, table: Tensor, sequences: Sequences, layers: list[int], how: _How
) -> Iterator[tuple[int, Tensor]]:
    """One forward pass -> (layer, vectors [segments of the pass, D]). A part with a token that is not finite gets NaN; the parts
    that are computed beside it do not."""
    tokens = table[sequences.entries]
    read = sequences.owns.any(1)
    finite = tokens.isfinite().all(-1)
    bad = (sequences.owns & ~finite[:, None]).any(-1, keepdim=True)
    tokens = torch.where((read & finite)[..., None], tokens, tokens.nan_to_num(0, 0, 0).clamp(-LARGEST, LARGEST))
    weights = sequences.patches if how.pool == "mean" else _first(sequences.owns)
    there = sequences.segment >= 0
    for number, seen in by_layer(backbone, tokens, layers, sequences.positions, sequences.allowed):
        final = normed(backbone, seen, how.norm)
        shares = weights.to(final.dtype)
        vectors = (shares @ final) / shares.sum(-1, keepdim=True).clamp_min(1)
        yield number, vectors.masked_fill(bad, torch.nan)[there]


def _first(owns: Tensor) -> Tensor:
    """Of the tokens of each vector the first, which is its CLS."""
    return owns & (owns.cumsum(-1) == 1)


def _in_place(
    there: Tensor, order: list[Tensor], vectors: list[Tensor], backbone: VisionBackbone, layer: int, how: _How
) -> Tensor:
    """Vectors of the passes -> [B, P, D], NaN where a part is absent."""
    if not vectors:
        width = normed(backbone, there.new_zeros((0, backbone.widths[layer]), dtype=torch.float32), how.norm).shape[-1]
        return torch.full((*there.shape, width), torch.nan, device=there.device)
    found = torch.cat(vectors)[torch.cat(order).argsort()]
    empty = torch.full((*there.shape, found.shape[-1]), torch.nan, dtype=found.dtype, device=found.device)
    return empty.index_put(tuple(there.nonzero().T), found)


# Modes on pixels: pixel_fill, crop.


def _redrawn(
    backbone: VisionBackbone, images: Tensor, masks: Tensor, layers: list[int], how: _How
) -> dict[int, Tensor]:
    """Every part that has pixels as a picture of its own, through ordinary passes."""
    there = masks.flatten(2).any(-1)
    pairs = there.nonzero()
    made: dict[int, list[Tensor]] = {number: [] for number in layers}
    for first in range(0, len(pairs), PICTURES):
        picture, part = pairs[first : first + PICTURES].T
        drawn, shown = _redraw(backbone, images[picture], masks[picture, part][:, None], how)
        for number, prefix, patches in plain_layers(backbone, drawn, layers):
            kept = patch_mask(shown, backbone.patch_sizes[number], how.rule)
            if how.pool == "cls":
                vectors = torch.where(kept.any(-1), normed(backbone, prefix[:, 0], how.norm), torch.nan)
            else:
                vectors = pool_parts(normed(backbone, patches, how.norm), kept)[:, 0]
            made[number].append(vectors)
    order = [torch.arange(len(pairs), device=images.device)]
    return {number: _in_place(there, order, made[number], backbone, number, how) for number in layers}


def _redraw(backbone: VisionBackbone, images: Tensor, masks: Tensor, how: _How) -> tuple[Tensor, Tensor]:
    """Pictures [S, 3, H, W] of one part each, bool [S, 1, H, W], as they are passed on, and the masks there."""
    ground = how.ground(backbone, images, masks)
    drawn = images.unsqueeze(1) if ground is None else strict_pixels(images, masks, ground)
    if how.mode != "crop":
        return drawn[:, 0], masks
    return cropped(drawn, masks, "bilinear")[:, 0], cropped(masks.unsqueeze(2).float(), masks, "nearest")[:, :, 0] > 0.5


def cropped(pictures: Tensor, masks: Tensor, mode: Literal["bilinear", "nearest"]) -> Tensor:
    """The tight box of each mask scaled to the whole side: [B, P, C, H, W] by bool [B, P, H, W]. The proportions change. Nothing
    beside the box is read; an absent part gives the whole picture."""
    height, width = masks.shape[-2:]
    axes = []
    for size, line in ((width, masks.any(-2)), (height, masks.any(-1))):
        low = line.to(torch.uint8).argmax(-1)
        high = torch.where(line.any(-1), size - 1 - line.flip(-1).to(torch.uint8).argmax(-1), size - 1)
        share = (torch.arange(size, device=masks.device, dtype=torch.float32) + 0.5) / size
        place = low[..., None] + share * (high - low + 1)[..., None] - 0.5
        place = place.clamp(low[..., None], high[..., None])
        axes.append((2 * place + 1) / size - 1)
    x, y = (axis.flatten(0, 1) for axis in axes)
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1)
    flat = pictures.flatten(0, 1)
    taken = functional.grid_sample(flat, grid.to(flat.dtype), mode=mode, padding_mode="border", align_corners=False)
    return taken.view(pictures.shape)

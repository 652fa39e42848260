"""Masks in pixels, masks of patches, and what stands where a part does not.

Pure functions on tensors. B pictures, P parts, H x W pixels, patches of s x s pixels, N = (H / s)(W / s) patches row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from runner.nodes.leakage.names import FILLS, RULES, Fill, Rule


def _grid(mask: Tensor, patch_size: int) -> Tensor:
    """[..., H, W] -> [..., h, w, s * s]. Raises ``ValueError`` where H or W is no multiple of s."""
    height, width = mask.shape[-2:]
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(f"a mask of {height} x {width} pixels does not divide into patches of {patch_size}")
    cells = mask.reshape(*mask.shape[:-2], height // patch_size, patch_size, width // patch_size, patch_size)
    return cells.transpose(-2, -3).flatten(-2)


def coverage(mask: Tensor, patch_size: int) -> Tensor:
    """Mean of the mask in each patch: [..., H, W] (bool, or float in 0..1) -> float32 [..., N]. Exact for bool masks."""
    cells = _grid(mask, patch_size)
    return (cells.sum(-1).float() / patch_size**2).flatten(-2)


def patch_mask(mask: Tensor, patch_size: int, rule: Rule) -> Tensor:
    """Patches that belong to a mask: [..., H, W] -> bool [..., N].

    ``any``: coverage > 0; ``majority``: >= 0.5; ``all``: 1; ``nearest_exact``: by the pixel at the patch's centre. Only ``all``
    keeps no pixel outside the mask. Raises ``ValueError`` for another rule, and where patches do not divide the mask.
    """
    if rule == "nearest_exact":
        centre = patch_size // 2
        return _grid(mask, patch_size)[..., centre * patch_size + centre].flatten(-2) > 0.5
    share = coverage(mask, patch_size)
    if rule == "any":
        return share > 0
    if rule == "majority":
        return share >= 0.5
    if rule == "all":
        return share >= 1
    raise ValueError(f"no rule {rule!r} for patches; there are {', '.join(RULES)}")


def in_pixels(patches: Tensor, patch_size: int, side: int) -> Tensor:
    """Values of patches as pixels: [..., N] -> [..., side, side]."""
    across = side // patch_size
    grid = patches.reshape(*patches.shape[:-1], across, across)
    return grid.repeat_interleave(patch_size, -1).repeat_interleave(patch_size, -2)


def strict_pixels(pixels: Tensor, masks: Tensor, fill: Tensor) -> Tensor:
    """Pictures in which only the part is left: [B, 3, H, W] and bool [B, P, H, W] -> [B, P, 3, H, W].

    ``fill``: what stands outside: a colour [3], a picture [3, H, W], one a picture [B, 3, H, W], or one a part
    [B, P, 3, H, W]. Outside pixels are not multiplied but left out, so that NaN and infinity do not come through.
    """
    if fill.dim() == 1:
        fill = fill.view(3, 1, 1)
    if fill.dim() == 4:
        fill = fill.unsqueeze(1)
    return torch.where(masks.unsqueeze(2), pixels.unsqueeze(1), fill)


def filling(fill: Fill, pixels: Tensor, masks: Tensor, mean: tuple[float, float, float], seed: int = 0) -> Tensor:
    """What ``strict_pixels`` puts outside a part.

    ``mean``: the mean colour of the backbone's normalisation; ``zero``: black; ``noise``: one picture of uniform noise drawn
    with ``seed``; ``blur``: the part's own colours spread outwards (a definition of this project: blurring the picture would
    let the outside through); a tuple: that colour (RGB in 0..1). Raises ``ValueError`` for another name.
    """
    if fill == "noise":
        drawn = torch.rand(pixels.shape[1:], generator=torch.Generator().manual_seed(seed))
        return drawn.to(pixels)
    if fill == "blur":
        return spread(pixels, masks, pixels.new_tensor(mean))
    colour = {"mean": mean, "zero": (0.0, 0.0, 0.0)}.get(fill) if isinstance(fill, str) else fill
    if colour is None or len(colour) != 3:
        raise ValueError(f"no fill {fill!r}: name one of {', '.join(FILLS)}, or give three numbers (RGB in 0..1)")
    return pixels.new_tensor(colour)


def spread(pixels: Tensor, masks: Tensor, base: Tensor) -> Tensor:
    """Colours of each part blurred beyond its border -> [B, P, 3, H, W]; ``base`` [3] where nothing of it reaches.

    Gaussian of width H / 16, cut at three widths, of the part's pixels divided by the same of its mask.
    """
    width = masks.shape[-1] / 16
    reach = max(1, round(3 * width))
    steps = torch.arange(-reach, reach + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-0.5 * (steps / width) ** 2)
    part = strict_pixels(pixels, masks, pixels.new_zeros(3))
    own = torch.cat([part, masks.unsqueeze(2).to(pixels.dtype)], 2).flatten(0, 2).unsqueeze(1)
    rows = functional.conv2d(own, kernel.view(1, 1, 1, -1), padding=(0, reach))
    blurred = functional.conv2d(rows, kernel.view(1, 1, -1, 1), padding=(reach, 0)).view(
        *masks.shape[:2], 4, *masks.shape[2:]
    )
    colours, weight = blurred[:, :, :3], blurred[:, :, 3:]
    return torch.where(weight > 1e-6, colours / weight.clamp_min(1e-6), base.view(3, 1, 1))

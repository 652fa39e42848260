"""Pictures with the patches of their parts coloured, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from runner.data.images import thumbnail
from runner.nodes.leakage.masks import in_pixels, patch_mask
from runner.nodes.leakage.names import Rule

PALETTE = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#aa4499", "#882255",
)  # fmt: skip
"""Colours that stay apart with the common kinds of colour blindness (Okabe and Ito, then Tol's muted set)."""
SIDE = 224


def colours_of(count: int) -> list[str]:
    """A colour for each of ``count`` parts, from the start again where there are more parts than colours."""
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def overlay(pixels: NDArray[Any], masks: NDArray[Any], patch_size: int, rule: Rule, share: float = 0.55) -> bytes:
    """JPEG of a picture [3, H, W] in 0..1 with the patches of its parts, bool [P, H, W], in their colours; later parts on top."""
    patches = patch_mask(torch.from_numpy(masks), patch_size, rule)
    shown = in_pixels(patches, patch_size, masks.shape[-1]).numpy()
    painted = pixels.copy()
    for mask, colour in zip(shown, colours_of(len(shown)), strict=True):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)[:, None]
        painted[:, mask] = (1 - share) * painted[:, mask] + share * rgb
    return picture(painted)


def picture(pixels: NDArray[Any]) -> bytes:
    """JPEG of a picture [3, H, W] in 0..1, at least 224 pixels wide where it is small."""
    side = pixels.shape[-1]
    image = Image.fromarray((np.clip(pixels, 0, 1).transpose(1, 2, 0) * 255).round().astype(np.uint8))
    if side < SIDE:
        image = image.resize((side * (SIDE // side),) * 2, Image.Resampling.NEAREST)
    return thumbnail(image, SIDE)


def spread_out(rows: Sequence[int], splits: Sequence[str], count: int, names: Sequence[str], seed: int) -> list[int]:
    """At most ``count`` rows to show, drawn by name; of the test split where there is one."""
    from runner.data.sampling import sampled

    test = [row for row in rows if splits[row] == "test"]
    return sampled(test or list(rows), count, seed, lambda row: names[row]) if count else []

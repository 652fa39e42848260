"""Cut-outs and pasting."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

VISIBLE = 32
"""Opacity (0..255) from which a pixel belongs to the cut-out."""
LEAST_COVER, MOST_COVER = 0.15, 0.97
"""Share of its box that a cut-out covers: less is a thin outline, more is a rectangular picture."""
LEAST_SIDE = 16


class Pose(NamedTuple):
    """Where and how a cut-out stands: longest side in pixels, left and top as shares of the room there is, mirrored."""

    side: int
    left: float
    top: float
    mirrored: bool


def trimmed(image: Image.Image) -> Image.Image | None:
    """An RGBA picture cut to what is visible, or None where that is an outline, a rectangle, or too small."""
    alpha = np.asarray(image.getchannel("A")) >= VISIBLE
    if not alpha.any():
        return None
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    inner = alpha[box[1] : box[3], box[0] : box[2]]
    if min(inner.shape) < LEAST_SIDE or not LEAST_COVER <= inner.mean() <= MOST_COVER:
        return None
    return image.crop(box)


def drawn_pose(draw: np.random.Generator, size: int, least: float, most: float, *, mirror: bool) -> Pose:
    """A pose drawn uniformly; ``least`` and ``most`` are shares of ``size``."""
    side = max(1, round(size * draw.uniform(least, most)))
    return Pose(side, draw.random(), draw.random(), bool(mirror and draw.random() < 0.5))


def squared(background: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, RGBA [size x size]."""
    short = min(background.size)
    left, top = (background.width - short) // 2, (background.height - short) // 2
    square = background.crop((left, top, left + short, top + short))
    return square.resize((size, size), Image.Resampling.BICUBIC).convert("RGBA")


def scaled(cut_out: Image.Image, side: int, *, mirrored: bool) -> Image.Image:
    """The cut-out with a longest side of ``side`` pixels."""
    factor = side / max(cut_out.size)
    shape = (max(1, round(cut_out.width * factor)), max(1, round(cut_out.height * factor)))
    # Pillow resizes RGBA premultiplied, so that the colour of what is transparent does not bleed in.
    figure = cut_out.resize(shape, Image.Resampling.LANCZOS)
    return figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else figure


def pasted(background: Image.Image, cut_out: Image.Image, size: int, pose: Pose) -> Image.Image:
    """RGB [size x size]: the background's middle square with the cut-out upon it, wholly inside."""
    layer = squared(background, size)
    figure = scaled(cut_out, pose.side, mirrored=pose.mirrored)
    layer.alpha_composite(figure, (round(pose.left * (size - figure.width)), round(pose.top * (size - figure.height))))
    return layer.convert("RGB")

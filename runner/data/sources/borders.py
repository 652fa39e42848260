"""White bars that a downloader put around pictures to make them square.

img2dataset's ``resize_mode border`` scales the longer side to the wanted size and pads the shorter one with white, half
on each side. The original's width and height say where the picture stands, so nothing is guessed from its content; the
bars are then looked at, and only white ones are cut off.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WHITE = 235
_WHITE_SHARE = 0.98
"""JPEG leaves faint ripples in a bar: a pixel is white from 235 in every channel, a bar where 98% of its pixels are."""


class Box(NamedTuple):
    """Part of a picture in pixels, right and bottom excluded."""

    left: int
    top: int
    right: int
    bottom: int


def content_box(side: int, original_width: int, original_height: int) -> Box:
    """Where a picture of the original size stands in a square of ``side`` pixels that was padded around it."""
    scale = side / max(original_width, original_height)
    width, height = max(1, round(original_width * scale)), max(1, round(original_height * scale))
    left, top = (side - width) // 2, (side - height) // 2
    return Box(left, top, left + width, top + height)


def white_bars(pixels: NDArray[np.uint8], box: Box) -> bool:
    """Whether everything of ``pixels`` [height, width, 3] outside ``box`` is white and there is something outside.

    The line next to the picture is left out of thicker bars: JPEG smears it.
    """
    height, width = pixels.shape[:2]
    white = _white(pixels)
    bars = [
        white[: _inner(box.top)],
        white[height - _inner(height - box.bottom) :],
        white[:, : _inner(box.left)],
        white[:, width - _inner(width - box.right) :],
    ]
    found = [bar.mean() for bar in bars if bar.size]
    return bool(found) and min(found) >= _WHITE_SHARE


def _white(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels are white [height, width]."""
    return np.asarray((pixels >= _WHITE).all(axis=2))


def _inner(thickness: int) -> int:
    return thickness - 1 if thickness > 2 else thickness


def letterbox(pixels: NDArray[np.uint8]) -> Box:
    """The part between white bars that face each other and are equally thick (to two pixels), else everything.

    For pictures whose original size is not known.
    """
    height, width = pixels.shape[:2]
    white = _white(pixels)
    left, right = _facing(white.mean(axis=0) >= _WHITE_SHARE)
    top, bottom = _facing(white.mean(axis=1) >= _WHITE_SHARE)
    return Box(left, top, width - right, height - bottom)


def _facing(white: NDArray[np.bool_]) -> tuple[int, int]:
    """Thickness of the bars at both ends of a row of lines; (0, 0) where they do not match."""
    picture = np.flatnonzero(~white)
    if not len(picture):
        return 0, 0
    before, after = int(picture[0]), int(len(white) - 1 - picture[-1])
    return (before, after) if abs(before - after) <= 2 and min(before, after) >= 1 else (0, 0)


def cut(image: Image.Image, box: Box) -> bytes:
    """The part as PNG: no further loss, and the same part gives the same bytes."""
    buffer = io.BytesIO()
    image.crop(box).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

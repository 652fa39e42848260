"""The frame: shape and empty margins. Pure functions of an RGB picture uint8 [height, width, 3]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runner.nodes.bias.measures.space import Pixels

TOLERANCE = 8
"""Largest difference of any channel (of 255) inside a margin of one colour: JPEG leaves some."""


def aspect(pixels: Pixels) -> float:
    """Width over height; 1 = square."""
    return float(pixels.shape[1] / pixels.shape[0])


def border(pixels: Pixels) -> float:
    """Share of the picture outside the smallest rectangle that holds everything unlike its margin, in [0, 1].

    The margin has the colour of the upper left or of the lower right corner, whichever leaves more. A picture of one colour is
    all margin: 1.
    """
    height, width = pixels.shape[:2]
    kept = 0.0
    for corner in (pixels[0, 0], pixels[-1, -1]):
        differs = (np.abs(pixels.astype(np.int16) - corner.astype(np.int16)) > TOLERANCE).any(-1)
        rows, columns = _extent(differs.any(1)), _extent(differs.any(0))
        kept = max(kept, 1 - rows * columns / (height * width))
    return kept


def _extent(marked: NDArray[np.bool_]) -> int:
    """Length of the run from the first to the last marked place; 0 without any."""
    places = np.flatnonzero(marked)
    return int(places[-1] - places[0] + 1) if len(places) else 0

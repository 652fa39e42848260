"""Colours. Pure functions of an RGB picture uint8 [height, width, 3]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runner.nodes.bias.measures.space import FloatArray, Pixels, lab

GREY_BELOW = 0.12
"""Saturation below which a picture has no main hue."""

# Upper end of each hue in degrees of the HSV hue circle; red lies on both sides of 0.
_HUES = (
    (15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (195, "cyan"), (260, "blue"), (300, "purple"), (345, "pink"),
    (360, "red"),
)  # fmt: skip


def colourfulness(pixels: Pixels) -> float:
    """M3 = sigma_rgyb + 0.3 mu_rgyb; 0 for grey pictures, some 80 for very colourful ones.

    rg = R - G, yb = (R + G) / 2 - B; sigma and mu are the lengths of their standard deviations and means.
    Source: Hasler and Suesstrunk (2003), Measuring colourfulness in natural images, equation for the metric M3.
    """
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def warmth(pixels: Pixels) -> float:
    """Mean CIE 1976 b* over the pixels: below 0 bluish, above 0 yellowish."""
    return float(lab(pixels)[..., 2].mean())


def saturation(pixels: Pixels) -> float:
    """Sum of the chroma (max - min of the channels) over the sum of the largest channels, in [0, 1]; black 0.

    HSV saturation weighted by brightness: where hardly any light falls, hue and saturation are noise.
    """
    chroma, largest = _chroma(pixels)
    total = float(largest.sum())
    return float(chroma.sum()) / total if total else 0.0


def dominant_hue(pixels: Pixels) -> str:
    """The hue (HSV) that holds most chroma, by name; ``grey`` where ``saturation`` is below ``GREY_BELOW``."""
    if saturation(pixels) < GREY_BELOW:
        return "grey"
    chroma, _ = _chroma(pixels)
    ends = [end for end, _ in _HUES]
    mass = np.bincount(
        np.searchsorted(ends, hues(pixels).ravel(), side="right"), chroma.ravel(), len(_HUES)
    )  # the last hue is the first one again
    mass[0] += mass[-1]
    return _HUES[int(mass[:-1].argmax())][1]


def hues(pixels: Pixels) -> FloatArray:
    """HSV hue in degrees [height, width] in [0, 360); 0 for grey pixels. Source: Smith (1978)."""
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    chroma, largest = _chroma(pixels)
    scale = np.where(chroma > 0, chroma, 1)
    sextant = np.where(
        largest == red, (green - blue) / scale % 6,
        np.where(largest == green, (blue - red) / scale + 2, (red - green) / scale + 4),
    )  # fmt: skip
    return np.where(chroma > 0, 60 * sextant, 0.0)


def _chroma(pixels: Pixels) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Largest less smallest channel, and the largest."""
    red, green, blue = np.moveaxis(pixels.astype(np.int16), -1, 0)
    largest = np.maximum(np.maximum(red, green), blue)
    return largest - np.minimum(np.minimum(red, green), blue), largest

"""Colour spaces and copies of one size, shared by the measurements. Pure numpy float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Pixels = NDArray[np.uint8]

REC709 = np.array([0.2126, 0.7152, 0.0722])
"""Weights of red, green and blue in luminance (ITU-R BT.709), which sRGB shares."""

# sRGB primaries to CIE XYZ (IEC 61966-2-1); the rows' sums are the white point D65.
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], REC709, [0.0193, 0.1192, 0.9505]])
_ENCODED = np.arange(256) / 255
_LINEAR = np.where(_ENCODED <= 0.04045, _ENCODED / 12.92, ((_ENCODED + 0.055) / 1.055) ** 2.4)
_KNEE = 6 / 29


def luma(pixels: Pixels) -> FloatArray:
    """Weighted mean of the encoded (not linearised) channels, [height, width] in [0, 1]: close to what the eye resolves."""
    return np.asarray(pixels @ REC709 / 255)


def lightness(pixels: Pixels) -> FloatArray:
    """CIE 1976 L* [height, width] in [0, 100] of the relative luminance of the linearised sRGB values."""
    return np.asarray(116 * _curve(_LINEAR[pixels] @ REC709) - 16)


def lab(pixels: Pixels) -> FloatArray:
    """CIE 1976 L*a*b* [height, width, 3] under D65."""
    x, y, z = np.moveaxis(_curve(_LINEAR[pixels] @ _TO_XYZ.T / _TO_XYZ.sum(1)), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _curve(share: NDArray[Any]) -> FloatArray:
    return np.where(share > _KNEE**3, np.cbrt(share), share / (3 * _KNEE**2) + 4 / 29)


def at_side(plane: FloatArray, side: int) -> FloatArray:
    """A plane [height, width] with its longer side brought to ``side`` (bicubic, averaged when it shrinks), shorter one >= 3."""
    from PIL import Image

    height, width = plane.shape
    scale = side / max(height, width)
    size = max(3, round(width * scale)), max(3, round(height * scale))
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float64)


def pixels_at_side(pixels: Pixels, side: int) -> Pixels:
    """A picture with its longer side brought down to ``side`` (box average); smaller ones as they are."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(image, np.uint8)

"""Light and dark. Pure functions of an RGB picture uint8 [height, width, 3]."""

from __future__ import annotations

from runner.nodes.bias.measures.space import Pixels, lightness, luma


def luminance(pixels: Pixels) -> float:
    """Mean CIE 1976 L* over the pixels, in [0, 100]; black 0, white 100.

    L* (of the Rec. 709 luminance of linearised sRGB) and not the luminance itself: it is even in what people see, so that one
    lamp in a dark room does not make the room bright, and values from dim to bright are spread over the scale.
    """
    return float(lightness(pixels).mean())


def contrast(pixels: Pixels) -> float:
    """RMS contrast: standard deviation of luma in [0, 0.5]. Source: Peli (1990), JOSA A 7, 2032-2040."""
    return float(luma(pixels).std())

"""Size and place of the main object, without knowing what it is. Pure functions of uint8 [height, width, 3].

The main object is what differs in colour from the picture's margins: the background cue of Zhang et al. (2015), Minimum
barrier salient object detection at 80 FPS (ICCV), section 4.2. Of four margins one may cut the object; it is not asked.
An object that fills the picture to all four sides, or has the background's colours, is not found. Emoji put on a plain ground
are found almost exactly (rank correlation with the true area .98, with the true place .99); put over a small photograph that has
an object of its own, the place is (.8), the area is not (.24).
"""

from __future__ import annotations

import numpy as np

from runner.nodes.bias.measures.space import FloatArray, Pixels, lab, pixels_at_side

SIDE = 64
MARGIN = 0.1
"""Width of a margin as a share of the side."""

_NOISE = 4.0  # Lab units squared: added to each variance, so that a margin of one colour has a finite distance
_LEAST = 3.0  # Lab units: a picture whose map does not reach this shows no object
_LEVELS = 128


def saliency(pixels: Pixels) -> FloatArray:
    """How unlike the margins each place is, [height, width] in [0, 1] (longer side ``SIDE``); all 0 without an object.

    Mahalanobis distances in CIE Lab to the mean and covariance of each margin, each divided by its largest value; the sum of
    the four less the largest of them.
    """
    colours = lab(pixels_at_side(pixels, SIDE))
    rows, columns = (max(1, round(MARGIN * side)) for side in colours.shape[:2])
    sides = (colours[:rows], colours[-rows:], colours[:, :columns], colours[:, -columns:])
    distances = np.stack([_distance(colours, margin.reshape(-1, 3)) for margin in sides])
    largest = distances.max((1, 2), keepdims=True)
    if np.abs(colours - colours[0, 0]).max() < _LEAST:
        return np.zeros(colours.shape[:2])
    shares = np.divide(distances, largest, out=np.zeros_like(distances), where=largest > 0)
    return _to_unit(shares.sum(0) - shares.max(0))


def _distance(colours: FloatArray, margin: FloatArray) -> FloatArray:
    centred = colours - margin.mean(0)
    spread = np.cov(margin.T, bias=True) + _NOISE * np.eye(3)
    return np.asarray(np.sqrt(np.einsum("hwi,ij,hwj->hw", centred, np.linalg.inv(spread), centred)))


def _to_unit(plane: FloatArray) -> FloatArray:
    low, high = float(plane.min()), float(plane.max())
    return (plane - low) / (high - low) if high > low else np.zeros_like(plane)


def object_mask(pixels: Pixels) -> FloatArray:
    """Saliency where it is above Otsu's threshold, 0 elsewhere. Source: Otsu (1979), IEEE Trans. SMC 9, 62-66."""
    plane = saliency(pixels)
    return np.where(plane > _otsu(plane), plane, 0.0)


def _otsu(plane: FloatArray) -> float:
    """The level that parts values in [0, 1] into two classes with the largest variance between them."""
    counts, edges = np.histogram(plane, _LEVELS, (0.0, 1.0))
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = plane.size - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    between = np.nan_to_num(between, nan=0.0)
    best = np.flatnonzero(between == between.max())
    return float(edges[1 + int(best.mean())])


def object_area(pixels: Pixels) -> float:
    """Share of the picture that the main object fills, in (0, 1]; NaN without an object."""
    mask = object_mask(pixels)
    return float((mask > 0).mean()) if mask.any() else float("nan")


def object_x(pixels: Pixels) -> float:
    """Centre of mass of the main object from left (0) to right (1); NaN without an object."""
    return _centre(object_mask(pixels).sum(0))


def object_y(pixels: Pixels) -> float:
    """Centre of mass of the main object from top (0) to bottom (1); NaN without an object."""
    return _centre(object_mask(pixels).sum(1))


def _centre(mass: FloatArray) -> float:
    """Mean place of the mass at pixel centres, as a share of the length."""
    total = float(mass.sum())
    places = (np.arange(len(mass)) + 0.5) / len(mass)
    return float(mass @ places) / total if total > 0 else float("nan")

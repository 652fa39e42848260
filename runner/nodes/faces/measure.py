"""What is measured on a face: the share of each part, and how light hair and background are. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runner.nodes.faces.parts import PARTS

FloatArray = NDArray[np.float64]
HAIR_LUMINANCE, BACKGROUND_LUMINANCE = "hair_luminance", "background_luminance"
MEASURES = (*PARTS, HAIR_LUMINANCE, BACKGROUND_LUMINANCE)
"""Names of the measures, in the order of ``measures``."""
_REC709 = np.array([0.2126, 0.7152, 0.0722])
FEWEST_PIXELS = 0.002
"""Share of the picture below which a part's luminance says nothing."""


def measures(labels: NDArray[np.integer], pixels: NDArray[np.uint8]) -> FloatArray:
    """Measures [21] of one picture: ``labels`` [h, w] (indices of ``PARTS``) and ``pixels`` uint8 [h, w, 3] (RGB).

    Shares of the picture in 0..1 for the 19 parts; then the mean luma (Rec. 709 weights on the stored values, 0..1) of
    hair and of background, NaN where there is hardly any.
    """
    shares = np.bincount(labels.ravel(), minlength=len(PARTS)) / labels.size
    luma = pixels @ _REC709 / 255
    light = [_mean_of(luma, labels == PARTS.index(part)) for part in ("hair", "background")]
    return np.concatenate([shares, light])


def _mean_of(values: FloatArray, where: NDArray[np.bool_]) -> float:
    return float(values[where].mean()) if where.mean() >= FEWEST_PIXELS else float("nan")


def filled(table: FloatArray) -> FloatArray:
    """[n, m] with missing values replaced by their column's mean (0 where all are missing)."""
    known = ~np.isnan(table)
    means = np.where(known, table, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known, table, means)

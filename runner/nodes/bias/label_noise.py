"""What wrong retrieved images do to a bias score, and when a verdict must be held back for it. Pure numpy float64.

Two different errors. An image with the *wrong value* only shrinks a gap. An image with the *wrong target* invents one: the
classifier is "wrong" on it although it is right about the picture.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.nodes.intervals import wilson_interval

FloatArray = NDArray[np.float64]

# Scales the median absolute deviation to the standard deviation of normal data.
_MAD_TO_SD = 1.4826


def corrected_gap(gap: ArrayLike, precision_a: ArrayLike, precision_b: ArrayLike, *, floor: float = 0.2) -> FloatArray:
    """True gap between two values whose images show the right value in shares ``precision_a`` and ``precision_b``.

    Errors swap the values, so observed = (r_a + r_b - 1) x true. NaN where r_a + r_b - 1 <= ``floor``: dividing by less would
    blow up noise.
    """
    shrink = np.asarray(precision_a, np.float64) + np.asarray(precision_b, np.float64) - 1
    observed, shrink = np.broadcast_arrays(np.asarray(gap, np.float64), shrink)
    return np.asarray(np.divide(observed, shrink, out=np.full(shrink.shape, np.nan), where=shrink > floor))


def contamination_gap(
    target_precision: ArrayLike, others_precision: ArrayLike, true_accuracy: ArrayLike, false_positive_rate: float = 0.0
) -> FloatArray:
    """Gap that wrong-target images alone produce: ``(q_a - q_b) (t - f)``, with no bias at all.

    q = share of images that show the target, t = accuracy on those, f = how often other pictures are called the target.
    """
    q_a, q_b = np.asarray(target_precision, np.float64), np.asarray(others_precision, np.float64)
    return np.asarray((q_a - q_b) * (np.asarray(true_accuracy, np.float64) - false_positive_rate))


def precision_from_verifier(yes_rate: ArrayLike, sensitivity: float = 1.0, specificity: float = 1.0) -> FloatArray:
    """Share of images that truly show something, from how often a checker of known quality says yes.

    ``q = (yes_rate + Sp - 1) / (Se + Sp - 1)``, clipped to [0, 1]. Source: Rogan & Gladen (1978). Raises ValueError where the
    checker is no better than guessing (Se + Sp <= 1).
    """
    if sensitivity + specificity <= 1:
        raise ValueError("a checker with sensitivity + specificity <= 1 says nothing")
    rate = np.asarray(yes_rate, np.float64)
    return np.clip((rate + specificity - 1) / (sensitivity + specificity - 1), 0.0, 1.0)


def robust_z(similarity: ArrayLike) -> FloatArray:
    """How far each group's mean similarity lies from its attribute's median, in robust standard deviations.

    ``similarity``: [attributes, values], NaN for empty groups; returns the same shape. The scale is the median absolute
    deviation of *all* groups from their attribute's median (x 1.4826): within one attribute two or three values have none.
    """
    values = np.asarray(similarity, np.float64)
    if values.ndim != 2:
        raise ValueError("similarity must be [attributes, values]")
    known = ~np.isnan(values)
    filled = np.where(known.any(1, keepdims=True), values, 0.0)
    deviation = values - np.nanmedian(filled, axis=1, keepdims=True) if values.size else values
    if not known.any():
        return np.full(values.shape, np.nan)
    scale = _MAD_TO_SD * float(np.median(np.abs(deviation[known])))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(deviation == 0, 0.0, deviation / scale)


class Gate(NamedTuple):
    """Accuracy on neutral images against guessing; ``passed`` is None where there was no image."""

    n: int
    k: int
    acc: float
    low: float
    high: float
    chance: float
    passed: bool | None


def sanity_gate(k: int, n: int, chance: float, confidence: float = 0.95) -> Gate:
    """Is the classifier above chance on images without any circumstance? Lower Wilson limit > ``chance``.

    A model fed with the wrong class order, channel order, normalisation or input size fails here, before its errors are
    taken for biases.
    """
    low, high = (float(limit) for limit in wilson_interval(k, n, confidence))
    return Gate(n, k, k / n if n else float("nan"), low, high, chance, low > chance if n else None)

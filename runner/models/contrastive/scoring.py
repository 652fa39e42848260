"""Probabilities of answers from similarities: texts against the picture, and the vote of labelled pictures. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Probabilities = NDArray[np.float64]


def softmax(logits: Floats) -> Probabilities:
    """Softmax of float [n], in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(shifted / shifted.sum())


def vote(similarities: Floats, membership: Floats, sharpness: float) -> Probabilities | None:
    """Labelled pictures vote for their labels: softmax(sharpness x cosine) is a picture's weight, split among its labels.

    ``similarities``: cosines with the target [m]; ``membership`` [m, n]: 1 where picture i bears label j. A picture whose
    labels are none of the n has no vote. Returns float64 [n] that sums to 1, or None where nobody votes. For sharpness
    beta this is Tip-Adapter's cache term exp(-beta (1 - A)) L, normalised.
    """
    votes = membership.sum(1) > 0
    if not votes.any():
        return None
    shares = membership[votes] / membership[votes].sum(1, keepdims=True)
    return np.asarray(softmax(sharpness * similarities[votes]) @ shares, np.float64)


def mixed(texts: Probabilities, voted: Probabilities | None, alpha: float) -> Probabilities:
    """alpha x texts + (1 - alpha) x vote; the texts alone where nobody votes."""
    return texts if voted is None else alpha * texts + (1 - alpha) * voted

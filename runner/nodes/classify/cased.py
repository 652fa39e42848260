"""CaSED: classification without a class list, over words of retrieved captions (Conti et al., NeurIPS 2023)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


def cased_scores(
    image: FloatArray,
    words: FloatArray,
    captions: FloatArray,
    *,
    logit_scale: float,
    alpha: float,
    own: BoolArray | None = None,
) -> FloatArray:
    """Probabilities of candidate words: p = alpha softmax(s <v, w>) + (1 - alpha) softmax(s <t, w>), s the logit scale.

    ``image`` v [..., dim], ``words`` w [n, dim], ``captions`` [..., k, dim], all float32 of unit norm; t is the unit
    mean of the captions. ``own``: bool [..., n], which of the words are each picture's own; both softmaxes run over
    these alone and the others get 0 (None = all words). Returns float32 [..., n]; each picture's sum to 1. alpha = 1
    ignores the captions, alpha = 0 the picture. Raises ValueError for alpha outside [0, 1] or a picture without words.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
    mask = np.ones((*image.shape[:-1], len(words)), bool) if own is None else own
    if not mask.any(-1).all():
        raise ValueError("every picture needs a candidate word")
    seen = _softmax(logit_scale * image @ words.T, mask)
    told = _softmax(logit_scale * centroid(captions) @ words.T, mask)
    return np.asarray(alpha * seen + (1 - alpha) * told, np.float32)


def centroid(captions: FloatArray) -> FloatArray:
    """Unit mean of unit caption embeddings [..., k, dim] -> [..., dim]; zero where they cancel out."""
    mean = captions.mean(-2)
    norm = np.linalg.norm(mean, axis=-1, keepdims=True)
    return np.asarray(mean / np.where(norm > 0, norm, 1), np.float32)


def _softmax(logits: NDArray[np.floating[Any]], mask: BoolArray) -> NDArray[np.float64]:
    """Softmax over the last axis where ``mask`` holds, 0 elsewhere; in float64, since scales of 100 are usual."""
    shown = np.where(mask, logits.astype(np.float64), -np.inf)
    exponentials = np.exp(shown - shown.max(-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))

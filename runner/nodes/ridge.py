"""The ridge head: sentence embeddings predicted from image features, in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.models.encoders.heads import RidgeHead

FloatArray = NDArray[np.floating[Any]]

RIDGE = 0.3


def fit_ridge(v: FloatArray, t: FloatArray, *, ridge: float = RIDGE) -> RidgeHead:
    """W = (A'A + ridge I)^-1 A'B with A = v - mean(v), B = t - mean(t), in float64.

    ``v`` [n, p] unit image features, ``t`` [n, q] unit embeddings of their captions, row by row; W is [p, q] and
    minimises |A W - B|^2 + ridge |W|^2. The logit scale is fitted on the same pairs: see ``fit_logit_scale``.
    Raises ValueError for fewer than two pairs or ridge <= 0.
    """
    if len(v) != len(t) or len(v) < 2 or ridge <= 0:
        raise ValueError("fit_ridge needs at least two pairs, as many features as captions, and ridge > 0")
    v, t = np.asarray(v, np.float64), np.asarray(t, np.float64)
    mean_v, mean_t = v.mean(0), t.mean(0)
    A, B = v - mean_v, t - mean_t
    W = np.linalg.solve(A.T @ A + ridge * np.eye(A.shape[1]), A.T @ B)
    return RidgeHead(W.astype(np.float32), mean_v.astype(np.float32), mean_t.astype(np.float32), logit_scale=1.0)


def fit_logit_scale(cosines: FloatArray, target: NDArray[np.integer[Any]]) -> float:
    """The scale s in [1, 100] that minimises the cross entropy of softmax(s x cosines) against ``target``.

    ``cosines`` [n, m] of images and captions, ``target`` [n] the index of each image's own caption. The loss is convex
    in s. Source: temperature scaling, Guo et al. (2017).
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    own = cosines[np.arange(len(cosines)), target]

    def loss(scale: float) -> float:
        return float(np.mean(logsumexp(scale * cosines, axis=1) - scale * own))

    return float(minimize_scalar(loss, bounds=(1.0, 100.0), method="bounded", options={"xatol": 1e-3}).x)

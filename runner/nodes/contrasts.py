"""Each group's rate against the mean rate of the other groups: scores, their weights and intervals, shared by the methods.

Groups stand on the last axis, so one call scores many sets of groups: an array [..., groups], padded with empty groups
(``total`` = 0) where a set has fewer. A group is a value of an attribute in an audit, or a bin of a measure. Pure numpy
float64, no I/O.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.nodes.intervals import wilson_interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def checked_counts(correct: ArrayLike, total: ArrayLike) -> tuple[IntArray, IntArray]:
    """Both as int64 of one shape [..., values]. Raises ValueError where not 0 <= correct <= total, both whole numbers."""
    k, n = np.broadcast_arrays(np.asarray(correct), np.asarray(total))
    if k.ndim == 0:
        raise ValueError("counts need at least one axis: the values of an attribute")
    if not all(np.issubdtype(a.dtype, np.integer) or np.array_equal(a, np.floor(a)) for a in (k, n)):
        raise ValueError("counts must be whole numbers")
    if np.any(k < 0) or np.any(k > n):
        raise ValueError("counts need 0 <= correct <= total")
    return k.astype(np.int64), n.astype(np.int64)


def accuracies(correct: ArrayLike, total: ArrayLike) -> FloatArray:
    """``acc_j = k_j / n_j``, NaN for empty groups; float64 [..., values]."""
    k, n = checked_counts(correct, total)
    return np.asarray(np.divide(k, n, out=np.full(k.shape, np.nan), where=n > 0))


def contrast_weights(total: ArrayLike) -> FloatArray:
    """Weights c [..., values (scores), values (accuracies)] with ``phi_j = sum_l c_jl acc_l``.

    1 on the diagonal, -1/(m-1) elsewhere among the m non-empty groups, 0 for empty ones; NaN rows where phi_j is undefined.
    """
    n = np.asarray(total)
    present = n > 0
    m = present.sum(-1)[..., None, None]
    both = present[..., :, None] & present[..., None, :]
    others = np.divide(-1.0, m - 1, out=np.full(m.shape, np.nan), where=m > 1)
    weights = np.where(np.eye(n.shape[-1], dtype=bool), 1.0, others) * both
    return np.where(present[..., :, None] & (m > 1), weights, np.nan)


def bias_scores(correct: ArrayLike, total: ArrayLike) -> FloatArray:
    """phi per value: its accuracy minus the unweighted mean accuracy of the attribute's other values.

    ``correct`` and ``total`` are counts [..., values]; returns float64 of that shape, in [-1, 1], positive where the
    classifier favours images with the value. m counts non-empty groups only:
    ``phi_j = acc_j - 1/(m-1) sum_{l != j} acc_l``. NaN for empty groups and where only one group is non-empty.
    Source: Guimard et al., CVPR 2025 (Classifier-to-Bias), bias score.
    """
    _, n = checked_counts(correct, total)
    acc = accuracies(correct, total)
    present = n > 0
    m = present.sum(-1, keepdims=True)
    mean = np.divide(np.nansum(acc, -1, keepdims=True), m, out=np.full(m.shape, np.nan), where=m > 1)
    factor = np.divide(m, m - 1, out=np.full(m.shape, np.nan), where=m > 1)
    return np.asarray(factor * (acc - mean))


def mover_interval(k: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Interval of phi per value from the Wilson limits [L_l, U_l] of the accuracies (method of variance estimates recovery).

    With ``phi_j = sum_l c_l acc_l``: ``low = phi_j - sqrt(sum_l (c_l acc_l - min(c_l L_l, c_l U_l))^2)``, ``high`` likewise with
    max. Counts are [..., values]; returns (low, high) of that shape, NaN where phi is undefined. For two values this is
    Newcombe's hybrid score interval. Source: Zou & Donner (2008), Statistics in Medicine 27, 1693-1702.
    """
    counts, totals = checked_counts(k, n)
    weights = contrast_weights(totals)
    low, high = (np.nan_to_num(limit)[..., None, :] for limit in wilson_interval(counts, totals, confidence))
    acc = np.nan_to_num(accuracies(counts, totals))[..., None, :]
    ends = np.stack([weights * low, weights * high])
    phi = bias_scores(counts, totals)
    below = np.sqrt(((weights * acc - ends.min(0)) ** 2).sum(-1))
    above = np.sqrt(((ends.max(0) - weights * acc) ** 2).sum(-1))
    return phi - below, phi + above

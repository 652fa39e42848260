"""Bias scores: how much better a classifier is on images with one value of an attribute than with the others.

Values stand on the last axis, so one call scores a whole audit: an array [attributes, values], padded with empty groups
(``total`` = 0) where attributes have fewer values. Pure numpy float64, no I/O.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Float scores this close to the threshold are decided in exact fractions; their rounding error is far below it.
_UNSURE = 1e-9


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


def flag_exact(correct: ArrayLike, total: ArrayLike, threshold: float | str | Fraction | Decimal = 0.05) -> BoolArray:
    """Whether |phi_j| is strictly above ``threshold``, decided in exact fractions; False where phi is undefined.

    With 20 images per group phi often lies *on* 0.05, where doubles fall to either side. A float threshold means the
    decimal number it prints as (0.05 is 1/20). Shapes as in ``bias_scores``.
    """
    limit = threshold if isinstance(threshold, Fraction) else Fraction(str(threshold))
    if limit < 0:
        raise ValueError("the threshold must not be negative")
    k, n = checked_counts(correct, total)
    distance = np.abs(bias_scores(k, n)) - float(limit)
    flags = distance > 0
    for *row, value in np.argwhere(np.abs(distance) < _UNSURE):
        place = tuple(row)
        flags[(*place, value)] = abs(_exact_score(k[place], n[place], int(value))) > limit
    return np.asarray(flags)


def _exact_score(k: IntArray, n: IntArray, value: int) -> Fraction:
    acc = {j: Fraction(int(k[j]), int(n[j])) for j in range(len(n)) if n[j]}
    own = acc.pop(value)
    return own - sum(acc.values(), Fraction()) / len(acc)

"""Bias scores: how much better a classifier is on images with one value of an attribute than with the others.

The scores are contrasts of rates (``runner.nodes.contrasts``); here is what an audit decides by them. Pure numpy, no I/O.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.nodes.contrasts import accuracies, bias_scores, checked_counts, contrast_weights

__all__ = ["accuracies", "bias_scores", "checked_counts", "contrast_weights", "flag_exact"]

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Float scores this close to the threshold are decided in exact fractions; their rounding error is far below it.
_UNSURE = 1e-9


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

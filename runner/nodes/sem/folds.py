"""Repeated random halves of a population: a reference half and an evaluated half, several times. Numpy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


class Folds(NamedTuple):
    """Row indices of each fold: ``reference`` int64 [folds, a] and ``evaluated`` int64 [folds, b], a + b = n."""

    reference: IntArray
    evaluated: IntArray


def repeated_halves(n: int, folds: int = 10, val_fraction: float = 0.5, seed: int = 42) -> Folds:
    """``folds`` random splits of 0 .. n - 1; the first floor(n (1 - val_fraction)) of each are the reference.

    As published: one index array is shuffled in place again and again by numpy's legacy generator, each time from the
    order that the last shuffle left. The halves are no partition of the population: a row is evaluated in about half of the
    folds, so results of different folds are not independent. Raises ValueError where a side would be empty.
    """
    # The product may fall short of a whole number by rounding: 10 * (1 - 0.9) is 0.9999999999999998.
    reference_size = int(n * (1 - val_fraction) + 1e-9)
    if folds < 1 or not 0 < reference_size < n:
        raise ValueError(f"{n} rows cannot be split {folds} times with a share of {val_fraction:g} evaluated")
    rng = np.random.RandomState(seed)
    indices = np.arange(n)
    orders = np.empty((folds, n), np.int64)
    for fold in range(folds):
        rng.shuffle(indices)
        orders[fold] = indices
    return Folds(orders[:, :reference_size], orders[:, reference_size:])


def appearances(folds: Folds) -> NDArray[Any]:
    """How often each row is evaluated over all folds, int64 [n]."""
    n = folds.reference.shape[1] + folds.evaluated.shape[1]
    return np.bincount(folds.evaluated.ravel(), minlength=n)

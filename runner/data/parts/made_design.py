"""Which colour, drawing and split each made picture gets. Pure: random numbers from a text, arrays out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
K = TypeVar("K")
Numbers = NDArray[np.int64]


def generator(*parts: object) -> np.random.Generator:
    """Random numbers that depend on the texts of ``parts`` alone: what is added elsewhere changes none of them."""
    return np.random.default_rng(list(hashlib.sha256(repr(parts).encode()).digest()))


def apportioned(total: int, shares: Mapping[K, float]) -> dict[K, int]:
    """``total`` cut into whole numbers by shares that add up to 1: largest remainders, the first on ties."""
    exact = {key: total * share for key, share in shares.items()}
    counts = {key: int(value + 1e-9) for key, value in exact.items()}
    for key in sorted(exact, key=lambda k: counts[k] - exact[k])[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def deck(count: int, size: int, draw: np.random.Generator) -> Numbers:
    """``count`` numbers below ``size`` in random order, each as often as any other give or take one: int64 [count]."""
    rounds = -(-count // size)
    numbers = np.concatenate([draw.permutation(size) for _ in range(rounds)]) if rounds else np.zeros(0, np.int64)
    return draw.permutation(numbers[:count])


def spread(groups: Sequence[Sequence[T]], shares: Mapping[K, float], draw: np.random.Generator) -> dict[K, list[T]]:
    """Each item in one split; a group is spread like the whole.

    The next item (groups one after the other, each in random order) goes to the split that lacks most of its share so far;
    of splits that lack as much, to one by chance.
    """
    found: dict[K, list[T]] = {split: [] for split in shares}
    count = 0
    for group in groups:
        for place in draw.permutation(len(group)):
            count += 1
            lacking = {s: share * count - len(found[s]) + 1e-9 * draw.random() for s, share in shares.items()}
            found[max(lacking, key=lacking.__getitem__)].append(group[place])
    return found


def tied(first: Numbers, second: Numbers, strength: float, draw: np.random.Generator) -> Numbers:
    """``second`` int64 [n] with a share ``strength`` of its places, drawn at random, set to ``first``.

    With k equally frequent values on both sides the two then agree in strength + (1 - strength) / k of the pictures, and those of
    ``second`` stay equally frequent, or nearly. With lists of different length they would not: the tie is for equal ones.
    """
    places = draw.permutation(len(first))[: round(strength * len(first))]
    out = second.copy()
    out[places] = first[places]
    return out

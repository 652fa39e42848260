"""How many pictures of which class stand on which background, and who belongs to which split. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from runner.nodes.apportioning import apportioned

T = TypeVar("T")


def generator(seed: str) -> np.random.Generator:
    """Random numbers that depend on the text alone: what is added elsewhere changes none of them."""
    return np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))


def cells(total: int, shares: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], int]:
    """Pictures by (class, background): classes alike, backgrounds by the shares of the class."""
    each = apportioned(total, {target: 1 / len(shares) for target in shares})
    return {
        (target, background): count
        for target, values in shares.items()
        for background, count in apportioned(each[target], values).items()
    }


def dealt(groups: Sequence[Sequence[T]], fractions: Mapping[str, float], seed: str) -> dict[str, list[T]]:
    """Each item in one split. Items of one group are shuffled and spread over the splits by their fractions.

    The next item goes to the split that lacks most of its share so far, so that every group and every prefix is spread
    like the whole; ``fractions`` add up to 1.
    """
    found: dict[str, list[T]] = {split: [] for split in fractions}
    count = 0
    for number, group in enumerate(groups):
        for place in generator(f"{seed}/{number}").permutation(len(group)):
            count += 1
            lacking = {split: share * count - len(found[split]) for split, share in fractions.items()}
            found[max(lacking, key=lacking.__getitem__)].append(group[place])
    return found


def rounds(items: Sequence[T], seed: str) -> Iterator[T]:
    """The items for ever, in rounds of a new random order each: every one as often as any other, give or take one."""
    draw = generator(seed)
    while items:
        yield from (items[place] for place in draw.permutation(len(items)))

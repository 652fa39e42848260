"""Decks, splits and ties of made data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.data.parts.made_design import apportioned, deck, generator, spread, tied
from runner.data.parts.made_specs import Recolour, Tie, check_tie


@given(st.integers(0, 300), st.integers(1, 12), st.integers(0, 5))
def test_a_deck_has_every_number_as_often(count: int, size: int, seed: int) -> None:
    numbers = deck(count, size, generator(seed))
    counts = np.bincount(numbers, minlength=size)
    assert len(numbers) == count and len(counts) == size and counts.max() - counts.min() <= 1
    assert np.array_equal(numbers, deck(count, size, generator(seed)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(0, 3))
def test_every_item_is_in_one_split_and_groups_are_spread_alike(sizes: list[int], seed: int) -> None:
    groups = [[(g, n) for n in range(size)] for g, size in enumerate(sizes)]
    found = spread(groups, {"train": 0.5, "test": 0.5}, generator(seed))
    assert sorted(found["train"] + found["test"]) == [item for group in groups for item in group]
    for group, size in enumerate(sizes):
        assert abs(sum(item[0] == group for item in found["train"]) - size / 2) <= 1


@given(st.integers(0, 500), st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_apportioned_numbers_add_up_and_are_nearest(total: int, weights: list[int]) -> None:
    shares = {n: weight / sum(weights) for n, weight in enumerate(weights)}
    counts = apportioned(total, shares)
    assert sum(counts.values()) == total
    assert all(abs(counts[n] - total * share) < 1 for n, share in shares.items())


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_a_tie_makes_a_share_of_places_follow(strength: float) -> None:
    draw = generator("tie")
    first, second = deck(4000, 5, draw), deck(4000, 5, draw)
    joined = tied(first, second, strength, draw)
    agreement = (joined == first).mean()
    assert abs(agreement - (strength + (1 - strength) / 5)) < 0.02
    assert (joined != second).mean() <= strength
    assert len(np.unique(joined)) == 5


@pytest.mark.parametrize(("first", "second"), [("hair", "headwear"), ("headwear", "hair")])
def test_a_tie_of_lists_of_unequal_length_is_refused(first: Any, second: Any) -> None:
    with pytest.raises(ValueError, match=f"{first} has . colours and {second} has ."):
        check_tie(Tie(first=first, second=second), Recolour())
    check_tie(Tie(first=first, second=second), Recolour(hair=["black", "brown", "red"]))

"""Groups that differ in what was measured and not in where their pictures come from."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.bias.matching import SMALLEST, comparable, matched, thinned

pictures = st.lists(st.tuples(st.integers(-1, 2), st.sampled_from("abc")), max_size=120)


@given(pictures, st.integers(0, 5))
def test_every_source_has_the_same_number_in_every_group(drawn, seed):
    place, sources = np.array([p for p, _ in drawn], np.int64), [s for _, s in drawn]
    after = matched(place, sources, 3, seed)
    assert np.all((after == -1) | (after == place))
    for name in "abc":
        own = np.array([s == name for s in sources], bool)
        before = [int((own & (place == g)).sum()) for g in range(3)]
        left = [int((own & (after == g)).sum()) for g in range(3)]
        assert left == [min(before) if min(before) >= SMALLEST else 0] * 3
        assert (name in comparable(place, sources, 3)) == (min(before) >= SMALLEST)
    assert np.array_equal(after, matched(place, sources, 3, seed))


def test_one_source_alone_loses_only_what_makes_the_groups_unequal():
    place = np.repeat([0, 1], 40)
    assert np.array_equal(matched(place, ["a"] * 80, 2, 0), place)


def test_a_source_that_lacks_a_value_counts_nowhere():
    """All clip art is bright: it says nothing about light."""
    place = np.array([0] * 30 + [1] * 30 + [1] * 50)
    after = matched(place, ["photos"] * 60 + ["clip art"] * 50, 2, 0)
    assert (after[:60] == place[:60]).all() and (after[60:] == -1).all()


def test_further_pictures_are_thinned_alike():
    place = np.array([0] * 100 + [1] * 40)
    after = matched(place, ["a"] * 140, 2, 0)
    further = np.array([0] * 50 + [1] * 20 + [0] * 9)
    left = thinned(further, ["a"] * 70 + ["b"] * 9, place, after, ["a"] * 140, 0)
    assert [(left == g).sum() for g in (0, 1)] == [20, 20]

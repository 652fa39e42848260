"""Cutting measurements into values: equal counts, ties, what lies between, categories."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.bias.binning import OUTSIDE, category_bins, cut_bins, quantile_bins

measured = st.lists(st.one_of(st.integers(0, 6).map(float), st.floats(-1e6, 1e6), st.just(float("nan"))), max_size=60)
names = st.integers(2, 5).map(lambda m: [f"v{i}" for i in range(m)])


def test_thirds_by_hand():
    done = quantile_bins([9, 1, 2, 8, 3, 7, 4, 6, 5], ["dim", "bright"])
    assert [(b.value, b.low, b.high, b.n) for b in done.bins] == [("dim", 1, 4, 3), ("bright", 7, 9, 3)]
    assert done.place.tolist() == [1, 0, 0, 1, 0, 1, OUTSIDE, OUTSIDE, OUTSIDE] and done.pool == 9


def test_halves_where_the_middle_is_kept():
    done = quantile_bins([1, 2, 3, 4], ["a", "b"], middle="keep")
    assert [(b.low, b.high, b.n) for b in done.bins] == [(1, 3, 2), (3, 4, 2)]


def test_ties_stay_together_and_the_unmeasured_outside():
    done = quantile_bins([0, 0, 0, 0, 0, 1, 2, float("nan")], ["a", "b", "c"])
    assert [b.n for b in done.bins] == [5, 1, 1] and done.place[-1] == OUTSIDE and done.pool == 7


def test_two_levels_give_two_bins_without_a_middle():
    assert [b.n for b in quantile_bins([0, 0, 0, 1], ["a", "b"]).bins] == [3, 1]


@pytest.mark.parametrize(
    ("found", "count", "says"),
    [
        ([5.0] * 9, 2, "the same for all"),
        ([1, 2], 3, "2 different"),
        ([], 2, "no picture"),
        ([float("nan")], 2, "no picture"),
    ],
)
def test_what_cannot_be_cut_says_why(found, count, says):
    done = quantile_bins(found, [str(i) for i in range(count)])
    assert not done.bins and says in done.reason and (done.place == OUTSIDE).all()


@given(measured, names, st.sampled_from(["drop", "keep"]))
def test_equal_measurements_share_a_bin_and_bins_are_in_order(found, values, middle):
    done = quantile_bins(found, values, middle)
    array = np.array(found, float)
    for level in np.unique(array[~np.isnan(array)]):
        assert len(set(done.place[array == level])) == 1
    assert (done.place[np.isnan(array)] == OUTSIDE).all()
    if not done.bins:
        assert done.reason
        return
    assert [b.n for b in done.bins] == np.bincount(done.place[done.place >= 0], minlength=len(values)).tolist()
    assert all(b.n > 0 for b in done.bins)
    inside = done.place >= 0
    order = np.argsort(array[inside], kind="stable")
    assert (np.diff(done.place[inside][order]) >= 0).all()
    for i, b in enumerate(done.bins):
        members = array[done.place == i]
        assert b.low <= members.min() and (members.max() <= b.high if i == len(values) - 1 else members.max() < b.high)
    if middle == "keep" or len(values) > 2:
        assert inside.sum() == done.pool


@given(st.integers(20, 200), names)
def test_counts_differ_by_at_most_one_without_ties(n, values):
    counts = [b.n for b in quantile_bins(np.random.default_rng(n).permutation(n), values, "keep").bins]
    assert max(counts) - min(counts) <= 1 and sum(counts) == n


def test_cuts_of_the_user():
    found = [0, 10, 20, 30, float("nan")]
    assert cut_bins(found, ["a", "b"], [20]).place.tolist() == [0, 0, 1, 1, OUTSIDE]
    gap = cut_bins(found, ["a", "b"], [10, 30])
    assert gap.place.tolist() == [0, OUTSIDE, OUTSIDE, 1, OUTSIDE] and gap.bins[0].rule == "cuts given by the user"
    assert [b.n for b in cut_bins(found, ["a", "b", "c"], [-5, 15]).bins] == [0, 2, 2]
    for wrong in ([1, 2, 3], [3, 3], [float("nan")]):
        with pytest.raises(ValueError, match="cuts"):
            cut_bins(found, ["a", "b"], wrong)


def test_categories_by_name():
    done = category_bins(["red", "blue", None, "red", "green"], {"red coat": "red", "blue coat": "blue"})
    assert done.place.tolist() == [0, 1, OUTSIDE, 0, OUTSIDE] and done.pool == 4
    assert [(b.value, b.category, b.low, b.n) for b in done.bins] == [
        ("red coat", "red", None, 2),
        ("blue coat", "blue", None, 1),
    ]
    assert category_bins(["red", "red"], {"a": "red", "b": "blue"}).reason
    with pytest.raises(ValueError, match="same category"):
        category_bins(["red"], {"a": "red", "b": "red"})

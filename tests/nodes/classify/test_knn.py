"""Nearest neighbours and their majority."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.classify.knn import knn_vote, nearest


def majority(labels):
    """The label with the most votes; of equal ones the first met."""
    votes = {}
    for label in labels:
        votes[label] = votes.get(label, 0) + 1
    return next(label for label in labels if votes[label] == max(votes.values()))


@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=20), st.integers(1, 7))
@settings(deadline=None)
def test_the_vote_is_the_first_met_majority(labels, k):
    assert knn_vote(labels, k).tolist() == [majority(row[:k]) for row in labels]


def test_golden_votes():
    labels = [[2, 1, 1, 2, 0], [0, 1, 2, 3, 3], [4, 5, 5, 4, 4]]
    assert knn_vote(labels, 1).tolist() == [2, 0, 4]
    assert knn_vote(labels, 4).tolist() == [2, 0, 4]
    assert knn_vote(labels, 3).tolist() == [1, 0, 5]
    assert knn_vote(labels).tolist() == [2, 3, 4]
    assert knn_vote(np.array([["cat", "dog", "dog"]])).tolist() == ["dog"]


@pytest.mark.parametrize("k", [0, 4])
def test_votes_that_cannot_be_counted_are_refused(k):
    with pytest.raises(ValueError, match="k must be from 1 to the 3"):
        knn_vote([[1, 2, 3]], k)


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_neighbours_are_the_largest_products_and_equal_ones_by_slot(seed, k):
    rng = np.random.default_rng(seed)
    pool = rng.normal(size=(30, 5)).astype(np.float32)
    pool = np.concatenate([pool, pool[rng.integers(0, 30, 90)]])
    query = rng.normal(size=(6, 5)).astype(np.float32)
    found = nearest(query, pool, k)
    products = query.astype(np.float64) @ pool.T.astype(np.float64)
    for row in range(6):
        # Copies of one feature are equal; BLAS may round them differently, so they are made equal first.
        exact = [np.round(p, 9) for p in products[row]]
        assert found.slots[row].tolist() == sorted(range(120), key=lambda slot: (-exact[slot], slot))[:k]
    np.testing.assert_allclose(found.similarity, np.take_along_axis(products, found.slots, 1), atol=1e-12)


def test_more_equal_neighbours_than_candidates_still_come_by_slot():
    pool = np.tile(np.array([[1.0, 0.0]], np.float32), (500, 1))
    assert nearest(pool[:3], pool, 4).slots.tolist() == [[0, 1, 2, 3]] * 3


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_one_neighbour_is_the_nearest_label(seed):
    rng = np.random.default_rng(seed)
    pool, query = rng.normal(size=(20, 4)), rng.normal(size=(5, 4))
    labels = rng.integers(0, 3, 20)
    found = nearest(query, pool, 20)
    assert knn_vote(labels[found.slots], 1).tolist() == labels[(query @ pool.T).argmax(1)].tolist()


def test_features_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        nearest([[np.nan, 1.0]], np.eye(2), 1)
    with pytest.raises(ValueError, match="k must be from 1 to the 2 pictures"):
        nearest(np.eye(2), np.eye(2), 3)
    with pytest.raises(ValueError, match="query and pool must be"):
        nearest(np.eye(2), np.eye(3), 1)

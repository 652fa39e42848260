"""Labels as features, shuffled labels, balanced weights."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.leakage.label_controls import balance_weights, label_features, shuffle_within, strata


def test_labels_that_are_not_valid_become_the_training_mean() -> None:
    value = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 1], [0, 1]])
    valid = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]])
    found = label_features(value, valid, torch.tensor([0, 1, 2]))
    assert found.tolist() == [[1, 0.5], [0, 0.5], [1, 0.5], [2 / 3, 1], [2 / 3, 1]]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_shuffling_stays_within_splits(seed: int) -> None:
    train, test, rest = torch.arange(0, 60, 2), torch.arange(1, 60, 2), torch.arange(60, 65)
    taken = shuffle_within([train, test, rest], seed)
    for rows in (train, test, rest):
        assert sorted(taken[rows].tolist()) == rows.tolist()
    assert torch.equal(taken, shuffle_within([train, test, rest], seed))
    assert (taken != torch.arange(65)).sum() > 40


def test_weights_by_hand() -> None:
    others = torch.tensor([[0], [0], [0], [0], [1], [1], [1], [0]])
    valid = torch.tensor([[1], [1], [1], [1], [1], [1], [1], [0]])
    stratum = strata(others, valid)
    assert len(stratum.unique()) == 3
    targets = torch.tensor([[1], [1], [1], [0], [1], [0], [0], [1]])
    found = balance_weights(targets, torch.ones_like(targets), stratum)
    assert found[:, 0].tolist() == [1 / 3, 1 / 3, 1 / 3, 1, 1, 0.5, 0.5, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), labels=st.integers(1, 3))
def test_weighted_labels_are_independent_of_what_the_strata_are_made_of(seed: int, labels: int) -> None:
    g = torch.Generator().manual_seed(seed)
    others, known, valid = (torch.rand(200, k, generator=g) < s for k, s in ((labels, 0.4), (labels, 0.9), (2, 0.9)))
    targets = torch.rand(200, 2, generator=g) < 0.2 + 0.6 * others[:, :1]
    weights = balance_weights(targets, valid, strata(others, known))
    assert (weights[~valid] == 0).all()
    seen = label_features(others, known, torch.arange(200))
    for a in range(2):
        w, y = weights[:, a], targets[:, a].double()
        positive, negative = (w * y) @ seen / (w @ y), (w * (1 - y)) @ seen / (w @ (1 - y))
        torch.testing.assert_close(positive, negative, atol=1e-12, rtol=0)
        assert weights[:, a].max() <= 1


def test_without_labels_of_the_part_there_is_one_stratum() -> None:
    none = torch.zeros(4, 0)
    assert strata(none, none).tolist() == [0, 0, 0, 0]
    targets = torch.tensor([[1], [1], [0], [1]])
    found = balance_weights(targets, torch.ones_like(targets), strata(none, none))
    torch.testing.assert_close(found[:, 0], torch.tensor([1, 1, 3, 1]).double() / 3)
    assert balance_weights(targets[:0], targets[:0], strata(none[:0], none[:0])).shape == (0, 1)

"""AUROC and average precision against scikit-learn; leakage measures by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from runner.nodes.leakage.metrics import attributes_in, leakage_scores, pair_matrix, terms_of_one, terms_of_two
from runner.nodes.leakage.ranking import MEASURES, auroc, average_precision, rank

NAN = math.nan


def columns(seed: int, levels: int, rows: int = 60) -> tuple[torch.Tensor, ...]:
    """Scores with ties (fewer levels, more of them), targets, valid rows, weights: [rows, 4] each."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (rows, 4), generator=g).double()
    targets, valid = (torch.rand(rows, 4, generator=g) < share for share in (0.4, 0.8))
    targets[:2], valid[:2] = torch.tensor([[True], [False]]), True
    return scores, targets, valid, torch.rand(rows, 4, generator=g, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.sampled_from([2, 5, 1000]), weighted=st.booleans())
def test_ranking_measures_are_scikit_learns(seed: int, levels: int, weighted: bool) -> None:
    scores, targets, valid, weights = columns(seed, levels)
    found = [f(scores, targets, valid, weights if weighted else None) for f in (auroc, average_precision)]
    for a in range(4):
        keep = valid[:, a].numpy()
        given = (targets[:, a].numpy()[keep], scores[:, a].numpy()[keep])
        w = weights[:, a].numpy()[keep] if weighted else None
        for values, reference in zip(found, (roc_auc_score, average_precision_score), strict=True):
            assert values[a].item() == pytest.approx(reference(*given, sample_weight=w), abs=1e-12)


def test_one_weight_a_row_serves_all_columns_and_one_class_is_nan() -> None:
    scores, targets, valid, weights = columns(1, 9)
    row = weights[:, 0]
    assert torch.equal(auroc(scores, targets, valid, row), auroc(scores, targets, valid, row[:, None].expand(-1, 4)))
    targets[:, 2], valid[:, 3] = True, False
    assert auroc(scores, targets, valid).isnan().tolist() == [False, False, True, True]
    assert average_precision(scores, targets, valid)[2].item() == 1


def test_scores_that_are_not_finite_are_refused_only_where_they_count() -> None:
    scores, targets, valid, _ = columns(2, 9)
    valid[5] = False
    before = auroc(scores, targets, valid)
    scores[5] = NAN
    assert torch.equal(auroc(scores, targets, valid), before)
    valid[5, 1] = True
    with pytest.raises(ValueError, match="finite"):
        auroc(scores, targets, valid)
    with pytest.raises(ValueError, match="one"):
        rank(scores, targets[:4])


def test_average_precision_above_base_is_0_for_a_constant_score() -> None:
    targets = torch.tensor([[1], [0], [0], [1], [0]])
    ranking = rank(torch.ones(5, 1), targets)
    assert MEASURES["ap"](ranking, torch.ones_like(ranking.positive)).item() == pytest.approx(0)


SINGLE = torch.tensor([[0.9, 0.8], [0.7, 1.0]])
TWO = torch.tensor([[0.8, 0.6], [0.5, 0.9]])
OWNER = torch.tensor([0, 1])


def test_measures_of_two_parts_and_two_attributes_by_hand() -> None:
    found = leakage_scores(SINGLE, TWO, OWNER)
    assert found.own.item() == pytest.approx((0.9 + 1.0) / 2)
    assert found.cross.item() == pytest.approx((0.7 + 0.8) / 2)
    assert found.locality_gap.item() == pytest.approx((0.2 + 0.2) / 2)
    assert found.leak_ratio.item() == pytest.approx((0.2 / 0.4 + 0.3 / 0.5) / 2)
    assert found.excess_leakage.item() == pytest.approx((0.2 + 0.2) / 2)
    assert found.normalised_leakage.item() == pytest.approx((0.2 / 0.4 + 0.2 / 0.4) / 2)
    assert found.own_delta.item() == pytest.approx((-0.1 - 0.1) / 2)
    assert (found.own_two.item(), found.cross_two.item()) == pytest.approx((0.85, 0.55))


def test_attributes_of_no_part_and_missing_scores_enter_nothing() -> None:
    one = torch.tensor([[0.9, 0.8, 0.99, 0.7], [0.7, 1.0, 0.99, NAN]])
    two = torch.tensor([[0.8, 0.6, 0.10, 0.6], [0.5, 0.9, 0.10, 0.6]])
    owner = torch.tensor([0, 1, -1, 0])
    found, plain = leakage_scores(one, two, owner), leakage_scores(SINGLE, TWO, OWNER)
    for name in ("own", "cross", "locality_gap", "leak_ratio", "excess_leakage", "normalised_leakage"):
        assert getattr(found, name).item() == pytest.approx(getattr(plain, name).item()), name
    assert found.own_delta.item() == pytest.approx((-0.1 - 0.1 - 0.1) / 3)
    assert found.own_two.item() == pytest.approx((0.8 + 0.9 + 0.6) / 3)
    terms = terms_of_one(one, owner) | terms_of_two(one, two, owner)
    assert {name: attributes_in(t) for name, t in terms.items()} == {
        "own": 2, "cross": 2, "locality_gap": 2, "leak_ratio": 2, "excess_leakage": 2, "normalised_leakage": 2, "own_delta": 3,
    }  # fmt: skip


def test_thresholds_leave_attributes_out() -> None:
    weak = torch.tensor([[0.54, 0.9], [0.52, 0.8]])
    assert leakage_scores(weak, weak, torch.tensor([0, 0])).leak_ratio.item() == pytest.approx(0.3 / 0.4)
    assert leakage_scores(weak, weak, torch.tensor([0, 0])).normalised_leakage.item() == 0
    flat = torch.tensor([[0.6], [0.59]])
    assert leakage_scores(flat, flat, torch.tensor([0])).normalised_leakage.isnan()
    below = torch.tensor([[0.9], [0.3]])
    assert leakage_scores(below, below, torch.tensor([0])).leak_ratio.item() == 0
    above = torch.tensor([[0.4], [0.1]])
    assert leakage_scores(above, above, torch.tensor([0]), chance=0.0).leak_ratio.item() == pytest.approx(0.25)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), parts=st.integers(2, 5), attributes=st.integers(1, 8))
def test_identities(seed: int, parts: int, attributes: int) -> None:
    g = torch.Generator().manual_seed(seed)
    table = torch.rand(3, parts, attributes, generator=g)
    owner = torch.randint(-1, parts, (attributes,), generator=g)
    owner[0] = 0
    same = leakage_scores(table, table, owner)
    assert torch.equal(same.excess_leakage, torch.zeros(3))
    assert torch.equal(same.own_delta, torch.zeros(3))
    alike = table[:, :1].expand(-1, parts, -1) * 0.3 + 0.6
    torch.testing.assert_close(leakage_scores(alike, alike, owner).leak_ratio, torch.ones(3))
    torch.testing.assert_close(leakage_scores(alike, alike, owner).locality_gap, torch.zeros(3), atol=1e-6, rtol=0)
    for b in range(3):
        one, whole = leakage_scores(table[b], table[b], owner), leakage_scores(table, table, owner)
        assert one.cross.item() == pytest.approx(whole.cross[b].item())
    expected = [
        np.mean([table[0, p, a] for p in range(parts) if p != owner[a]]) for a in range(attributes) if owner[a] >= 0
    ]
    assert same.cross[0].item() == pytest.approx(float(np.mean(expected)), abs=1e-6)


def test_pairs_of_parts_are_means_over_the_owners_attributes() -> None:
    table = torch.tensor([[0.9, 0.7, 0.6, 0.3], [0.5, NAN, 0.8, 0.3], [0.4, 0.2, 0.1, 0.3]])
    found = pair_matrix(table, torch.tensor([0, 0, 1, -1]), 3)
    wanted = torch.tensor([[0.8, 0.6, NAN], [0.5, 0.8, NAN], [0.3, 0.1, NAN]])
    torch.testing.assert_close(found, wanted, equal_nan=True)


def test_owners_beyond_the_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="part 2"):
        leakage_scores(SINGLE, TWO, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="owners"):
        leakage_scores(SINGLE, TWO, torch.tensor([0]))

import numpy as np
import pytest

from runner.nodes.bias.statistics import (
    contaminated_holds,
    contamination_gap,
    corrected_gap,
    point_verdicts,
    precision_from_verifier,
    robust_z,
    sanity_gate,
    suspicious_holds,
    verdicts,
)


def test_each_verdict_in_its_order():
    correct = [[90, 50], [9, 5], [90, 88], [90, 0], [90, 50], [90, 50]]
    total = [[100, 100], [9, 100], [100, 100], [100, 0], [100, 100], [100, 100]]
    q = [[0.001] * 2, [0.001] * 2, [0.9] * 2, [np.nan] * 2, [0.2] * 2, [0.001] * 2]
    hold = [[False] * 2] * 5 + [[False, True]]
    found = verdicts(correct, total, q, hold=hold).tolist()
    assert found == [
        ["favoured", "disfavoured"],
        ["insufficient_data", "insufficient_data"],
        ["no_evidence", "no_evidence"],
        ["undefined", "undefined"],
        ["no_evidence", "no_evidence"],
        ["favoured", "held_back"],
    ]


def test_threshold_is_strict_and_alpha_is_not():
    # phi is exactly 0.05 in the first, above in the second.
    assert verdicts([19, 20], [20, 20], [0.0, 0.0]).tolist() == ["no_evidence"] * 2
    assert verdicts([18, 20], [20, 20], [0.05, 0.05]).tolist() == ["disfavoured", "favoured"]


def test_paper_rule_ignores_sample_size():
    assert point_verdicts([18, 20], [20, 20]).tolist() == ["disfavoured", "favoured"]
    assert point_verdicts([19, 20], [20, 20]).tolist() == ["no_evidence"] * 2
    assert point_verdicts([1, 0], [1, 0]).tolist() == ["undefined"] * 2


def test_corrected_gap_inverts_swapped_values():
    observed = (0.9 + 0.7 - 1) * 0.3
    assert corrected_gap(observed, 0.9, 0.7) == pytest.approx(0.3)
    assert np.isnan(corrected_gap(0.1, 0.6, 0.6))


def test_wrong_targets_invent_a_gap():
    assert contamination_gap(0.95, 0.60, 0.9) == pytest.approx(0.315)


def test_precision_from_an_imperfect_checker():
    true = 0.7
    yes = true * 0.9 + (1 - true) * (1 - 0.8)
    assert precision_from_verifier(yes, 0.9, 0.8) == pytest.approx(true)
    np.testing.assert_array_equal(precision_from_verifier([0.0, 1.0], 0.9, 0.8), [0.0, 1.0])
    with pytest.raises(ValueError, match="says nothing"):
        precision_from_verifier(0.5, 0.5, 0.5)


def test_robust_z_finds_the_odd_group_also_among_two_values():
    similarity = np.array([[0.30, 0.31], [0.29, 0.30], [0.30, 0.305], [0.31, 0.10], [0.3, np.nan]])
    z = robust_z(similarity)
    assert z[3, 1] < -2
    assert (z[:3] > -2).all() and np.isnan(z[4, 1]) and z[4, 0] == 0
    assert np.isnan(robust_z([[np.nan, np.nan]])).all()
    assert (robust_z([[0.3, 0.3], [0.2, 0.2]]) == 0).all()


def test_holds_follow_the_suspicious_group():
    correct, total = np.array([[90, 50, 0], [90, 60, 50]]), np.array([[100, 100, 0], [100, 100, 100]])
    z = np.array([[0.0, -5.0, np.nan], [0.0, -5.0, 0.0]])
    # Two values: the sibling's advantage exists only through the doubtful group. Three: it stands without it.
    assert suspicious_holds(correct, total, z).tolist() == [[True, True, True], [False, True, False]]


def test_gate_compares_the_lower_limit_with_chance():
    assert sanity_gate(90, 100, 0.1).passed is True
    assert sanity_gate(12, 100, 0.1).passed is False
    assert sanity_gate(0, 0, 0.1).passed is None


def test_a_gap_must_stand_at_the_lower_end_of_the_precision():
    """82 of 93 against 92 of 92: with 88 % of the worse group's pictures showing the target there is no gap left."""
    correct, total = [[82, 92]], [[93, 92]]
    sure = contaminated_holds(correct, total, [[1.0, 1.0]])
    doubtful = contaminated_holds(correct, total, [[1.0, 1.0]], target_low=[[0.87, 0.97]])
    assert sure.tolist() == [[False, False]] and doubtful.tolist() == [[True, True]]
    wide = contaminated_holds([[20, 92]], [[93, 92]], [[1.0, 1.0]], target_low=[[0.7, 0.9]])
    assert wide.tolist() == [[False, False]]

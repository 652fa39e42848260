from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.bias.scores import accuracies, bias_scores, contrast_weights, flag_exact

group = st.integers(0, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
attribute = st.lists(group, min_size=1, max_size=6)


def split(groups):
    return np.array([k for k, _ in groups]), np.array([n for _, n in groups])


def exact_phi(groups, j):
    """phi by its definition, in fractions; None where undefined."""
    acc = [Fraction(k, n) if n else None for k, n in groups]
    others = [a for i, a in enumerate(acc) if i != j and a is not None]
    return None if acc[j] is None or not others else acc[j] - sum(others) / len(others)


@given(attribute)
def test_phi_is_its_definition(groups):
    phi = bias_scores(*split(groups))
    for j in range(len(groups)):
        expected = exact_phi(groups, j)
        assert np.isnan(phi[j]) if expected is None else phi[j] == pytest.approx(float(expected), abs=1e-12)


@given(attribute)
def test_phi_identities(groups):
    correct, total = split(groups)
    phi, acc, m = bias_scores(correct, total), accuracies(correct, total), int((total > 0).sum())
    assert np.isnan(phi[total == 0]).all()
    if m < 2:
        assert np.isnan(phi).all()
        return
    assert np.nansum(phi) == pytest.approx(0, abs=1e-12)
    assert np.nanmax(np.abs(phi)) <= 1 + 1e-12
    np.testing.assert_allclose(phi, m / (m - 1) * (acc - np.nanmean(acc)), atol=1e-12)
    weights = contrast_weights(total)[total > 0]
    np.testing.assert_allclose(weights @ np.nan_to_num(acc), phi[total > 0], atol=1e-12)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=5), st.booleans())
def test_all_right_or_all_wrong_is_no_bias(total, right):
    phi = bias_scores(total if right else [0] * len(total), total)
    np.testing.assert_allclose(phi, 0, atol=1e-15)


def test_two_values_are_opposite_and_one_value_is_undefined():
    phi = bias_scores([7, 3], [10, 10])
    np.testing.assert_allclose(phi, [0.4, -0.4])
    assert np.isnan(bias_scores([7], [10])).all()
    assert np.isnan(bias_scores([7, 0], [10, 0])).all()


@given(st.lists(attribute, min_size=1, max_size=5))
def test_padding_and_batching_change_nothing(attributes):
    width = max(map(len, attributes))
    padded = np.array([[*a, *[(0, 0)] * (width - len(a))] for a in attributes])
    together = bias_scores(padded[..., 0], padded[..., 1])
    for row, groups in zip(together, attributes, strict=True):
        np.testing.assert_array_equal(row[: len(groups)], bias_scores(*split(groups)))


@given(attribute, st.sampled_from(["0.05", "0.1", "0", "0.25"]))
def test_flag_is_strict_in_fractions(groups, threshold):
    flags = flag_exact(*split(groups), float(threshold))
    for j, flag in enumerate(flags):
        phi = exact_phi(groups, j)
        assert flag == (phi is not None and abs(phi) > Fraction(threshold))


def test_one_image_of_twenty_lies_on_the_threshold_and_is_not_flagged():
    right = np.arange(20)
    correct = np.stack([right, right + 1], 1)
    total = np.full_like(correct, 20)
    assert not flag_exact(correct, total, 0.05).any()
    # Doubles alone fall to both sides, which is why the flag is exact.
    doubles = np.abs(correct[:, 0] / 20 - correct[:, 1] / 20) > 0.05
    assert 0 < doubles.sum() < 20
    two_apart = np.stack([right[:-1], right[:-1] + 2], 1)
    assert flag_exact(two_apart, np.full_like(two_apart, 20), 0.05).all()


@given(attribute, st.randoms())
def test_order_of_values_changes_no_score(groups, random):
    order = list(range(len(groups)))
    random.shuffle(order)
    correct, total = split(groups)
    np.testing.assert_allclose(
        bias_scores(correct[order], total[order]), bias_scores(correct, total)[order], atol=1e-12
    )
    np.testing.assert_array_equal(flag_exact(correct[order], total[order]), flag_exact(correct, total)[order])


@pytest.mark.parametrize(("correct", "total"), [([3], [2]), ([-1], [2]), ([0.5], [1]), (1, 2)])
def test_impossible_counts_are_refused(correct, total):
    with pytest.raises(ValueError, match="counts"):
        bias_scores(correct, total)

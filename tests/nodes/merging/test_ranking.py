"""Rank statistics, regret, intervals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.merging import ranking

SCORES = st.lists(st.integers(-50, 50).map(float), min_size=3, max_size=12)


def test_identical_reversed_constant_and_short_lists() -> None:
    up = np.array([1.0, 2, 3, 4])
    assert ranking.rank_metrics(up, up)[1:] == pytest.approx((1, 1, 1))
    assert ranking.rank_metrics(up, -up)[1:] == pytest.approx((-1, -1, -1))
    assert ranking.rank_metrics(up, np.ones(4)) == (4, None, None, None)
    assert ranking.rank_metrics(up[:2], up[:2]) == (2, None, None, None)


def test_golden_values_by_hand() -> None:
    # d = (0, -1, 1, -1, 1): rho = 1 - 6 * 4 / (5 * 24); 8 concordant, 2 discordant pairs.
    found = ranking.rank_metrics(np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 3, 2, 5, 4]))
    assert found.spearman == pytest.approx(0.8)
    assert found.kendall_tau_b == pytest.approx(0.6)


@given(SCORES, st.randoms())
@settings(deadline=None)
def test_tau_b_equals_its_definition_over_pairs(left: list[float], random: object) -> None:
    right = list(left)
    random.shuffle(right)  # type: ignore[attr-defined]
    found = ranking.rank_metrics(np.array(left), np.array(right))
    if found.kendall_tau_b is None:
        assert len(set(left)) == 1
        return
    pairs = list(itertools.combinations(range(len(left)), 2))
    signs = [(np.sign(left[i] - left[j]), np.sign(right[i] - right[j])) for i, j in pairs]
    untied = [sum(1 for s in signs if s[side] != 0) for side in (0, 1)]
    assert found.kendall_tau_b == pytest.approx(sum(a * b for a, b in signs) / math.sqrt(untied[0] * untied[1]))


def test_equal_means_tie_in_spite_of_rounding() -> None:
    exact, noisy = np.array([0.3, 0.3, 0.5, 0.1]), np.array([0.1 + 0.2, 0.3, 0.5, 0.1])
    assert ranking.rank_metrics(noisy, exact).spearman == pytest.approx(1)


def test_missing_cells_leave_pairs_out() -> None:
    gap = np.array([1.0, np.nan, 3, 4, 2])
    full = np.array([1.0, 9, 3, 4, 2])
    assert ranking.rank_metrics(gap, full)[:2] == (4, pytest.approx(1))
    with pytest.raises(ValueError, match="same mixtures"):
        ranking.rank_metrics(gap, full[:3])


@given(SCORES, SCORES)
def test_regret_is_never_negative_and_zero_when_the_tops_agree(left: list[float], right: list[float]) -> None:
    n = min(len(left), len(right))
    proxy, true = np.array(left[:n]), np.array(right[:n])
    assert ranking.regret(proxy, true) >= 0
    assert ranking.regret(true, true) == 0
    assert ranking.true_rank(true, true) == 1
    assert (ranking.regret(proxy, true) == 0) == (ranking.true_rank(proxy, true) == 1)


def test_ties_go_to_the_more_even_mixture_then_to_the_first() -> None:
    scores = np.array([0.5, 0.7, 0.7, np.nan, 0.7])
    entropies = np.array([1.0, 0.2, 0.9, 2.0, 0.9])
    assert ranking.best_first(scores, entropies).tolist() == [2, 4, 1, 0, 3]
    assert ranking.selected(scores, entropies) == 2


def test_top_k_overlap_by_hand() -> None:
    proxy, true = np.array([5.0, 4, 3, 2, 1]), np.array([5.0, 1, 4, 3, 2])
    assert ranking.topk_overlap(proxy, true, 3) == pytest.approx(2 / 3)


def test_interval_and_p_value_of_a_strong_relation() -> None:
    generator = np.random.default_rng(0)
    true = generator.normal(size=40)
    proxy = true + 0.3 * generator.normal(size=40)
    value, low, high = ranking.spearman_interval(proxy, true)
    assert low is not None and value is not None and high is not None
    assert 0.7 < low < value < high <= 1
    p = ranking.permutation_p(proxy, true, draws=2000)
    assert p == pytest.approx(1 / 2001)


def test_p_value_equals_full_enumeration_for_four_mixtures() -> None:
    left, right = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 4, 3])
    every = [abs(ranking.spearman(left, np.array(order))) for order in itertools.permutations(right)]
    exact = np.mean([value >= abs(ranking.spearman(left, right)) - 1e-12 for value in every])
    assert ranking.permutation_p(left, right, draws=20_000) == pytest.approx(exact, abs=0.02)


def test_chance_has_uniform_p_values() -> None:
    generator = np.random.default_rng(1)
    found = [ranking.permutation_p(*generator.normal(size=(2, 10)), draws=200, seed=s) for s in range(200)]
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.1


def test_paired_gaps_tell_close_mixtures_apart_where_marginal_intervals_overlap() -> None:
    generator = np.random.default_rng(2)
    hard = generator.normal(0, 1, 400)
    values = np.stack([hard + 0.05, hard, hard - 0.5]) + 0.01 * generator.normal(size=(3, 400))
    found = ranking.resampled([(values, np.arange(400))], lambda means: means[..., 0], seed=3)
    np.testing.assert_allclose(found.values, values.mean(1))
    assert found.draws[:, 0].std() > 0.04
    result = ranking.gaps(found)
    assert result.best == 0
    assert result.low[1] > 0.04
    assert ranking.indistinguishable(result).tolist() == [0]


def test_items_of_one_group_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(4).normal(size=(2, 20)), 10, axis=1)
    apart = ranking.resampled([(values, np.arange(200))], lambda means: means[..., 0]).draws[:, 0].std()
    together = ranking.resampled([(values, np.arange(200) // 10)], lambda means: means[..., 0]).draws[:, 0].std()
    assert together > 2 * apart


def test_mixtures_with_the_same_answers_cannot_be_told_apart() -> None:
    values = np.tile((np.arange(50) % 2).astype(float), (3, 1))
    result = ranking.gaps(ranking.resampled([(values, np.arange(50))], lambda means: means[..., 0]))
    assert ranking.indistinguishable(result).tolist() == [0, 1, 2]

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln
from scipy.stats import binom

from runner.nodes.bias.sequential import (
    EXCLUDING,
    FINDING,
    LIMITS,
    alternatives,
    confidence_sequence,
    e_adjusted,
    excludes_gap,
    log_e,
    phi_sequence,
    projection,
)


def blocks(own, others, n, m):
    """Counts [.., 1 phase, 4] of a value with ``own`` right of n against m - 1 others with ``others`` right together."""
    own, others = np.broadcast_arrays(own, others)
    return np.stack([own, n - own, others, n * (m - 1) - others], -1)[..., None, :]


@pytest.mark.parametrize("p", [0.05, 0.5, 0.8, 0.95])
def test_the_confidence_sequence_holds_at_all_times_at_once(p):
    looks = np.array([*range(1, 30), *range(30, 1000, 50)])
    right = (np.random.default_rng(7).random((2000, 1000)) < p).cumsum(1)[:, looks - 1]
    low, high = confidence_sequence(right, looks)
    assert ((p < low) | (p > high)).any(1).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2000)
    assert (high - low)[:, -1].max() < 0.12


@given(
    st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.99])
)
def test_limits_are_where_the_mixture_martingale_crosses(count, confidence):
    k, n = count
    for end, edge in zip(confidence_sequence(k, n, confidence), (0.0, 1.0), strict=True):
        if k == n * edge:
            assert end == edge
            continue
        log_mixture = betaln(0.5 + k, 0.5 + n - k) - betaln(0.5, 0.5) - k * np.log(end) - (n - k) * np.log1p(-end)
        assert log_mixture == pytest.approx(-np.log(1 - confidence), abs=1e-6)


def test_no_pictures_no_limits_and_impossible_counts_are_refused():
    assert np.isnan(confidence_sequence(0, 0)).all()
    assert np.isnan(phi_sequence(np.zeros((1, 0, 4)))).all()
    with pytest.raises(ValueError, match="counts"):
        confidence_sequence(3, 2)
    with pytest.raises(ValueError, match="blocks"):
        log_e([[3, 3, 4, 3]])


@pytest.mark.parametrize("mixture", [FINDING, LIMITS, EXCLUDING])
def test_mixtures_weigh_one(mixture):
    pairs = alternatives(mixture)
    assert np.exp(pairs.log_weight).sum() == pytest.approx(1)
    assert ((pairs.own > 0) & (pairs.own < 1)).all()


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(-0.8, 0.8), st.integers(1, 5))
def test_the_projection_is_nearest_and_the_pooled_mean_without_gap(a, b, gap, ratio):
    def distance(p, q):
        return sum(
            w * (x * np.log(x / y) + (1 - x) * np.log((1 - x) / (1 - y))) for w, x, y in ((1, a, p), (ratio, b, q))
        )

    p, q = projection(a, b, gap, ratio)
    assert p - q == pytest.approx(gap, abs=1e-12)
    rivals = np.linspace(max(0, -gap), min(1, 1 - gap), 203)[1:-1]
    assert distance(p, q) <= distance(rivals + gap, rivals).min() + 1e-9
    assert projection(a, b, 0.0, ratio)[1] == pytest.approx((a + ratio * b) / (1 + ratio))


def expected_e(own, others, n, gap, null, mixture):
    """E[e] after n blocks, summed over every table; ``others`` holds the accuracy of each other value."""
    spread = np.array([1.0])
    for p in others:
        spread = np.convolve(spread, binom.pmf(np.arange(n + 1), n, p))
    k, rest = np.meshgrid(np.arange(n + 1), np.arange(len(spread)), indexing="ij")
    e = np.exp(log_e(blocks(k, rest, n, len(others) + 1), (gap,), null, mixture)[..., 0])
    return float((binom.pmf(k, n, own) * spread[rest] * e).sum())


@pytest.mark.parametrize("n", [1, 2, 7, 15])
@pytest.mark.parametrize("others", [(0.5,), (0.9,), (0.7, 0.7, 0.7), (0.4, 0.6, 0.95), (0.02, 0.98)])
def test_under_the_null_the_expected_e_is_at_most_one(n, others):
    """Exact, also where the other values differ among themselves: only their mean matters."""
    mean = float(np.mean(others))
    assert expected_e(mean, others, n, 0.0, "equal", FINDING) <= 1 + 1e-9
    for gap, slack in product((-0.3, -0.1, 0.0, 0.2), (0.0, 0.1)):
        for null, own in (("at_least", mean + gap + slack), ("at_most", mean + gap - slack)):
            if 0 <= own <= 1:
                assert expected_e(own, others, n, gap, null, LIMITS) <= 1 + 1e-9
                assert expected_e(own, others, n, gap, null, EXCLUDING) <= 1 + 1e-9


def test_evidence_grows_where_there_is_a_gap():
    assert expected_e(0.5, (0.8,), 15, 0.0, "equal", FINDING) > 2
    assert log_e(blocks(50, 80, 100, 2))[0] > np.log(1000) and log_e(blocks(80, 80, 100, 2))[0] < 0


def test_one_answer_at_a_time_multiplies_and_phases_add_up():
    """The mean over the next block, under equal accuracies, is the present value or less: a supermartingale, not only E <= 1."""
    for p, (k, rest) in product((0.2, 0.5, 0.9), ((2, 5), (5, 5), (6, 1))):
        now = np.exp(log_e(blocks(k, rest, 6, 2))[0])
        later = sum(
            binom.pmf(x, 1, p) * binom.pmf(y, 1, p) * np.exp(log_e(blocks(k + x, rest + y, 7, 2))[0])
            for x, y in product((0, 1), (0, 1))
        )
        assert later <= now * (1 + 1e-9)
    whole = log_e(blocks(30, 45, 50, 2))
    split = log_e(np.concatenate([blocks(10, 18, 20, 2), blocks(20, 27, 30, 2)], -2))
    assert split == pytest.approx(whole)
    assert log_e(np.concatenate([blocks(30, 45, 50, 2), np.zeros((1, 4))], -2)) == pytest.approx(whole)


@pytest.mark.parametrize(("own", "others"), [(0.8, (0.8,)), (0.5, (0.9, 0.7)), (0.95, (0.3,))])
def test_the_interval_of_phi_holds_at_all_times_at_once(own, others):
    rng = np.random.default_rng(3)
    draws = [(rng.random((100, 60)) < p).cumsum(1) for p in (own, *others)]
    looks = (5, 10, 20, 30, 45, 60)
    left = np.zeros(100, bool)
    for n in looks:
        low, high = phi_sequence(blocks(draws[0][:, n - 1], sum(d[:, n - 1] for d in draws[1:]), n, len(draws)))
        phi = own - np.mean(others)
        left |= (phi < low) | (phi > high)
    assert left.mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 100)


def test_the_interval_agrees_with_the_test_behind_it():
    counts = blocks(np.array([20, 35, 48]), 40, 50, 2)
    low, high = phi_sequence(counts, 0.9)
    for i in range(3):
        for gap in (round(high[i], 3), round(high[i] + 0.1, 3)):
            if gap < 1:
                assert log_e(counts[i], (gap,), "at_least", LIMITS)[0] >= -np.log(0.05)
        assert log_e(counts[i], (high[i] - 0.02,), "at_least", LIMITS)[0] < -np.log(0.05)
        assert low[i] < (counts[i, 0, 0] - 40) / 50 < high[i]


def test_a_gap_is_excluded_only_when_both_signs_are():
    assert excludes_gap(blocks(40, 40, 50, 2), 0.3, 0.8)
    assert not excludes_gap(blocks(4, 4, 5, 2), 0.3, 0.8)
    assert not excludes_gap(blocks(25, 40, 50, 2), 0.3, 0.8) and not excludes_gap(blocks(40, 25, 50, 2), 0.3, 0.8)


def test_a_true_gap_is_seldom_excluded():
    rng = np.random.default_rng(11)
    for own, other in ((0.5, 0.8), (0.35, 0.65), (0.65, 0.95)):
        a, b = ((rng.random((500, 200)) < p).cumsum(1) for p in (own, other))
        gone = np.zeros(500, bool)
        for n in range(10, 201, 10):
            gone |= excludes_gap(blocks(a[:, n - 1], b[:, n - 1], n, 2), 0.3, 0.8)
        assert gone.mean() <= 0.2


def slow_e_bh(e, alpha):
    """Rejected tests as e-BH is written down: the largest k with k tests of e >= tests / (alpha k)."""
    for k in range(len(e), 0, -1):
        big = [i for i, x in enumerate(e) if x >= len(e) / (alpha * k)]
        if len(big) >= k:
            return set(big)
    return set()


@given(st.lists(st.floats(-3, 12), min_size=1, max_size=30), st.sampled_from([0.01, 0.05, 0.2]))
def test_adjusted_e_values_reject_as_e_bh(logs, alpha):
    fast = set(np.flatnonzero(e_adjusted(logs) <= alpha).tolist())
    assert fast == slow_e_bh(np.exp(logs), alpha)

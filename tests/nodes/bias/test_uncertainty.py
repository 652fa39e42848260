import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep

from runner.nodes.bias.scores import bias_scores
from runner.nodes.bias.statistics import caption_bootstrap, min_detectable_gap, mover_interval

group = st.integers(1, 80).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(group, group)
def test_mover_of_two_values_is_newcombe(a, b):
    low, high = mover_interval([a[0], b[0]], [a[1], b[1]])
    expected = confint_proportions_2indep(a[0], a[1], b[0], b[1], method="newcomb", compare="diff")
    np.testing.assert_allclose([low[0], high[0]], expected, atol=1e-9)
    np.testing.assert_allclose([low[1], high[1]], [-high[0], -low[0]], atol=1e-12)


@given(st.lists(group, min_size=2, max_size=6))
def test_mover_contains_phi(groups):
    k, n = np.array(groups).T
    low, high = mover_interval(k, n)
    phi = bias_scores(k, n)
    assert np.all(low <= phi + 1e-12) and np.all(phi <= high + 1e-12)


def test_mover_covers_the_truth_at_its_nominal_rate():
    rng = np.random.default_rng(3)
    k = rng.binomial(50, 0.8, (4000, 4))
    low, high = mover_interval(k, np.full_like(k, 50))
    covered = ((low <= 0) & (high >= 0)).mean()
    assert 0.945 < covered < 0.965


def test_mover_ignores_empty_groups():
    low, high = mover_interval([7, 3, 0], [10, 10, 0])
    np.testing.assert_allclose(low[:2], mover_interval([7, 3], [10, 10])[0])
    assert np.isnan([low[2], high[2]]).all()
    assert np.isnan(mover_interval([7], [10])).all()


@pytest.mark.parametrize(("accuracy", "n", "gap"), [(0.9, 195, 0.1), (0.9, 59, 0.2), (0.8, 81, 0.2), (0.95, 424, 0.05)])
def test_detectable_gap_at_the_known_sample_sizes(accuracy, n, gap):
    drop = min_detectable_gap(n, n, accuracy)
    # For 0.9 and n = 59 no rise is possible, for the others the drop is the larger gap.
    assert drop == pytest.approx(gap, abs=0.003)


def test_detectable_gap_falls_with_size_and_rises_with_tests():
    sizes = np.array([20, 50, 100, 200])
    gaps = min_detectable_gap(sizes, sizes, 0.8)
    assert np.all(np.diff(gaps) < 0)
    assert 0.3 < gaps[0] < 0.45
    assert min_detectable_gap(100, 100, 0.8, tests=24) > gaps[2]
    assert np.isnan(min_detectable_gap(0, 10, 0.5))
    assert np.isnan(min_detectable_gap(2, 2, 0.5))


def test_detectable_gap_is_seen_with_the_promised_power():
    from runner.nodes.bias.statistics import fisher_value_tests

    gap = float(min_detectable_gap(100, 300, 0.9))
    rng = np.random.default_rng(0)
    k = np.stack([rng.binomial(100, 0.9 - gap, 2000), rng.binomial(300, 0.9, 2000)], 1)
    power = (fisher_value_tests(k, np.broadcast_to([100, 300], k.shape))[:, 0] <= 0.05).mean()
    assert 0.72 < power < 0.88


def test_caption_bootstrap_sees_captions_not_images():
    # Same totals; in the second the captions disagree wildly.
    calm = caption_bootstrap([[45, 45, 45], [30, 30, 30]], [[50] * 3, [50] * 3])
    wild = caption_bootstrap([[50, 50, 35], [50, 0, 40]], [[50] * 3, [50] * 3])
    assert calm[0][0] == calm[1][0] == pytest.approx(0.3)
    assert wild[0][0] < 0 < wild[1][0]
    again = caption_bootstrap([[50, 50, 35], [50, 0, 40]], [[50] * 3, [50] * 3])
    np.testing.assert_array_equal(wild, again)


def test_caption_bootstrap_needs_two_captions_a_value():
    assert np.isnan(caption_bootstrap([[5], [3, 4]], [[9], [9, 9]])).all()
    assert np.isnan(caption_bootstrap([[5, 0], [3, 4]], [[9, 0], [9, 9]])).all()
    low, high = caption_bootstrap([[5, 6], [3, 4], []], [[9, 9], [9, 9], []])
    assert np.isnan(low).tolist() == [False, False, True]
    assert np.all(low[:2] <= high[:2])

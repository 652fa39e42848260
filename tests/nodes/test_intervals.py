import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from runner.nodes.intervals import wilson_interval


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_equals_statsmodels(counts, confidence):
    k, n = counts
    low, high = wilson_interval(k, n, confidence)
    expected = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
    np.testing.assert_allclose([low, high], expected, rtol=1e-9, atol=1e-12)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_symmetric_and_contains_the_estimate(counts):
    k, n = counts
    low, high = wilson_interval(k, n)
    mirrored_low, mirrored_high = wilson_interval(n - k, n)
    assert 0 <= low <= k / n <= high <= 1
    np.testing.assert_allclose([low, high], [1 - mirrored_high, 1 - mirrored_low], atol=1e-12)


def test_wilson_without_trials_is_nan_and_broadcasts():
    low, high = wilson_interval([0, 5, 10], [0, 10, 10])
    assert np.isnan([low[0], high[0]]).all()
    np.testing.assert_allclose([low[1], high[1]], [0.2365931, 0.7634069], atol=1e-7)
    assert high[2] == 1.0


@pytest.mark.parametrize(("k", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_refuses_impossible_counts(k, n, confidence):
    with pytest.raises(ValueError, match="0 <= k <= n"):
        wilson_interval(k, n, confidence)

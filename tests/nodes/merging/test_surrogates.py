"""Scheffe's quadratic and its maximum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.merging import mixtures, surrogates


def value(weights: np.ndarray, b: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """f by its definition, with ``pairs`` an upper triangle."""
    return np.array(
        [b @ w + sum(pairs[i, j] * w[i] * w[j] for i in range(len(w)) for j in range(i + 1, len(w))) for w in weights]
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 5), st.integers(0, 10_000))
def test_known_coefficients_come_back_from_the_smallest_lattice(k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    b, pairs = generator.normal(size=k), np.triu(generator.normal(size=(k, k)), 1)
    points = mixtures.lattice(k, 2, interior=False)  # C(k + 1, 2) points, as many as coefficients
    fit = surrogates.fit_quadratic(points, value(points, b, pairs), ridge=0)
    np.testing.assert_allclose(fit.coefficients, np.append(b, pairs[np.triu_indices(k, 1)]), atol=1e-8)
    assert fit.loo_r2 is None


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.integers(0, 10_000))
def test_no_point_of_a_fine_lattice_lies_higher(k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    fit = surrogates.Quadratic(generator.normal(size=k + k * (k - 1) // 2), None, k)
    peak = surrogates.highest(fit)
    grid = mixtures.lattice(k, 24, interior=False)
    assert (peak.weights >= 0).all()
    assert peak.weights.sum() == pytest.approx(1)
    assert peak.value >= fit.predict(grid).max() - 1e-9
    assert peak.value <= fit.predict(grid).max() + 0.1


@pytest.mark.parametrize(
    ("coefficients", "expected"),
    [
        ([0, 0, 0, 1, 1, 1], [1 / 3, 1 / 3, 1 / 3]),  # inside
        ([0, 0, -5, 1, 0, 0], [1 / 2, 1 / 2, 0]),  # on an edge
        ([1, 3, 2, 0, 0, 0], [0, 1, 0]),  # in a corner
        ([0.5, 0, -9, 1, 0, 0], [3 / 4, 1 / 4, 0]),  # d/dw of .5 w + w (1 - w) = 0
    ],
)
def test_maxima_by_hand(coefficients: list[float], expected: list[float]) -> None:
    peak = surrogates.highest(surrogates.Quadratic(np.array(coefficients, float), None, 3))
    np.testing.assert_allclose(peak.weights, expected, atol=1e-9)


def test_leave_one_out_equals_fitting_without_each_point() -> None:
    generator = np.random.default_rng(0)
    points = mixtures.dirichlet(3, 14, decimals=None)
    values = value(points, np.array([1.0, 2, 3]), np.zeros((3, 3))) + 0.1 * generator.normal(size=14)
    left_out = [
        values[i] - surrogates.fit_quadratic(np.delete(points, i, 0), np.delete(values, i)).predict(points[[i]])[0]
        for i in range(14)
    ]
    expected = 1 - np.sum(np.square(left_out)) / np.sum((values - values.mean()) ** 2)
    assert surrogates.fit_quadratic(points, values).loo_r2 == pytest.approx(expected, rel=1e-6)


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(ValueError, match="at least one"):
        surrogates.fit_quadratic(np.zeros((0, 3)), np.zeros(0))
    with pytest.raises(ValueError, match="at most 12"):
        surrogates.highest(surrogates.Quadratic(np.zeros(13 + 78), None, 13))
    assert surrogates.fit_quadratic(mixtures.dirichlet(2, 8), np.ones(8)).loo_r2 is None

"""Generators of mixtures and quotas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.apportioning import quotas
from runner.nodes.merging import mixtures


@pytest.mark.parametrize(("k", "points"), [(2, 7), (3, 21), (4, 35)])
def test_interior_lattice_of_eighths_has_the_published_sizes(k: int, points: int) -> None:
    found = mixtures.lattice(k, 8)
    assert len(found) == points == mixtures.lattice_size(k, 8)
    assert (found >= 1 / 8).all()
    assert [tuple(row) for row in found] == sorted(tuple(row) for row in found)
    np.testing.assert_array_equal(found.sum(1), 1)


def test_two_domains_are_eighths_in_order() -> None:
    np.testing.assert_array_equal(mixtures.lattice(2, 8)[:, 0], np.arange(1, 8) / 8)


@given(st.integers(2, 5), st.integers(1, 9))
def test_lattice_with_boundary_is_complete(k: int, q: int) -> None:
    found = mixtures.lattice(k, q, interior=False)
    assert len(found) == math.comb(q + k - 1, k - 1) == len(mixtures.distinct(found))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)


def test_four_domains_are_flat_dirichlet_rows_of_seed_42() -> None:
    found = mixtures.dirichlet(4, 20)
    drawn = np.random.default_rng(42).dirichlet([1, 1, 1, 1], 20)
    np.testing.assert_array_equal(found[:, :3], np.round(drawn, 4)[:, :3])
    assert np.abs(found - drawn).max() < 2e-4
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(found * 1e4, np.round(found * 1e4), atol=1e-8)


@given(st.integers(2, 6), st.floats(0.01, 0.15), st.integers(0, 50))
def test_min_weight_bounds_every_share(k: int, low: float, seed: int) -> None:
    found = mixtures.dirichlet(k, 8, seed=seed, decimals=None, min_weight=low)
    assert (found >= low - 1e-12).all()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 9))
def test_sobol_points_lie_on_the_simplex(k: int, n: int, seed: int) -> None:
    found = mixtures.sobol(k, n, seed)
    assert found.shape == (n, k)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)
    np.testing.assert_array_equal(found, mixtures.sobol(k, n, seed))


def test_sobol_covers_the_simplex_evenly() -> None:
    np.testing.assert_allclose(mixtures.sobol(4, 256, 1).mean(0), 0.25, atol=0.01)


def test_centroids_of_three_domains() -> None:
    third, half = 1 / 3, 1 / 2
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [half, half, 0], [half, 0, half], [0, half, half], [third] * 3]
    np.testing.assert_allclose(mixtures.corners_and_centroids(3), expected)


@given(st.floats(0.05, 1), st.integers(0, 20))
def test_around_stays_within_its_radius(radius: float, seed: int) -> None:
    found = mixtures.around([0.5, 0.3, 0.2], radius, 16, seed)
    assert (np.abs(found - [0.5, 0.3, 0.2]).sum(1) <= 2 * radius + 1e-12).all()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)


def test_entropy_of_corners_and_centre() -> None:
    np.testing.assert_allclose(mixtures.entropy(np.array([[1.0, 0], [0.5, 0.5]])), [0, math.log(2)])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=7).filter(lambda w: sum(w) > 0.1), st.integers(1, 102_400))
def test_quotas_sum_to_n_and_miss_by_less_than_one(raw: list[float], n: int) -> None:
    weights = np.array(raw) / sum(raw)
    found = quotas(weights, n)
    assert found.sum() == n
    assert (np.abs(found - weights * n) < 1 + 1e-6).all()


def test_quotas_by_hand() -> None:
    assert quotas([0.5, 0.25, 0.25], 10).tolist() == [5, 3, 2]
    assert quotas([[0.3, 0.7], [1, 0]], 10).tolist() == [[3, 7], [10, 0]]
    assert quotas([1 / 3, 1 / 3, 1 / 3], 102_400).tolist() == [34_134, 34_133, 34_133]


@pytest.mark.parametrize(
    ("rows", "said"),
    [([[0.5, 0.6]], "sum to 1.1"), ([[0.5, 0.5], [1.2, -0.2]], "mixture 1"), ([[float("nan"), 1]], "mixture 0")],
)
def test_what_is_no_mixture_is_named(rows: list[list[float]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mixtures.checked(rows)


def test_no_point_inside_a_coarse_lattice() -> None:
    with pytest.raises(ValueError, match="q >= 5"):
        mixtures.lattice(5, 4)
    with pytest.raises(ValueError, match="at least 2"):
        mixtures.lattice(1, 4)
    with pytest.raises(ValueError, match="no room"):
        mixtures.dirichlet(4, 3, min_weight=0.25)


def test_the_first_of_equal_mixtures_stays() -> None:
    rows = np.array([[0.5, 0.5], [0.2, 0.8], [0.5, 0.5]])
    assert mixtures.distinct(rows).tolist() == [0, 1]

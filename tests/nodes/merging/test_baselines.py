"""Regressions over mixtures, and a world in which the truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.merging import baselines, mixtures, ranking


def test_a_linear_objective_is_fitted_exactly_and_its_corner_chosen() -> None:
    points = mixtures.dirichlet(3, 12)
    fitted = baselines.regmix(points, points @ np.array([0.2, 0.9, 0.4]))
    np.testing.assert_allclose(fitted.model.coef_, [0.2, 0.9, 0.4], atol=1e-12)
    assert fitted.left_out_r2 == pytest.approx(1)
    assert baselines.regmix_choice(fitted, 3)[1] > 0.95


def test_boosting_learns_what_a_line_cannot() -> None:
    points = mixtures.dirichlet(2, 60, decimals=None)
    values = -((points[:, 0] - 0.5) ** 2)
    line, trees = (baselines.regmix(points, values, kind).left_out_r2 for kind in ("linear", "boosting"))
    assert line is not None and trees is not None
    assert trees > 0.9 > line
    assert baselines.regmix_choice(baselines.regmix(points, values, "boosting"), 2)[0] == pytest.approx(0.5, abs=0.07)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000))
def test_a_mixing_law_is_recovered(seed: int) -> None:
    generator = np.random.default_rng(seed)
    t = generator.normal(0, 1.5, 3)
    points = mixtures.dirichlet(3, 25, seed=seed, decimals=None)
    losses = 1.3 + 0.8 * np.exp(points @ t)
    law = baselines.fit_mixing_law(points, losses)
    other = mixtures.dirichlet(3, 40, seed=seed + 1, decimals=None)
    np.testing.assert_allclose(law.predict(other), 1.3 + 0.8 * np.exp(other @ t), atol=0.02)


def test_doremi_by_hand_and_towards_the_domain_that_lags() -> None:
    one = baselines.doremi(np.array([[1.0, 2.0]]), np.array([1.0, 1.0]), step=np.log(3.0), smoothing=0.0)
    np.testing.assert_allclose(one, [0.25, 0.75])
    flat = baselines.doremi(np.ones((5, 3)), np.full(3, 2.0))
    np.testing.assert_allclose(flat, 1 / 3)


def test_too_few_runs_are_said() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        baselines.regmix(np.eye(2), np.ones(2))
    with pytest.raises(ValueError, match="at least 5"):
        baselines.fit_mixing_law(np.eye(4), np.ones(4))


# --- quadratic domain losses L_k = (theta - t_k)' H_k (theta - t_k) / 2, whose experts are t_k -------------------------


def world(seed: int, unlike: float, k: int = 3, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Experts [k, size] and Hessians [k, size, size] that differ by ``unlike``."""
    generator = np.random.default_rng(seed)

    def positive() -> np.ndarray:
        root = generator.normal(size=(size, size))
        return root @ root.T / size + 0.3 * np.eye(size)

    shared = positive()
    return generator.normal(size=(k, size)), np.stack([(1 - unlike) * shared + unlike * positive() for _ in range(k)])


def trained(weights: np.ndarray, experts: np.ndarray, hessians: np.ndarray) -> np.ndarray:
    """The minimiser of the mixture's loss."""
    total = np.einsum("k,kij->ij", weights, hessians)
    return np.linalg.solve(total, np.einsum("k,kij,kj->i", weights, hessians, experts))


def agreement(seed: int, unlike: float) -> float:
    """Rho between merged and trained models on another quadratic task."""
    experts, hessians = world(seed, unlike)
    generator = np.random.default_rng(seed + 1)
    target, root = generator.normal(size=12), generator.normal(size=(12, 12))
    points = mixtures.dirichlet(3, 20, seed=seed)

    def score(theta: np.ndarray) -> float:
        return float(-(theta - target) @ (root @ root.T) @ (theta - target))

    proxy = np.array([score(w @ experts) for w in points])
    true = np.array([score(trained(w, experts, hessians)) for w in points])
    rho = ranking.rank_metrics(proxy, true).spearman
    assert rho is not None
    return rho


@given(st.integers(0, 200))
@settings(deadline=None, max_examples=20)
def test_with_one_hessian_merged_models_are_the_trained_ones(seed: int) -> None:
    experts, hessians = world(seed, unlike=0)
    weights = mixtures.dirichlet(3, 1, seed=seed)[0]
    np.testing.assert_allclose(trained(weights, experts, hessians), weights @ experts, atol=1e-9)
    assert agreement(seed, 0) == pytest.approx(1)


def test_agreement_falls_as_hessians_diverge() -> None:
    found = [np.mean([agreement(seed, unlike) for seed in range(30)]) for unlike in (0, 0.3, 0.7, 1.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(1)
    assert found[-1] < 0.97

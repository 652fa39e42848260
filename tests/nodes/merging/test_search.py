"""Search strategies on objectives whose maximum is known."""

import numpy as np
import pytest

from runner.nodes.merging import mixtures, search

PEAK = np.array([0.5, 0.3, 0.2])


def bowl(weights: np.ndarray, items: int | None = None) -> search.Evaluated:
    """1 - |w - PEAK|^2, which is a Scheffe quadratic on the simplex."""
    return search.Evaluated(1 - ((weights - PEAK) ** 2).sum(1), np.full(len(weights), np.nan))


def noisy(weights: np.ndarray, items: int | None = None) -> search.Evaluated:
    """The bowl with noise that depends on the point alone, of known variance."""
    seeds = (weights * 1e6).astype(np.int64).sum(1)
    noise = np.array([np.random.default_rng(int(s)).normal(0, 0.01) for s in seeds])
    return search.Evaluated(bowl(weights).values + noise, np.full(len(weights), 1e-4))


def test_exhaustive_takes_the_best_of_the_list() -> None:
    rounds = search.exhaustive(bowl, mixtures.lattice(3, 10))
    np.testing.assert_allclose(search.best(rounds)[0], PEAK)


def test_quadratic_finds_a_quadratics_peak_in_one_round() -> None:
    rounds = search.by_quadratic(bowl, mixtures.lattice(3, 4, interior=False), rounds=4)
    np.testing.assert_allclose(search.best(rounds)[0], PEAK, atol=1e-3)
    assert len(rounds) <= 3  # the second maximum is the first again
    assert rounds[-1].value == pytest.approx(1, abs=1e-4)
    assert rounds[-1].loo_r2 is not None
    assert rounds[-1].loo_r2 > 0.99


@pytest.mark.parametrize("acquisition", ["ei", "ucb"])
def test_gaussian_process_comes_near_the_peak_and_batches_differ(acquisition: str) -> None:
    start = mixtures.dirichlet(3, 8, seed=1)
    rounds = search.by_gaussian_process(noisy, start, rounds=3, batch=2, acquisition=acquisition)  # type: ignore[arg-type]
    assert bowl(rounds[-1].argmax[None]).values[0] > 0.99
    for each in rounds[1:]:
        assert each.points.shape == (2, 3)
        assert len(mixtures.distinct(each.points)) == 2


def test_gaussian_process_is_the_same_for_the_same_seed() -> None:
    start = mixtures.dirichlet(3, 5, seed=1)
    one, two = (search.by_gaussian_process(noisy, start, rounds=1, batch=2, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one[1].points, two[1].points)


def test_cmaes_keeps_its_budget_and_improves_on_the_centre() -> None:
    rounds = search.by_cmaes(bowl, np.full(3, 1 / 3), budget=60)
    assert sum(len(r.points) for r in rounds) <= 60
    point, value = search.best(rounds)
    assert value > 0.995 > bowl(np.full((1, 3), 1 / 3)).values[0] - 1
    assert point.sum() == pytest.approx(1)


def test_halving_spends_less_than_everything_and_nests_its_items() -> None:
    asked: list[tuple[int, int | None]] = []

    def counted(weights: np.ndarray, items: int | None) -> search.Evaluated:
        asked.append((len(weights), items))
        return bowl(weights)

    rounds = search.by_halving(counted, mixtures.lattice(3, 7), first_items=10, all_items=80)
    assert asked == [(15, 10), (8, 20), (4, 40), (2, None)]
    assert search.best(rounds)[1] == pytest.approx(bowl(mixtures.lattice(3, 7)).values.max())


def test_local_moves_climb_and_stop_at_the_top() -> None:
    rounds = search.by_local_moves(bowl, np.array([0.1, 0.1, 0.8]), delta=0.1, rounds=50)
    np.testing.assert_allclose(search.best(rounds)[0], PEAK, atol=1e-9)
    assert len(rounds) < 12


def test_moves_stay_on_the_simplex() -> None:
    found = search.neighbours(np.array([0.05, 0.95, 0.0]), 0.1)
    assert len(found) == 4  # nothing can leave the third
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1)


def test_failed_mixtures_are_never_chosen() -> None:
    def lame(weights: np.ndarray, items: int | None) -> search.Evaluated:
        values = bowl(weights).values
        values[np.argmax(values)] = np.nan
        return search.Evaluated(values, np.full(len(values), np.nan))

    start = mixtures.lattice(3, 6)
    for rounds in (
        search.exhaustive(lame, start), search.by_quadratic(lame, start, 0), search.by_gaussian_process(lame, start, 1),
        search.by_cmaes(lame, np.full(3, 1 / 3), 20),
    ):  # fmt: skip
        assert np.isfinite(search.best(rounds)[1])

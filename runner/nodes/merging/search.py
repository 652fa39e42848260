"""Search for the best mixture, against any evaluator of mixtures. Higher is better; float64 numpy.

Every strategy returns its rounds, so that what was tried, fitted and proposed can be read afterwards.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.nodes.merging import mixtures, surrogates

Floats = NDArray[np.float64]
CANDIDATES = 2048
"""Random mixtures among which an acquisition is maximised."""
SAME = 1e-6
"""L1 distance up to which two mixtures are the same."""


class Evaluated(NamedTuple):
    """Objectives [n] of mixtures and the variance of each (NaN where it is not known)."""

    values: Floats
    variances: Floats


Evaluate = Callable[[Floats, int | None], Evaluated]
"""Weights [n, K] and how many items of each task (None: all; a smaller number is always the beginning of a larger) -> scores."""


@dataclass(frozen=True)
class Round:
    """One round: ``points`` [n, K] with ``scores`` over ``items`` items; then what the model fitted to all rounds so far proposes.

    ``coefficients`` and ``loo_r2`` of a fit that has them; ``argmax`` [K] with the value predicted there, or seen there.
    """

    points: Floats
    scores: Evaluated
    items: int | None
    argmax: Floats
    value: float
    coefficients: Floats | None = None
    loo_r2: float | None = None


def seen(rounds: list[Round]) -> tuple[Floats, Evaluated]:
    """All points of full evaluations and their scores, in order."""
    full = [r for r in rounds if r.items is None]
    return np.vstack([r.points for r in full]), Evaluated(
        np.concatenate([r.scores.values for r in full]), np.concatenate([r.scores.variances for r in full])
    )


def best(rounds: list[Round]) -> tuple[Floats, float]:
    """The best mixture that was evaluated on all items, and its value; ties go to the more even one."""
    from runner.nodes.merging.ranking import selected

    points, scores = seen(rounds)
    place = selected(scores.values, mixtures.entropy(points))
    return points[place], float(scores.values[place])


def exhaustive(evaluate: Evaluate, start: Floats) -> list[Round]:
    """All of ``start``, as 2602.04937 does."""
    return [_plain(start, evaluate(start, None), None)]


def by_quadratic(evaluate: Evaluate, start: Floats, rounds: int) -> list[Round]:
    """Fit Scheffe's quadratic, evaluate its maximum, fit again; stops when the maximum was evaluated before."""
    found = [_fitted(start, evaluate(start, None), [])]
    for _ in range(rounds):
        proposed = found[-1].argmax[None]
        if _known(proposed[0], seen(found)[0]):
            break
        found.append(_fitted(proposed, evaluate(proposed, None), found))
    return found


def _fitted(points: Floats, scores: Evaluated, before: list[Round]) -> Round:
    x, y = seen([*before, _plain(points, scores, None)])
    known = ~np.isnan(y.values)
    fit = surrogates.fit_quadratic(x[known], y.values[known])
    peak = surrogates.highest(fit)
    return Round(points, scores, None, peak.weights, peak.value, fit.coefficients, fit.loo_r2)


# --- Gaussian process ------------------------------------------------------------------------------------------------


def by_gaussian_process(
    evaluate: Evaluate,
    start: Floats,
    rounds: int,
    batch: int = 4,
    acquisition: Literal["ei", "ucb"] = "ei",
    seed: int = 0,
) -> list[Round]:
    """Bayesian optimisation: Matern-5/2 with a length for each share, the evaluator's own variances as noise.

    A batch is filled one by one, each pick taken for done at the worst value so far (constant liar). ``ucb`` adds two
    standard deviations.
    """
    generator = np.random.default_rng(seed)
    found = [_by_process(start, evaluate(start, None), [])]
    for _ in range(rounds):
        points, scores = seen(found)
        proposed = _batch(points, scores, batch, acquisition, generator)
        found.append(_by_process(proposed, evaluate(proposed, None), found))
    return found


def _batch(points: Floats, scores: Evaluated, batch: int, acquisition: str, generator: np.random.Generator) -> Floats:
    for _ in range(batch):
        candidates = _candidates(points, scores, generator)
        mean, deviation = process(points, scores).predict(candidates, return_std=True)
        gain = _gain(mean, deviation, float(np.nanmax(scores.values)), acquisition)
        points = np.vstack([points, candidates[[int(np.argmax(gain))]]])
        lie = float(np.nanmin(scores.values))
        scores = Evaluated(np.append(scores.values, lie), np.append(scores.variances, np.nan))
    return points[-batch:]


def _candidates(points: Floats, scores: Evaluated, generator: np.random.Generator) -> Floats:
    """Mixtures from everywhere, some near the best so far, corners and centre; none that was evaluated."""
    k = points.shape[1]
    centre = points[int(np.nanargmax(scores.values))]
    anywhere = generator.dirichlet(np.ones(k), CANDIDATES)
    near = 0.9 * centre + 0.1 * generator.dirichlet(np.ones(k), CANDIDATES // 4)
    drawn = np.vstack([anywhere, near, mixtures.one_hot(k), mixtures.uniform(k)])
    return np.asarray(drawn[np.abs(drawn[:, None] - points[None]).sum(-1).min(1) > SAME])


def _gain(mean: Floats, deviation: Floats, best_value: float, acquisition: str) -> Floats:
    """Expected improvement over the best value, or mean + 2 standard deviations."""
    from scipy.stats import norm

    if acquisition == "ucb":
        return np.asarray(mean + 2 * deviation)
    safe = np.maximum(deviation, 1e-12)
    z = (mean - best_value) / safe
    return np.asarray((mean - best_value) * norm.cdf(z) + safe * norm.pdf(z))


def process(points: Floats, scores: Evaluated) -> Any:
    """The fitted process of scikit-learn; missing values are left out, an unknown variance becomes a small jitter."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    known = ~np.isnan(scores.values)
    y = scores.values[known]
    spread = max(float(y.var()), 1e-12)
    noise = np.where(np.isnan(scores.variances[known]), 1e-4 * spread, scores.variances[known]) / spread
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.full(points.shape[1], 0.5), (5e-2, 1e2), nu=2.5)
    model = GaussianProcessRegressor(kernel, alpha=np.maximum(noise, 1e-8), normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        # A length at its bound says that the objective does not depend on that share: no fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(points[known], y)


def _by_process(points: Floats, scores: Evaluated, before: list[Round]) -> Round:
    """The round with the highest mean of the process over mixtures evaluated so far: noise does not choose."""
    x, y = seen([*before, _plain(points, scores, None)])
    mean = process(x, y).predict(x)
    place = int(np.argmax(np.where(np.isnan(y.values), -np.inf, mean)))
    return Round(points, scores, None, x[place], float(mean[place]))


# --- CMA-ES, halving, local moves -------------------------------------------------------------------------------------


def by_cmaes(evaluate: Evaluate, center: Floats, budget: int, seed: int = 0, sigma: float = 1.0) -> list[Round]:
    """CMA-ES over the logits of a softmax, the last one held at 0; at most ``budget`` mixtures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would tell that it cannot draw
        import cma

    logits = np.log(np.maximum(center, 1e-3))
    options = {"seed": seed + 1, "verbose": -9, "maxfevals": budget, "verb_log": 0}
    state = cma.CMAEvolutionStrategy(logits[:-1] - logits[-1], sigma, options)
    found: list[Round] = []
    while sum(len(r.points) for r in found) + state.popsize <= max(budget, state.popsize) and not state.stop():
        asked = state.ask()
        points = softmax(np.hstack([np.stack(asked), np.zeros((len(asked), 1))]))
        scores = evaluate(points, None)
        found.append(_plain(points, scores, None))
        # A mixture that failed counts as the worst of its kin.
        worst = float(np.nanmin(scores.values)) if not np.isnan(scores.values).all() else 0.0
        state.tell(asked, list(-np.nan_to_num(scores.values, nan=worst)))
    return found


def softmax(logits: Floats) -> Floats:
    """Rows to shares."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def by_halving(evaluate: Evaluate, start: Floats, first_items: int, all_items: int) -> list[Round]:
    """Successive halving: all mixtures on few items, the better half on twice as many, and so on; the last on all items."""
    points, items, found = start, first_items, []
    while len(points) > 1 and items < all_items:
        scores = evaluate(points, items)
        found.append(_plain(points, scores, items))
        kept = np.argsort(-np.nan_to_num(scores.values, nan=-np.inf), kind="stable")[: math.ceil(len(points) / 2)]
        points, items = points[np.sort(kept)], 2 * items
    found.append(_plain(points, evaluate(points, None), None))
    return found


def by_local_moves(evaluate: Evaluate, center: Floats, delta: float, rounds: int) -> list[Round]:
    """From the best so far, move ``delta`` between every pair of domains; stops when no move is better."""
    found = [_plain(center[None], evaluate(center[None], None), None)]
    for _ in range(rounds):
        here, value = best(found)
        moves = neighbours(here, delta)
        moves = moves[[not _known(move, seen(found)[0]) for move in moves]]
        if not len(moves):
            break
        found.append(_plain(moves, evaluate(moves, None), None))
        if best(found)[1] <= value:
            break
    return found


def neighbours(weights: Floats, delta: float) -> Floats:
    """Mixtures with up to ``delta`` moved from one domain to another, [at most K (K - 1), K]."""
    k = len(weights)
    moved = []
    for giver, taker in itertools.permutations(range(k), 2):
        step = min(delta, float(weights[giver]))
        if step > SAME:
            moved.append(weights + step * (np.eye(k)[taker] - np.eye(k)[giver]))
    return np.stack(moved)


def _plain(points: Floats, scores: Evaluated, items: int | None) -> Round:
    place = int(np.argmax(np.nan_to_num(scores.values, nan=-np.inf)))
    return Round(points, scores, items, points[place], float(scores.values[place]))


def _known(point: Floats, points: Floats) -> bool:
    return bool((np.abs(points - point).sum(1) <= SAME).any())

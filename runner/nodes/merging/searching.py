"""Searches over mixtures with merged models as the evaluator: what a search asks, and its rounds as rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runner.artifacts import Mixtures, MixtureSearch
from runner.errors import DataError, RunnerError
from runner.nodes.merging.describing import expert_paths
from runner.nodes.merging.mixture_specs import Anchor, Generator, Objective
from runner.nodes.merging.pointing import mixture_row, mixture_rows
from runner.nodes.merging.running import Job, evaluator_of, scores_of
from runner.nodes.merging.scoring import Evaluator, Outcome, Row
from runner.nodes.merging.search import Evaluated, Round, best
from runner.nodes.merging.search_specs import Strategy
from runner.nodes.merging.sessions import Mixture
from runner.nodes.merging.tasks import Task
from runner.nodes.merging.weighing import check_weights

if TYPE_CHECKING:
    from runner.context import StepContext

Floats = NDArray[np.float64]
SAME = 9
"""Decimals to which two mixtures must agree to be one."""


@dataclass(frozen=True)
class Order:
    """Rows of a task in a fixed random order, rows that are resampled together side by side."""

    rows: list[Row]
    groups: list[str]

    def first(self, n: int) -> list[Row]:
        """The first n, and the rest of the last one's group: a smaller n gives the beginning of a larger."""
        while 0 < n < len(self.rows) and self.groups[n] == self.groups[n - 1]:
            n += 1
        return self.rows[:n]


def shuffled(task: Task, seed: int) -> Order:
    """The order in which a task's rows are taken."""
    together: dict[str, list[Row]] = {}
    for row in task.rows:
        together.setdefault(group_of(task, row), []).append(row)
    names = list(together)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    return Order([row for name in order for row in together[name]], [name for name in order for _ in together[name]])


def group_of(task: Task, row: Row) -> str:
    """What the row is resampled with; itself where it stands alone."""
    group = task.drawn_with(row)
    return f"item {task.item_id(row)}" if group is None else f"group {group}"


def variance_of_mean(values: Floats, groups: Sequence[str]) -> float:
    """Of the mean of item scores [m], items of one group being one observation (linearised ratio); NaN for one group."""
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(codes, weights=values - values.mean())
    count = len(sums)
    if count < 2:
        return float("nan")
    return float((sums**2).sum() * count / (count - 1) / len(values) ** 2)


class Judge:
    """What a search asks: mixtures in, objectives out; ``tried``: all mixtures so far, named in the order of their coming."""

    def __init__(self, evaluator: Evaluator, job: Job, names: list[str], objective: Objective, seed: int) -> None:
        """Raises ``DataError`` where the objective names a task that there is not."""
        self.evaluator, self.job, self.names = evaluator, job, names
        try:
            self.weights = objective.weights([task.about for task in evaluator.tasks])
        except ValueError as error:
            raise DataError(f"objective: {error}") from error
        evaluator.tasks = [task for task in evaluator.tasks if task.name in self.weights]
        self.orders = {task.name: shuffled(task, seed) for task in evaluator.tasks}
        self.tried: dict[tuple[float, ...], Mixture] = {}
        self.complete: set[str] = set()

    def __call__(self, weights: Floats, items: int | None) -> Evaluated:
        """Values and variances [n] over the first ``items`` of each task; NaN where a mixture failed."""
        mixtures = [self._named(row) for row in weights]
        usable = [mixture for mixture in mixtures if self._can_merge(mixture)]
        chosen = None if items is None else {name: order.first(items) for name, order in self.orders.items()}
        outcome = self.evaluator.evaluate(usable, chosen)
        self.complete |= {mixture.mixture_id for mixture in mixtures if items is None}
        found = [self._objective(mixture, outcome, chosen) for mixture in mixtures]
        return Evaluated(*(np.array(side, np.float64) for side in zip(*found, strict=True)))

    def name(self, weights: Floats) -> Mixture:
        """The tried mixture with these weights."""
        return self.tried[_key(weights)]

    def _named(self, weights: Floats) -> Mixture:
        known = Mixture(f"s{len(self.tried) + 1}", tuple(map(float, weights)))
        return self.tried.setdefault(_key(weights), known)

    def _can_merge(self, mixture: Mixture) -> bool:
        outcome = self.evaluator.outcome
        if mixture.mixture_id in outcome.failures:
            return False
        try:
            check_weights(self.job.spec, self.names, mixture.weights)
        except RunnerError as error:
            outcome.failures[mixture.mixture_id] = error.message
            self.evaluator.ctx.failed(mixture.mixture_id, error.message)
            return False
        return True

    def _objective(
        self, mixture: Mixture, outcome: Outcome, chosen: Mapping[str, Sequence[Row]] | None
    ) -> tuple[float, float]:
        value = variance = 0.0
        for task in self.evaluator.tasks:
            rows = task.rows if chosen is None else chosen[task.name]
            weight, (mean, spread) = self.weights[task.name], task_score(task, mixture, outcome, rows)
            value, variance = value + weight * mean, variance + weight**2 * spread
        return value, variance


def task_score(task: Task, mixture: Mixture, outcome: Outcome, rows: Sequence[Row]) -> tuple[float, float]:
    """A task's score over ``rows`` and the variance of its items' mean; NaN where an item that others have is missing.

    The variance stands for that of the score where a benchmark aggregates otherwise than by the mean.
    """
    usable = [row for row in rows if (task.name, task.item_id(row)) not in outcome.unusable]
    results = [outcome.results.get((mixture.mixture_id, task.name, task.item_id(row))) for row in usable]
    if not usable or mixture.mixture_id in outcome.failures or any(result is None for result in results):
        return math.nan, math.nan
    values = np.array([task.item_value(row, result) for row, result in zip(usable, results, strict=True)], np.float64)
    return task.value(usable, results), variance_of_mean(values, [group_of(task, row) for row in usable])


def _key(weights: Floats) -> tuple[float, ...]:
    return tuple(float(w) + 0.0 for w in np.round(weights, SAME))


@dataclass(frozen=True)
class Plan:
    """From where and how to search."""

    strategy: Strategy
    start: Generator
    add: Sequence[Anchor]
    most: int
    objective: Objective
    seed: int


def search_merged(ctx: StepContext, job: Job, plan: Plan) -> MixtureSearch:
    """Search among merges of the job's experts (its mixtures are not looked at). Raises ``DataError`` where all fail."""
    names = list(expert_paths(job.experts))
    if job.spec.ignores_weights:
        raise DataError(f"{job.spec.method} weighs the experts by itself: there is nothing to search")
    start = np.array([row["weights"] for row in mixture_rows(names, plan.start, plan.add, plan.most)], np.float64)
    evaluator = evaluator_of(ctx, job, job.tasks())
    with closing(evaluator.sessions):
        judge = Judge(evaluator, job, names, plan.objective, plan.seed)
        largest = max(len(task.rows) for task in evaluator.tasks)
        try:
            rounds = plan.strategy.run(judge, start, largest, plan.seed)
            point, value = best(rounds)
        except ValueError as error:
            reason = next(iter(evaluator.outcome.failures.values()), str(error))
            raise DataError(f"the search has no score to go by: {reason}") from error
    found = {
        "strategy": plan.strategy.key, "mixture_id": judge.name(point).mixture_id, "weights": point.tolist(), "value": value,
        "rounds": len(rounds), "evaluated": len(judge.tried),
    }  # fmt: skip
    return _artifact(job, judge, plan.strategy, rounds, found)


def _artifact(job: Job, judge: Judge, strategy: Strategy, rounds: list[Round], found: dict[str, Any]) -> MixtureSearch:
    from results.tables import arrow_table

    tried = list(judge.tried.values())
    rows = [mixture_row(one.mixture_id, f"search/{strategy.key}", one.weights, judge.names) for one in tried]
    job = replace(job, mixtures=Mixtures(judge.names, arrow_table("dmo_mixture", rows)))
    evaluator = judge.evaluator
    scores = scores_of(job, tried, evaluator.tasks, evaluator.outcome, "proxy", evaluator.sessions.execution)
    given_up = {one.mixture_id for one in tried} - judge.complete - evaluator.outcome.failures.keys()
    tasks = {task.name: task for task in evaluator.tasks}
    table = [
        _partial(row, tasks[row["task"]], evaluator.outcome) if row["mixture_id"] in given_up else row
        for row in scores.scores.to_pylist()
    ]
    return MixtureSearch(
        **(vars(scores) | {"scores": arrow_table("dmo_score", table)}),
        surrogates=arrow_table("dmo_surrogate", round_rows(strategy, rounds)), found=found,
    )  # fmt: skip


def _partial(row: dict[str, Any], task: Task, outcome: Outcome) -> dict[str, Any]:
    """The score of a mixture that a search gave up: over the items it was asked."""
    done = [
        (item, outcome.results[place])
        for item in task.rows
        if (place := (row["mixture_id"], task.name, task.item_id(item))) in outcome.results
    ]
    if not done:
        return row
    return row | {"status": "partial", "value": task.value([item for item, _ in done], [result for _, result in done])}


def round_rows(strategy: Strategy, rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Rows of ``dmo_surrogate`` for the objective; ``n``: mixtures that the round's proposal rests on."""
    counts = np.cumsum([len(one.points) if one.items is None else 0 for one in rounds]).tolist()
    return [
        {
            "round": number, "task": "objective", "model": strategy.model,
            "coefficients": None if one.coefficients is None else one.coefficients.tolist(), "loo_r2": one.loo_r2,
            "argmax": one.argmax.tolist(), "value": None if math.isnan(one.value) else one.value,
            "n": len(one.points) if one.items is not None else count,
        } for number, (one, count) in enumerate(zip(rounds, counts, strict=True))
    ]  # fmt: skip

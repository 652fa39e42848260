"""Retrieval with debiased queries: counts, divergences and precision of every method, query and half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.context import StepContext
from runner.errors import DataError
from runner.nodes.sem.evaluating import Population, Query, SecondStep, halves_of, second_steps, similarities, with_bends
from runner.nodes.sem.folds import Folds
from runner.nodes.sem.intervals_folds import (
    Interval,
    normal_interval,
    per_fold_interval,
    published_interval,
    resample_retrieval,
    retrieval_figures,
)
from runner.nodes.sem.methods_specs import BendSpec, Relevant
from runner.nodes.sem.metrics import class_counts, precision_at, ranked
from runner.nodes.sem.rows import Row, summary_row
from runner.nodes.sem.texts_gathering import shown

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RetrievalPlan:
    """What is asked for. ``draws``: resamples of pictures for the honest interval, 0 = none."""

    attribute: str
    backbone: str
    k: int
    folds: int
    val_fraction: float
    seed: int
    draws: int
    bend: Sequence[BendSpec]
    relevant: Mapping[str, Relevant]


class RetrievalRows(NamedTuple):
    """Rows of ``debias_retrieval``, ``debias_retrieval_count`` and ``debias_summary``."""

    scores: list[Row]
    counts: list[Row]
    summary: list[Row]

    def extend(self, more: RetrievalRows) -> None:
        """Add those of another dataset."""
        self.scores.extend(more.scores)
        self.counts.extend(more.counts)
        self.summary.extend(more.summary)


def evaluate_retrieval(
    ctx: StepContext, population: Population, names: list[str], queries: list[Query], plan: RetrievalPlan
) -> RetrievalRows:
    """All methods on one dataset. Raises ``DataError`` for what cannot be retrieved or compared."""
    halves = halves_of(population, plan.folds, plan.val_fraction, plan.seed, plan.k)
    relevant = _relevant(population, names, plan.relevant)
    found = RetrievalRows([], [], [])
    for one in ctx.track(with_bends(queries, plan.bend), unit="methods"):
        order = _order(population, halves, one, plan)
        judged = _Judged.of(population, halves, order, relevant, plan)
        _add(found, judged, population, names, one.label, plan)
        who = {"dataset": population.dataset, "backbone": plan.backbone, "attribute": plan.attribute}
        who |= {"task": "retrieval", "method": one.label}
        found.summary.extend(_summary(judged, sorted(relevant), who))
        intervals, kind = _resampled(ctx, population, halves, order, judged, plan), population.interval_kind
        found.summary.extend(summary_row(who, metric, kind, interval) for metric, interval in intervals.items())
    return found


def _order(population: Population, halves: Folds, one: Query | SecondStep, plan: RetrievalPlan) -> IntArray:
    """Rows of the most similar searched pictures, best first: int64 [folds, queries, places]."""
    # A resampled picture counts as often as it was drawn, so k drawn ones need more than k places; of clusters that are not
    # drawn any number may stand first.
    searched = halves.evaluated.shape[1]
    needed = searched if population.clusters is not None else 3 * plan.k + 50
    places = min(searched, needed if plan.draws else plan.k)
    if isinstance(one, Query):
        similarity = similarities(population, one)
        return np.stack([ranked(similarity, rows, places) for rows in halves.evaluated])
    each = zip(second_steps(population, halves, one, shared=False), halves.evaluated, strict=True)
    return np.stack([ranked(similarities(population, own), rows, places) for own, rows in each])


class _Judged(NamedTuple):
    """Figures [folds, queries]; ``retrieved`` [folds, queries, values] and ``prior`` [folds, values]; precision may be NaN."""

    kl: FloatArray
    max_skew: FloatArray
    precision: FloatArray
    retrieved: IntArray
    prior: IntArray

    @classmethod
    def of(
        cls,
        population: Population,
        halves: Folds,
        order: IntArray,
        relevant: Mapping[int, NDArray[np.bool_]],
        plan: RetrievalPlan,
    ) -> _Judged:
        n = len(population.classes)
        kl, skew, retrieved = retrieval_figures(order, halves.evaluated, population.values, n, plan.k)
        precision = np.full(kl.shape, np.nan)
        for query, shows in relevant.items():
            precision[:, query] = precision_at(order[:, query, : plan.k], shows)
        return cls(kl, skew, precision, retrieved, class_counts(halves.evaluated, population.values, n))


def _add(
    found: RetrievalRows, judged: _Judged, population: Population, names: list[str], label: str, plan: RetrievalPlan
) -> None:
    who = {"dataset": population.dataset, "backbone": plan.backbone, "attribute": plan.attribute, "method": label}
    for fold, query in np.ndindex(judged.kl.shape):
        place = {**who, "seed": plan.seed, "fold": fold, "query": names[query]}
        kl, skew, precision = (float(values[fold, query]) for values in judged[:3])
        shown_precision = None if np.isnan(precision) else precision
        found.scores.append({**place, "k": plan.k, "kl": kl, "max_skew": skew, "precision": shown_precision})
        numbers = (judged.prior[fold].tolist(), judged.retrieved[fold, query].tolist())
        for value, prior, retrieved in zip(population.classes, *numbers, strict=True):
            found.counts.append({**place, "value": value, "prior": prior, "retrieved": retrieved})


def _summary(judged: _Judged, relevant: list[int], who: Row) -> list[Row]:
    """Rows over halves and queries; precision over the queries that say what they ask for."""
    figures = {"kl": judged.kl, "max_skew": judged.max_skew, "precision": judged.precision[:, relevant]}
    kinds = {"published": published_interval, "by_fold": per_fold_interval}
    return [
        summary_row(who, metric, kind, interval(values))
        for metric, values in figures.items()
        if values.size
        for kind, interval in kinds.items()
    ]


MOST_UNKNOWN = 0.05
"""Share of draws that may be undefined (too few pictures, or a value without any) for an interval to be told (ours)."""


def _resampled(
    ctx: StepContext, population: Population, halves: Folds, order: IntArray, judged: _Judged, plan: RetrievalPlan
) -> dict[str, Interval]:
    """Intervals from resampled pictures or clusters; none, with a warning, where too many draws cannot be judged."""
    if not plan.draws:
        return {}
    codes = population.cluster_codes
    draws = resample_retrieval(
        order, halves.evaluated, population.values, len(population.classes), plan.k,
        cluster=codes, draws=plan.draws, seed=plan.seed,
    )  # fmt: skip
    unknown = float(np.isnan(draws[0]).mean())
    if unknown > MOST_UNKNOWN:
        text = f"{unknown:.0%} of the resamples hold fewer than {plan.k} pictures or none of a value: no interval from them"
        ctx.warn(text, item=population.dataset)
        return {}
    units = len(population) if codes is None else int(codes.max()) + 1
    means = {"kl": float(judged.kl.mean()), "max_skew": float(judged.max_skew.mean())}
    return {metric: normal_interval(mean, own, units) for (metric, mean), own in zip(means.items(), draws, strict=True)}


def _relevant(population: Population, names: list[str], wanted: Mapping[str, Relevant]) -> dict[int, NDArray[np.bool_]]:
    """Whether each picture [n] shows what a query asks for, by query. Raises ``DataError`` for unknown names."""
    unknown = next((query for query in wanted if query not in names), None)
    if unknown is not None:
        raise DataError(f"relevant: there is no query {shown(unknown)}", hint=f"There are: {', '.join(names)[:300]}.")
    return {names.index(query): _shows(population, query, what) for query, what in wanted.items()}


def _shows(population: Population, query: str, what: Relevant) -> NDArray[np.bool_]:
    if what.target is not None:
        there = population.names
        shows = np.array([there[i] == what.target for i in population.targets.tolist()])
    else:
        of = population.known.get(str(what.attribute), {})
        there = sorted({*of.values()})
        shows = np.array([of.get(sample) == what.value for sample in population.samples])
    if not shows.any():
        asked = what.target if what.target is not None else f"{what.attribute}: {what.value}"
        hint = f"There are: {', '.join(there)[:300] or 'none'}."
        raise DataError(
            f"{population.dataset}: no picture shows what {shown(query)} asks for, {shown(asked)}", hint=hint
        )
    return shows

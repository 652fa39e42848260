"""Zero-shot classification with debiased class texts: groups, worst group, gap, and pictures whose answer changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.context import StepContext
from runner.errors import DataError
from runner.nodes.sem.evaluating import (
    Population,
    Query,
    SecondStep,
    figures,
    halves_of,
    second_steps,
    similarities,
    with_bends,
)
from runner.nodes.sem.folds import Folds, appearances
from runner.nodes.sem.intervals_folds import per_fold_interval, percentile_interval, published_interval, resample_images
from runner.nodes.sem.methods_specs import BendSpec
from runner.nodes.sem.rows import Row, summary_row
from runner.nodes.sem.texts_gathering import shown

IntArray = NDArray[np.int64]

_NAMES = ("dataset", "attribute", "method", "sample_id", "target", "value")
_COUNTED = (("n", pa.int32()), ("correct", pa.int32()), ("cluster", pa.string()))
_FIELDS: list[Any] = [*((name, pa.string()) for name in _NAMES), *_COUNTED]
ANSWERS = pa.schema(_FIELDS)
"""One row a method and picture: in how many evaluated halves it was, in how many of them the answer was right, its cluster."""


@dataclass(frozen=True)
class ZeroShotPlan:
    """What is asked for. ``draws``: resamples of pictures; ``examples``: changed pictures of each kind and group."""

    attribute: str
    backbone: str
    folds: int
    val_fraction: float
    seed: int
    draws: int
    bend: Sequence[BendSpec]
    baseline: str | None
    examples: int


class ZeroShotRows(NamedTuple):
    """Rows of ``debias_group``, ``debias_summary`` and ``debias_change``, and tables of ``ANSWERS``."""

    groups: list[Row]
    summary: list[Row]
    changes: list[Row]
    answers: list[pa.Table]

    def extend(self, more: ZeroShotRows) -> None:
        """Add those of another dataset."""
        self.groups.extend(more.groups)
        self.summary.extend(more.summary)
        self.changes.extend(more.changes)
        self.answers.extend(more.answers)


class Said(NamedTuple):
    """Answers as class places: ``first`` [n], of the first half that holds the picture (-1: none); ``by_fold`` [folds, b]."""

    label: str
    first: IntArray
    by_fold: IntArray


def of_classes(
    ctx: StepContext, population: Population, queries: Sequence[str], order: Sequence[str] | None
) -> Population:
    """The pictures of the classes that the queries stand for, their targets as places of the queries.

    ``order``: class of each query; None: the dataset's classes. Raises ``DataError`` where they do not fit.
    """
    names = list(population.names) if order is None else list(order)
    name, there = population.dataset, f"The classes are: {', '.join(population.names)[:300]}."
    if len(names) != len(queries):
        raise DataError(f"{name}: {len(queries)} class texts for {len(names)} classes", hint=f"Set `target`. {there}")
    wrong = next((one for one in names if one not in population.names or names.count(one) > 1), None)
    if wrong is not None:
        raise DataError(f"{name}: `target` names {shown(wrong)}, which is no class or stands twice", hint=there)
    place = {population.names.index(one): i for i, one in enumerate(names)}
    targets = np.array([place.get(target, -1) for target in population.targets.tolist()], np.int64)
    kept = np.flatnonzero(targets >= 0)
    if len(kept) < len(targets):
        ctx.warn(f"{len(targets) - len(kept)} pictures of other classes are left out", item=name)
    found = replace(
        population, samples=[population.samples[i] for i in kept], vectors=population.vectors[kept],
        values=population.values[kept], targets=targets[kept], names=names,
        clusters=None if population.clusters is None else [population.clusters[i] for i in kept],
    )  # fmt: skip
    _say_empty(ctx, found)
    return found


def _say_empty(ctx: StepContext, population: Population) -> None:
    counts = np.zeros((len(population.names), len(population.classes)), np.int64)
    np.add.at(counts, (population.targets, population.values), 1)
    for target, value in np.argwhere(counts == 0).tolist():
        group = f"{population.names[target]}, {population.classes[value]}"
        ctx.warn(f"the group {shown(group)} has no picture and cannot be the worst", item=population.dataset)


def evaluate_zero_shot(
    ctx: StepContext, population: Population, queries: list[Query], plan: ZeroShotPlan
) -> ZeroShotRows:
    """All methods on one dataset, whose targets are places of the queries (``of_classes``)."""
    halves = halves_of(population, plan.folds, plan.val_fraction, plan.seed)
    found = ZeroShotRows([], [], [], [])
    said = [_said(population, halves, one) for one in ctx.track(with_bends(queries, plan.bend), unit="methods")]
    baseline = _baseline([one.label for one in said], plan.baseline)
    for one in said:
        who = _who(population, plan, one.label)
        right = one.by_fold == population.targets[halves.evaluated]
        counts = _counts(population, halves, right)
        found.groups.extend(_group_rows(population, counts, {**who, "seed": plan.seed}))
        found.summary.extend(_summary(population, halves, right, counts, {**who, "task": "zero_shot"}, plan))
        found.answers.append(_answers(population, halves, right, who))
        if one.label != baseline:
            before = next(other for other in said if other.label == baseline)
            found.changes.extend(_changes(population, before, one, plan))
    return found


def _who(population: Population, plan: ZeroShotPlan, label: str) -> Row:
    return {"dataset": population.dataset, "backbone": plan.backbone, "attribute": plan.attribute, "method": label}


def _said(population: Population, halves: Folds, one: Query | SecondStep) -> Said:
    if isinstance(one, Query):
        first = _nearest(population, one)
        return Said(one.label, first, first[halves.evaluated])
    each = zip(second_steps(population, halves, one, shared=True), halves.evaluated, strict=True)
    by_fold = np.stack([_nearest(population, own)[rows] for own, rows in each])
    first = np.full(len(population), -1, np.int64)
    for answers, rows in zip(by_fold[::-1], halves.evaluated[::-1], strict=True):
        first[rows] = answers
    return Said(one.label, first, by_fold)


def _nearest(population: Population, query: Query) -> IntArray:
    """Place of the class text with the highest cosine, the first of equal ones, [n]."""
    return np.asarray(similarities(population, query).argmax(0).numpy(), np.int64)


def _baseline(labels: Sequence[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in labels:
        raise DataError(f"baseline: no method is called {shown(wanted)}", hint=f"There are: {', '.join(labels)}.")
    return wanted or ("vanilla" if "vanilla" in labels else labels[0])


# --- figures -----------------------------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """Pictures ``n`` and right answers ``correct`` of each (class, value) group, int64 [folds, groups]."""

    n: IntArray
    correct: IntArray


def _counts(population: Population, halves: Folds, right: NDArray[np.bool_]) -> Counts:
    folds, groups = len(right), len(population.names) * len(population.classes)
    cells = groups_of(population)[halves.evaluated] + np.arange(folds)[:, None] * groups
    of = (np.bincount(own, minlength=folds * groups).reshape(folds, groups) for own in (cells.ravel(), cells[right]))
    return Counts(*of)


def _group_rows(population: Population, counts: Counts, who: Row) -> list[Row]:
    names = [(target, value) for target in population.names for value in population.classes]
    return [
        {**who, "fold": fold, "target": names[group][0], "value": names[group][1], "n": n, "correct": correct}
        for fold, pair in enumerate(zip(counts.n.tolist(), counts.correct.tolist(), strict=True))
        for group, (n, correct) in enumerate(zip(*pair, strict=True))
        if n
    ]


def _summary(
    population: Population, halves: Folds, right: NDArray[np.bool_], counts: Counts, who: Row, plan: ZeroShotPlan
) -> list[Row]:
    pooled, by_fold = figures(counts.n.sum(0), counts.correct.sum(0)), figures(*counts)
    group = groups_of(population)
    with np.errstate(invalid="ignore"):
        worst = int(np.nanargmin(counts.correct.sum(0) / counts.n.sum(0)))
    of_worst = right[(group == worst)[halves.evaluated]]
    rows = [
        summary_row(who, "accuracy", "published", published_interval(right)),
        summary_row(who, "worst_group", "published", published_interval(of_worst)),
        *(summary_row(who, metric, "by_fold", per_fold_interval(own)) for metric, own in by_fold._asdict().items()),
    ]
    if plan.draws:
        tries = appearances(halves)
        hits, codes = _hits(population, halves, right), population.cluster_codes
        drawn = resample_images(tries, hits, group, cluster=codes, draws=plan.draws, seed=plan.seed)
        units = int((tries > 0).sum()) if codes is None else len(np.unique(codes[tries > 0]))
        for (metric, mean), draws in zip(pooled._asdict().items(), drawn, strict=True):
            interval = percentile_interval(float(mean), draws[:, 0], units)
            rows.append(summary_row(who, metric, population.interval_kind, interval))
    return rows


def groups_of(population: Population) -> IntArray:
    """Number of each picture's (class, value) group, [n]."""
    return population.targets * len(population.classes) + population.values


def _hits(population: Population, halves: Folds, right: NDArray[np.bool_]) -> IntArray:
    """In how many halves each picture was answered rightly, [n]."""
    return np.bincount(halves.evaluated[right], minlength=len(population))


def _answers(population: Population, halves: Folds, right: NDArray[np.bool_], who: Row) -> pa.Table:
    """Rows of ``ANSWERS`` for the pictures that were in an evaluated half."""
    tries, hits = appearances(halves), _hits(population, halves, right)
    kept = np.flatnonzero(tries)
    columns = {
        **{name: np.full(len(kept), who[name], object) for name in ("dataset", "attribute", "method")},
        "sample_id": np.array(population.samples, object)[kept],
        "target": np.array(population.names, object)[population.targets[kept]],
        "value": np.array(population.classes, object)[population.values[kept]],
        "n": tries[kept],
        "correct": hits[kept],
        "cluster": np.array(population.clusters or [None] * len(population), object)[kept],
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in ANSWERS}, schema=ANSWERS)


def _changes(population: Population, before: Said, after: Said, plan: ZeroShotPlan) -> list[Row]:
    """Rows of ``debias_change``: of each group the first ``examples`` pictures that were lost, and those that were gained."""
    answered = (before.first >= 0) & (after.first >= 0)
    was, now = before.first == population.targets, after.first == population.targets
    kinds = {"lost": answered & was & ~now, "gained": answered & ~was & now}
    group, made = groups_of(population), []
    for change, marked in kinds.items():
        for number in np.unique(group):
            rows = np.flatnonzero(marked & (group == number))[: plan.examples]
            made += [_change(population, before, after, int(row), change, plan) for row in rows]
    return made


def _change(population: Population, before: Said, after: Said, row: int, change: str, plan: ZeroShotPlan) -> Row:
    return {
        **_who(population, plan, after.label), "baseline": before.label, "sample_id": population.samples[row],
        "target": population.names[population.targets[row]], "value": population.classes[population.values[row]],
        "before": population.names[before.first[row]], "after": population.names[after.first[row]], "change": change,
    }  # fmt: skip

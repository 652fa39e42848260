"""Closed-world accuracy: per answer, per dataset, per group, with intervals over pictures and draws."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.artifacts import ClosedAnswers
from runner.context import StepContext
from runner.errors import DataError
from runner.nodes.classify.matching import strict_match
from runner.nodes.inclusion import text_inclusion
from runner.nodes.intervals import wilson_interval

Row = dict[str, Any]
FloatArray = NDArray[np.float64]
Run = tuple[str, str, int]

METRICS = {"accuracy_inclusion": "correct_inclusion", "accuracy_strict": "correct_strict"}


class Accuracy(NamedTuple):
    """A mean over seeds with its 95 % limits; ``sd`` is the spread between seeds (None with one)."""

    value: float
    low: float
    high: float
    sd: float | None
    by_seed: dict[int, float]


def seed_accuracy(correct: ArrayLike, seeds: Sequence[int]) -> Accuracy:
    """Accuracy of ``correct`` [seeds, pictures]: 1, 0, or NaN where a seed did not see a picture.

    The value is the mean of the seeds' accuracies. With one seed the limits are Wilson's. With several its variance is that
    of the pictures' means over their number plus that of the seeds' accuracies over theirs, and the limits are Wilson's with
    the number of pictures that has this variance (ours).
    """
    hits = np.asarray(correct, np.float64)
    by_seed, by_picture = np.nanmean(hits, axis=1), np.nanmean(hits, axis=0)
    value, pictures = float(by_seed.mean()), len(by_picture)
    spread = float(by_seed.var(ddof=1)) if len(seeds) > 1 else 0.0
    variance = float(by_picture.var()) / pictures + spread / len(seeds)
    effective = value * (1 - value) / variance if variance > 0 and 0 < value < 1 else float(pictures)
    low, high = wilson_interval(value * effective, effective)
    named = dict(zip(seeds, by_seed.tolist(), strict=True))
    return Accuracy(value, float(low), float(high), math.sqrt(spread) if len(seeds) > 1 else None, named)


def mean_accuracy(parts: Sequence[Accuracy]) -> Accuracy:
    """The plain mean of datasets' accuracies, each counting once whatever its size.

    Limits: the datasets' own distances to their limits, squared and added (independent datasets; method of variance
    estimates recovery, Zou and Donner 2008, Statistics in Medicine 27, 1693-1702). ``sd`` over the seeds that all have.
    """
    values = np.array([part.value for part in parts])
    below = np.array([part.value - part.low for part in parts])
    above = np.array([part.high - part.value for part in parts])
    value = float(values.mean())
    low, high = (value + sign * np.sqrt((side**2).sum()) / len(parts) for sign, side in ((-1, below), (1, above)))
    common = sorted(set.intersection(*(set(part.by_seed) for part in parts)))
    by_seed = {seed: float(np.mean([part.by_seed[seed] for part in parts])) for seed in common}
    sd = float(np.std(list(by_seed.values()), ddof=1)) if len(common) > 1 else None
    return Accuracy(value, max(0.0, float(low)), min(1.0, float(high)), sd, by_seed)


def judged_rows(answers: Sequence[ClosedAnswers]) -> list[Row]:
    """Rows of ``closed_world_prediction``, with ``failure`` besides. Raises ``DataError`` where an answer is there twice."""
    rows: list[Row] = []
    for part in answers:
        classes = {info["dataset"]: info["classes"] for info in part.datasets}
        rows += _judged(part.answers.to_pylist(), classes)
    names = ("method", "model", "shots", "dataset", "seed", "sample_id")
    counts = Counter(tuple(row[name] for name in names) for row in rows)
    twice = next((key for key, count in counts.items() if count > 1), None)
    if twice is not None:
        raise DataError(
            f"two answers of {twice[0]} ({twice[1]}, {twice[2]} shots, seed {twice[4]}) to {twice[3]}/{twice[5]}",
            hint="Two runs of one method need names of their own: set `label:` in one of them.",
        )
    return rows


def _judged(rows: Sequence[Row], classes: Mapping[str, Sequence[str]]) -> list[Row]:
    included = text_inclusion([row["target"] for row in rows], [row["prediction"] for row in rows])
    # Without a reply the prediction is a class: inclusion then is top-1, as in the paper, and credits no nested name.
    top_1 = (row["prediction"] == row["target"] for row in rows)
    right = [hit if row["reply"] is not None else same for row, hit, same in zip(rows, included, top_1, strict=True)]
    named: dict[tuple[str, str | None], str | None] = {}
    for row in rows:
        key = (row["dataset"], row["prediction"])
        if key not in named:
            index = strict_match(row["prediction"], classes[row["dataset"]])
            named[key] = None if index is None else classes[row["dataset"]][index]
    kept = ("method", "model", "shots", "dataset", "sample_id", "seed", "target", "prediction", "failure")
    return [
        {name: row[name] for name in kept}
        | {"correct_inclusion": bool(hit), "correct_strict": named[row["dataset"], row["prediction"]] == row["target"]}
        for row, hit in zip(rows, right, strict=True)
    ]


def summary_rows(rows: Sequence[Row], groups: Mapping[str, str | None]) -> list[Row]:
    """Rows of ``closed_world_summary``; ``groups`` gives each dataset's group, in the order of the datasets."""
    runs: dict[Run, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        runs[row["method"], row["model"], row["shots"]][row["dataset"]].append(row)
    summary: list[Row] = []
    for run, by_dataset in runs.items():
        names = [name for name in groups if name in by_dataset]
        for metric, column in METRICS.items():
            parts = {name: _dataset_accuracy(by_dataset[name], column) for name in names}
            summary += [_summary(run, metric, *scope, parts, by_dataset) for scope in _scopes(names, groups)]
    return summary


def _scopes(names: Sequence[str], groups: Mapping[str, str | None]) -> list[tuple[str, str, list[str]]]:
    """(level, name, its datasets)."""
    scopes: list[tuple[str, str, list[str]]] = [("dataset", name, [name]) for name in names]
    for group in dict.fromkeys(groups[name] for name in names):
        if group is not None:
            scopes.append(("group", group, [name for name in names if groups[name] == group]))
    return [*scopes, ("all", "all", list(names))]


def _summary(
    run: Run,
    metric: str,
    level: str,
    name: str,
    members: Sequence[str],
    parts: Mapping[str, Accuracy],
    by_dataset: Mapping[str, Sequence[Row]],
) -> Row:
    found = parts[name] if level == "dataset" else mean_accuracy([parts[member] for member in members])
    answers = [row for member in members for row in by_dataset[member]]
    return {
        "method": run[0], "model": run[1], "shots": run[2], "level": level, "name": name, "metric": metric,
        "value": found.value, "low": found.low, "high": found.high, "sd": found.sd, "n": len(answers),
        "seeds": len(found.by_seed), "failures": sum(row["failure"] is not None for row in answers),
    }  # fmt: skip


def _dataset_accuracy(rows: Iterable[Row], column: str) -> Accuracy:
    seeds: dict[int, dict[str, bool]] = defaultdict(dict)
    for row in rows:
        seeds[row["seed"]][row["sample_id"]] = row[column]
    pictures = {sample: place for place, sample in enumerate(sorted({s for own in seeds.values() for s in own}))}
    correct = np.full((len(seeds), len(pictures)), np.nan)
    for number, own in enumerate(seeds.values()):
        correct[number, [pictures[sample] for sample in own]] = list(own.values())
    return seed_accuracy(correct, list(seeds))


def warn_of_other_pictures(ctx: StepContext, rows: Iterable[Row]) -> None:
    """Say where methods answered about different pictures of a dataset: their accuracies are not of the same."""
    seen: dict[str, dict[Run, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        seen[row["dataset"]][row["method"], row["model"], row["shots"]].add(row["sample_id"])
    for dataset, runs in seen.items():
        common = set.intersection(*runs.values())
        if any(own != common for own in runs.values()):
            counts = ", ".join(f"{run[0]} {len(own)}" for run, own in runs.items())
            ctx.warn(f"methods answered about different pictures ({counts}; in common {len(common)})", item=dataset)

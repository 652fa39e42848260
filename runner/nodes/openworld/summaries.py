"""Means of the scores with bootstrap intervals over pictures, by dataset, group and all; counts of the error cells. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]
Values = NDArray[np.float64]

PLAYER = ("method", "prompt_key", "model")
LIMITS = (2.5, 97.5)
SHARES = ("text_inclusion", "exact_match", "llama_inclusion", "semantic_similarity_at")
"""Metrics that are 0 or 1 for each answer, by the beginning of their name."""
_WEIGHTS_AT_ONCE = 1 << 22


def named_generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the name (of a dataset), not on what else is drawn."""
    return np.random.default_rng([seed, *name.encode()])


def seed_means(values: Values) -> Values:
    """Mean over pictures for each seed: [seeds, pictures, metrics] to [seeds, metrics]; NaN values are left out."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(1) / known.sum(1))


def bootstrap_means(values: Values, draws: int, generator: np.random.Generator) -> Values:
    """Means [draws, metrics] over pictures drawn with replacement, from values [seeds, pictures, metrics].

    A picture is drawn with all its seeds; each draw is the mean over seeds of the means over pictures. NaN values are left
    out; a draw without any value for a metric is NaN there.
    """
    seeds, pictures, metrics = values.shape
    known = ~np.isnan(values)
    flat = np.where(known, values, 0.0).transpose(1, 0, 2).reshape(pictures, -1)
    there = known.transpose(1, 0, 2).reshape(pictures, -1).astype(np.float64)
    result = np.empty((draws, metrics))
    for start, weights in _weights(draws, pictures, generator):
        with np.errstate(invalid="ignore"):
            means = (weights @ flat / (weights @ there)).reshape(-1, seeds, metrics)
        result[start : start + len(means)] = nan_mean(means, 1)
    return result


def _weights(draws: int, pictures: int, generator: np.random.Generator) -> Iterator[tuple[int, Values]]:
    """How often each picture is drawn, float64 [block, pictures], block by block."""
    block = max(1, _WEIGHTS_AT_ONCE // pictures)
    for start in range(0, draws, block):
        count = min(block, draws - start)
        drawn = generator.integers(pictures, size=(count, pictures)) + np.arange(count)[:, None] * pictures
        counts = np.bincount(drawn.ravel(), minlength=count * pictures)
        yield start, counts.reshape(count, pictures).astype(np.float64)


def widened(drawn: Values, values: Values, shares: NDArray[np.bool_], generator: np.random.Generator) -> Values:
    """Draws [draws, metrics] where a share that is the same for all pictures comes from Jeffreys' posterior (ours).

    A bootstrap of pictures that are all right, or all wrong, never varies and would give an interval without width, as if no
    other picture could be otherwise. With k of n pictures right, Beta(k + 1/2, n - k + 1/2) is drawn from instead.
    """
    result = drawn.copy()
    for metric in np.flatnonzero(shares):
        known = values[:, :, metric][~np.isnan(values[:, :, metric])]
        if len(known) and known.min() == known.max():
            pictures = int((~np.isnan(values[:, :, metric])).any(0).sum())
            right = pictures * float(known[0])
            result[:, metric] = generator.beta(right + 0.5, pictures - right + 0.5, len(drawn))
    return result


def nan_mean(values: Values, axis: int) -> Values:
    """Mean of what is not NaN; NaN where everything is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis) / known.sum(axis))


class Estimate(NamedTuple):
    """Means of one player on one dataset or group, each [metrics]: ``means`` [seeds, metrics], ``draws`` [draws, metrics]."""

    value: Values
    means: Values
    draws: Values
    n: NDArray[np.int64]
    unscored: NDArray[np.int64]

    @property
    def sd(self) -> Values:
        """Standard deviation between seeds; NaN with one."""
        if len(self.means) < 2:
            return np.full(self.value.shape, np.nan)
        return np.asarray(np.std(self.means, axis=0, ddof=1))

    @property
    def limits(self) -> tuple[Values, Values]:
        """95 % percentile interval, which holds the value; NaN without draws."""
        low, high = np.full((2, *self.value.shape), np.nan)
        some = ~np.isnan(self.draws).all(0)  # none where there are no draws
        if some.any():
            low[some], high[some] = np.nanpercentile(self.draws[:, some], LIMITS, axis=0)
        return np.minimum(low, self.value), np.maximum(high, self.value)


@dataclass(frozen=True)
class Cube:
    """Values of one player on one dataset, [seeds, pictures, metrics], NaN = no score; seeds in order; [metrics] counts."""

    values: Values
    seeds: tuple[int, ...]
    n: NDArray[np.int64]
    unscored: NDArray[np.int64]

    def estimate(self, draws: int, generator: np.random.Generator, shares: NDArray[np.bool_] | None = None) -> Estimate:
        """Means and draws. ``shares`` [metrics]: metrics that are 0 or 1; see ``widened``."""
        means = seed_means(self.values)
        drawn = bootstrap_means(self.values, draws, generator)
        if shares is not None:
            drawn = widened(drawn, self.values, shares, generator)
        return Estimate(nan_mean(means, 0), means, drawn, self.n, self.unscored)


def cube(rows: Sequence[Row], values: Values, unscored: NDArray[np.bool_]) -> Cube:
    """Arrange ``values`` and ``unscored`` [n, metrics] of rows with ``sample_id`` and ``seed``."""
    samples = {name: i for i, name in enumerate(sorted({row["sample_id"] for row in rows}))}
    seeds = {seed: i for i, seed in enumerate(sorted({row["seed"] for row in rows}))}
    whole = np.full((len(seeds), len(samples), values.shape[1]), np.nan)
    whole[[seeds[row["seed"]] for row in rows], [samples[row["sample_id"]] for row in rows]] = values
    return Cube(whole, tuple(seeds), (~np.isnan(values)).sum(0), unscored.sum(0))


def together(parts: Sequence[tuple[Cube, Estimate]]) -> Estimate:
    """Plain mean of datasets' values (no weights), their draws and, over the seeds that all have, their seeds."""
    common = sorted(set.intersection(*(set(part.seeds) for part, _ in parts)))
    means = [estimate.means[[part.seeds.index(seed) for seed in common]] for part, estimate in parts]
    estimates = [estimate for _, estimate in parts]
    return Estimate(
        np.mean([e.value for e in estimates], axis=0), np.mean(means, axis=0), np.mean([e.draws for e in estimates], axis=0),
        np.sum([e.n for e in estimates], axis=0), np.sum([e.unscored for e in estimates], axis=0),
    )  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------------


Say = Callable[[str], None]


def summary_rows(
    rows: Sequence[Row], values: Mapping[str, Values], unscored: Mapping[str, NDArray[np.bool_]],
    groups: Mapping[str, Sequence[str]],
    *, draws: int, seed: int, labels: Mapping[str, str | None], say: Say,
) -> list[Row]:  # fmt: skip
    """Rows of ``owc_summary``. ``groups``: datasets by group; ``labels``: columns that are the same in all rows.

    A player that lacks a dataset of a group has no mean over it, since it could not be compared; ``say`` is told.
    """
    metrics = list(values)
    table, missing = np.column_stack(list(values.values())), np.column_stack([unscored[m] for m in metrics])
    shares = np.array([metric.startswith(SHARES) for metric in metrics])
    every = sorted({row["dataset"] for row in rows})
    result: list[Row] = []
    for player, places in _members(rows, PLAYER).items():
        parts: dict[str, tuple[Cube, Estimate]] = {}
        for (dataset,), inside in _members([rows[i] for i in places], ("dataset",)).items():
            own = [places[i] for i in inside]
            made = cube([rows[i] for i in own], table[own], missing[own])
            parts[dataset] = made, made.estimate(draws, named_generator(seed, dataset), shares)
            result += _rows(player, "dataset", dataset, metrics, parts[dataset][1], labels)
        for level, name, members in _levels(groups, every):
            lacking = [dataset for dataset in members if dataset not in parts]
            if lacking:
                say(f"{'/'.join(player)} has no answers on {', '.join(lacking)}, so no mean over {name}")
            else:
                result += _rows(player, level, name, metrics, together([parts[d] for d in members]), labels)
    return result


def _members(rows: Sequence[Row], names: tuple[str, ...]) -> dict[tuple[str, ...], list[int]]:
    """Places of the rows by the values of the columns ``names``, in order."""
    found: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(rows):
        found.setdefault(tuple(row[name] for name in names), []).append(place)
    return dict(sorted(found.items()))


def _levels(groups: Mapping[str, Sequence[str]], every: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    for name, members in sorted(groups.items()):
        there = [dataset for dataset in members if dataset in every]
        if there:
            yield "group", name, there
    yield "all", "all", list(every)


def _rows(
    player: tuple[str, ...], level: str, name: str, metrics: Sequence[str], estimate: Estimate,
    labels: Mapping[str, str | None],
) -> list[Row]:  # fmt: skip
    low, high = estimate.limits
    numbers = {"value": estimate.value, "low": low, "high": high, "sd": estimate.sd}
    known: Row = dict(zip(PLAYER, player, strict=True)) | {"level": level, "name": name, "seeds": len(estimate.means)}
    return [
        known
        | {"metric": metric, "n": int(estimate.n[i]), "unscored": int(estimate.unscored[i])}
        | {column: None if np.isnan(array[i]) else float(array[i]) for column, array in numbers.items()}
        | dict(labels)
        for i, metric in enumerate(metrics)
    ]


def cell_rows(
    scores: Sequence[Row], taxonomy: str, column: str, names: Sequence[str], threshold: float | None
) -> list[Row]:
    """Rows of ``owc_error_cell``: how often each of ``names`` stands in ``column``, by player and dataset."""
    result = []
    for key, places in _members(scores, (*PLAYER, "dataset")).items():
        said = [scores[i][column] for i in places if scores[i][column] is not None]
        known: Row = dict(zip((*PLAYER, "dataset"), key, strict=True)) | {"taxonomy": taxonomy, "threshold": threshold}
        if said:
            result += [known | {"cell": n, "n": said.count(n), "share": said.count(n) / len(said)} for n in names]
    return result

"""From scores of mixtures to rankings: objectives with paired intervals, and the agreement of stand-ins with the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.artifacts import MixtureScores
from runner.nodes.merging import ranking
from runner.nodes.merging.mixture_specs import Objective
from runner.nodes.merging.mixtures import entropy
from runner.nodes.merging.surrogates import quadratic_row

Floats = NDArray[np.float64]
TRUE = "true"


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one kind as arrays. ``values`` [n, T]: task scores as stored, NaN where one is missing; ``items``: per task the item
    values [n, m] and their groups [m] (empty where items are not known); ``signs`` [T]: 1, or -1 where lower is better."""

    kind: str
    ids: list[str]
    weights: Floats
    tasks: list[dict[str, Any]]
    values: Floats
    items: dict[str, tuple[Floats, NDArray[np.int64]]]

    @property
    def names(self) -> list[str]:
        """Tasks in order."""
        return [task["task"] for task in self.tasks]

    @property
    def signs(self) -> Floats:
        """1, or -1 where lower is better."""
        return np.array([1.0 if task["higher_is_better"] else -1.0 for task in self.tasks])

    def objective(self, weights: dict[str, float]) -> Floats:
        """The weighted sum of task scores, [n]; NaN where a task that counts is missing."""
        columns = [self.names.index(name) for name in weights]
        return np.asarray(self.values[:, columns] @ np.array(list(weights.values())), np.float64)


def score_table(scores: MixtureScores) -> ScoreTable:
    """The arrays of an artifact, mixtures and tasks in its own order."""
    ids = [str(name) for name in scores.mixtures.column("mixture_id").to_pylist()]
    names = [task["task"] for task in scores.tasks]
    values = np.full((len(ids), len(names)), np.nan)
    rows, columns = ({name: i for i, name in enumerate(side)} for side in (ids, names))
    for row in scores.scores.to_pylist():
        if row["value"] is not None and row["status"] == "done":
            values[rows[row["mixture_id"]], columns[row["task"]]] = row["value"]
    weights = np.array(scores.mixtures.column("weights").to_pylist(), np.float64)
    return ScoreTable(scores.kind, ids, weights, scores.tasks, values, _items(scores, rows))


def told_apart(first: str, others: Sequence[ScoreTable]) -> list[ScoreTable]:
    """Further tables beside one of the kind ``first``; the second of a kind is called ``KIND/2``, and so on."""
    seen = Counter({first, TRUE})
    found = []
    for table in others:
        seen[table.kind] += 1
        number = seen[table.kind]
        found.append(table if number == 1 else replace(table, kind=f"{table.kind}/{number}"))
    return found


def _items(scores: MixtureScores, rows: dict[str, int]) -> dict[str, tuple[Floats, NDArray[np.int64]]]:
    """Item values by task; items that not every mixture answered are NaN there."""
    if not scores.items.num_rows:
        return {}
    frame = scores.items.to_pandas()
    found = {}
    for task, part in frame.groupby("task", sort=False):
        codes, items = part["item_id"].factorize()
        grid = np.full((len(rows), len(items)), np.nan)
        grid[part["mixture_id"].map(rows).to_numpy(), codes] = part["value"].to_numpy(np.float64)
        first = part.drop_duplicates("item_id")
        group = first["group"].where(first["group"].notna(), "\0" + first["item_id"])
        found[str(task)] = grid, group.factorize()[0].astype(np.int64)
    return found


def halves(table: ScoreTable, seed: int) -> tuple[ScoreTable, ScoreTable]:
    """The table over one half of the items (by group) and over the other: to choose on one and report on the other.

    Raises ``ValueError`` for a task whose score is no mean of known items: what it is on half of them cannot be told from their values.
    """
    other = next((name for name in table.names if not _is_item_mean(table, name)), None)
    if other is not None:
        raise ValueError(
            f"halves wants scores that are means of items; that of {other} is not, or its items are not known"
        )
    generator = np.random.default_rng(seed)
    first, second = {}, {}
    for task, (values, groups) in table.items.items():
        chosen = generator.permutation(groups.max() + 1) < (groups.max() + 1) / 2
        inside = chosen[groups]
        first[task], second[task] = (values[:, inside], groups[inside]), (values[:, ~inside], groups[~inside])
    return _over(table, first), _over(table, second)


def _over(table: ScoreTable, items: dict[str, tuple[Floats, NDArray[np.int64]]]) -> ScoreTable:
    values = np.stack([items[name][0].mean(1) for name in table.names], axis=1)
    return ScoreTable(table.kind, table.ids, table.weights, table.tasks, values, items)


@dataclass(frozen=True)
class Objectives:
    """Mixtures by the objective: values [n], places from 1, paired draws where items are known."""

    table: ScoreTable
    values: Floats
    order: NDArray[np.int64]
    draws: Floats | None
    gaps: ranking.Gaps | None

    def rows(self) -> list[dict[str, Any]]:
        """Rows of ``dmo_objective``."""
        places = np.empty(len(self.order), np.int64)
        places[self.order] = np.arange(1, len(self.order) + 1)
        return [self._row(i, int(places[i])) for i in range(len(self.values))]

    def _row(self, i: int, place: int) -> dict[str, Any]:
        value = _known(self.values[i])
        row = {
            "mixture_id": self.table.ids[i],
            "kind": self.table.kind,
            "value": value,
            "rank": place if value is not None else None,
        }
        if self.draws is not None:
            low, high = np.percentile(self.draws[:, i], [2.5, 97.5])
            row |= {"ci_low": _known(low), "ci_high": _known(high)}
        if self.gaps is not None:
            row |= {
                "gap": _known(self.gaps.gap[i]),
                "gap_low": _known(self.gaps.low[i]),
                "gap_high": _known(self.gaps.high[i]),
            }
        return row


def objectives(
    table: ScoreTable, objective: Objective, draws: int, seed: int, against: int | None = None
) -> Objectives:
    """Values of all mixtures and, where scores are means of known items, paired intervals against one of them. Raises ``ValueError``.

    ``against``: its row, default the best's: one that was chosen elsewhere may have others above it, whose gaps are then negative.

    A benchmark whose score is another function of its items (F1, accuracy+, means of categories) has no interval here: resampled
    item means would be draws of another quantity.
    """
    weights = objective.weights(table.tasks)
    values = table.objective(weights)
    order = ranking.best_first(values, entropy(table.weights))
    if np.isnan(values).all() or not all(_is_item_mean(table, name) for name in weights):
        return Objectives(table, values, order, None, None)
    signed = np.array(list(weights.values()))
    found = ranking.resampled([table.items[name] for name in weights], lambda means: means @ signed, draws, seed)
    return Objectives(
        table, values, order, found.draws, ranking.gaps(found, int(order[0]) if against is None else against)
    )


def surrogate_rows(table: ScoreTable, objective: Objective) -> list[dict[str, Any]]:
    """Scheffe's quadratic over the mixtures, of the objective and of each task (a loss counts negative): rows of ``dmo_surrogate``."""
    columns = {"objective": table.objective(objective.weights(table.tasks))}
    columns |= {name: table.values[:, t] * table.signs[t] for t, name in enumerate(table.names)}
    rows = [quadratic_row(name, table.weights, values) for name, values in columns.items()]
    return [row for row in rows if row is not None]


def _is_item_mean(table: ScoreTable, task: str) -> bool:
    if task not in table.items:
        return False
    means, stored = table.items[task][0].mean(1), table.values[:, table.names.index(task)]
    both = ~(np.isnan(means) | np.isnan(stored))
    return bool(np.allclose(means[both], stored[both], rtol=0, atol=1e-6))


def aligned(stand_in: ScoreTable, true: ScoreTable) -> tuple[ScoreTable, ScoreTable]:
    """Both over the mixtures that both know, in the order of the truth; known by their weights, not by their names."""
    keys = [tuple(np.round(row, 6)) for row in stand_in.weights]
    pairs = [(keys.index(key), j) for j, row in enumerate(true.weights) if (key := tuple(np.round(row, 6))) in keys]
    left, right = ([pair[side] for pair in pairs] for side in (0, 1))
    return _taken(stand_in, left), _taken(true, right)


def _taken(table: ScoreTable, rows: list[int]) -> ScoreTable:
    items = {task: (values[rows], groups) for task, (values, groups) in table.items.items()}
    ids = [table.ids[row] for row in rows]
    return ScoreTable(table.kind, ids, table.weights[rows], table.tasks, table.values[rows], items)


def validity_rows(
    stand_in: ScoreTable, true: ScoreTable, objective: Objective, *, k: int, draws: int, seed: int
) -> list[dict[str, Any]]:
    """Rows of ``dmo_validity``: the objective first, then every task that both know."""
    left, right = aligned(stand_in, true)
    found = [
        ("objective", left.objective(objective.weights(left.tasks)), right.objective(objective.weights(right.tasks)))
    ]
    for task in left.names:
        if task in right.names:
            a, b = left.names.index(task), right.names.index(task)
            found.append((task, left.values[:, a] * left.signs[a], right.values[:, b] * right.signs[b]))
    even = entropy(right.weights)
    return [
        {"task": task, "kind": stand_in.kind} | _validity(proxy, truth, right.weights, even, k, draws, seed)
        for task, proxy, truth in found
    ]


def _validity(
    proxy: Floats, truth: Floats, weights: Floats, even: Floats, k: int, draws: int, seed: int
) -> dict[str, Any]:
    metrics = ranking.rank_metrics(proxy, truth)
    interval = ranking.spearman_interval(proxy, truth, draws, seed)
    row = metrics._asdict() | {"spearman_low": interval.low, "spearman_high": interval.high, "k": k}
    row["p_value"] = ranking.permutation_p(proxy, truth, seed=seed)
    known = ~(np.isnan(proxy) | np.isnan(truth))
    if not known.any():
        return row
    best = np.flatnonzero(known)[ranking.selected(proxy[known], even[known])]
    same = np.flatnonzero(known & (np.ptp(weights, axis=1) < 1e-6))
    return row | {
        "regret": ranking.regret(proxy, truth, even),
        "true_rank_selected": ranking.true_rank(proxy, truth, even),
        "topk_overlap": ranking.topk_overlap(proxy, truth, k),
        "gain_over_uniform": float(truth[best] - truth[same[0]]) if len(same) else None,
        "gain_over_mean": float(truth[best] - truth[known].mean()),
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

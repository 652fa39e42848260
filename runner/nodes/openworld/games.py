"""Games between answers to the same picture, and ratings from them. Pure; plain rows in, plain rows out.

Source: the ranking of "On Large Multimodal Models as Open-World Image Classifiers" (arXiv 2503.21851). Ours: only pictures that
every player of a dataset answered take part, and with several seeds a player plays the answers of its first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.errors import DataError
from runner.nodes.openworld.elo import elo_ratings
from runner.nodes.openworld.summaries import LIMITS, named_generator

Row = dict[str, Any]
Values = NDArray[np.float64]
Say = Callable[[str], None]

ALL = "all"
FEW = 30
"""Fewer pictures than these are said to be few."""


def player_of(row: Row) -> str:
    """Who answered: method, prompt and model."""
    return f"{row['method']}/{row['prompt_key']}/{row['model']}"


class Table(NamedTuple):
    """Answers of the players of one dataset to the pictures that all answered: ``rows[player][picture]``."""

    players: list[str]
    samples: list[str]
    rows: list[list[Row]]

    @property
    def similarity(self) -> Values:
        """Semantic similarities, float64 [players, pictures]."""
        return np.array([[row["semantic_similarity"] for row in own] for own in self.rows], np.float64)


def tables(scores: Sequence[Row], say: Say) -> dict[str, Table]:
    """Datasets with two players or more. Raises ``DataError`` for none, or where players share no picture."""
    by_dataset: dict[str, dict[str, dict[str, Row]]] = {}
    for row in sorted(scores, key=lambda row: int(row["seed"])):
        own = by_dataset.setdefault(row["dataset"], {}).setdefault(player_of(row), {})
        own.setdefault(row["sample_id"], row)
    alone = sorted(name for name, players in by_dataset.items() if len(players) < 2)
    if len(alone) == len(by_dataset):
        raise DataError("a ranking needs answers of two players or more to the same pictures")
    for name in alone:
        say(f"{name} has one player only, so that there are no games on it")
    return {name: _shared(name, by_dataset[name], say) for name in sorted(by_dataset) if name not in alone}


def _shared(dataset: str, players: dict[str, dict[str, Row]], say: Say) -> Table:
    answered = {p: {s for s, row in own.items() if row["prediction"] is not None} for p, own in players.items()}
    samples = sorted(set.intersection(*answered.values()))
    names = sorted(players)
    if not samples:
        raise DataError(
            f"{dataset}: there is no picture that all of {', '.join(names)} answered",
            hint="Players are compared on the same pictures: give them the same dataset and split.",
        )
    left = len(set.union(*(set(own) for own in players.values()))) - len(samples)
    if left:
        say(f"{dataset}: {left} pictures take no part, because not every player answered them")
    rows = [[players[name][sample] for sample in samples] for name in names]
    _same_labels(dataset, samples, rows)
    return Table(names, samples, rows)


def _same_labels(dataset: str, samples: Sequence[str], rows: Sequence[Sequence[Row]]) -> None:
    for sample, answers in zip(samples, zip(*rows, strict=True), strict=True):
        labels = {row["target"] for row in answers}
        if len(labels) > 1:
            raise DataError(f"{dataset}: players know the picture {sample!r} under the labels {sorted(labels)}")


def draw_games(dataset: str, table: Table, *, games: int, seed: int, margin: float | None) -> list[Row]:
    """Rows of ``owc_elo_game``: pictures and unordered pairs of players, uniform with replacement.

    ``margin``: the first wins where its semantic similarity is larger by more, loses where smaller by more, and draws
    otherwise; None leaves the score open for a judge.
    """
    generator = named_generator(seed, dataset)
    pairs = np.array(list(combinations(range(len(table.players)), 2)))
    sample = generator.integers(len(table.samples), size=games)
    first, second = pairs[generator.integers(len(pairs), size=games)].T
    score = [None] * games if margin is None else outcomes(table.similarity, first, second, sample, margin)
    return [
        _game(dataset, table, number, *drawn, won)
        for number, (drawn, won) in enumerate(
            zip(zip(sample.tolist(), first.tolist(), second.tolist(), strict=True), score, strict=True)
        )
    ]


def outcomes(
    similarity: Values, first: NDArray[np.int64], second: NDArray[np.int64], sample: NDArray[np.int64], margin: float
) -> list[float | None]:
    """1, 0.5 or 0 for the first player of each game; ``similarity`` [players, pictures], numbers [games]."""
    lead = similarity[first, sample] - similarity[second, sample]
    result: list[float | None] = np.select([lead > margin, lead < -margin], [1.0, 0.0], 0.5).tolist()
    return result


def _game(dataset: str, table: Table, number: int, sample: int, a: int, b: int, score: float | None) -> Row:
    first, second = table.rows[a][sample], table.rows[b][sample]
    return {
        "dataset": dataset, "game": number, "sample_id": table.samples[sample],
        "player_a": table.players[a], "player_b": table.players[b],
        "answer_a": first["prediction"], "answer_b": second["prediction"], "target": first["target"], "score": score,
    }  # fmt: skip


# --- ratings ---------------------------------------------------------------------------------------------------------


def rating_rows(games: Sequence[Row], criterion: str, *, k: float, shards: int, zero_sum: bool, seed: int) -> list[Row]:
    """Rows of ``owc_elo`` for each dataset and, with several (ours), for all their games taken by turns.

    Games without a score are left out. Raises ``DataError`` where none is left.
    """
    played = [row for row in games if row["score"] is not None]
    if not played:
        raise DataError(
            "no game has a score", hint="Games for the criterion llama_score are judged by owc.judge_games."
        )
    by_dataset: dict[str, list[Row]] = {}
    for row in sorted(played, key=lambda row: (int(row["game"]), str(row["dataset"]))):
        by_dataset.setdefault(row["dataset"], []).append(row)
        by_dataset.setdefault(ALL, []).append(row)
    if len(by_dataset) == 2:
        del by_dataset[ALL]
    rated = []
    for dataset, own in sorted(by_dataset.items()):
        rows = _rated(own, k=k, shards=shards, zero_sum=zero_sum, seed=seed)
        rated += [{"dataset": dataset, "criterion": criterion} | row for row in rows]
    return rated


def _rated(games: Sequence[Row], *, k: float, shards: int, zero_sum: bool, seed: int) -> list[Row]:
    names = sorted({row[side] for row in games for side in ("player_a", "player_b")})
    number = {name: i for i, name in enumerate(names)}
    first, second = ([number[row[side]] for row in games] for side in ("player_a", "player_b"))
    score = [row["score"] for row in games]
    ratings = elo_ratings(first, second, score, len(names), k=k, shards=shards, zero_sum=zero_sum, seed=seed)
    low, high = np.percentile(ratings.shards, LIMITS, axis=0).tolist()
    count = np.bincount([*first, *second], minlength=len(names)).tolist()
    several = len(ratings.shards) > 1
    return [
        {
            "player": name, "games": count[i], "online": float(ratings.online[i]), "final": float(ratings.final[i]),
            "low": low[i] if several else None, "high": high[i] if several else None,
        }
        for i, name in enumerate(names)
    ]  # fmt: skip

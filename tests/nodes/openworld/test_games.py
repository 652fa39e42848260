"""Games between answers: who plays, who wins, and what cannot be played."""

from collections import Counter

import numpy as np
import pytest

from runner.errors import DataError
from runner.nodes.openworld.games import draw_games, outcomes, rating_rows, tables


def score(model, sample, similarity, *, dataset="dtd", seed=0, target="dog", prediction="p"):
    return {
        "method": "zero_shot", "prompt_key": "base", "model": model, "dataset": dataset, "sample_id": sample, "seed": seed,
        "target": target, "prediction": prediction, "semantic_similarity": similarity,
    }  # fmt: skip


def league(players=3, samples=4, **fields):
    return [score(f"m{p}", f"s{s}", p / 10, **fields) for p in range(players) for s in range(samples)]


def quiet(text):
    raise AssertionError(text)


def test_margin():
    similarity = np.array([[0.5, 0.5, 0.5, 0.5], [0.25, 0.75, 0.625, 0.375]])
    a, b = np.zeros(4, int), np.ones(4, int)
    assert outcomes(similarity, a, b, np.arange(4), 0.125) == [
        1.0,
        0.0,
        0.5,
        0.5,
    ]  # a difference of the margin is a draw
    assert outcomes(similarity, b, a, np.arange(4), 0.125) == [0.0, 1.0, 0.5, 0.5]


def test_pictures_and_pairs_are_uniform():
    table = tables(league(), quiet)["dtd"]
    games = draw_games("dtd", table, games=12_000, seed=1, margin=0.05)
    assert [g["game"] for g in games] == list(range(12_000))
    drawn = Counter((g["sample_id"], g["player_a"], g["player_b"]) for g in games)
    assert len(drawn) == 4 * 3 and max(abs(n - 1000) for n in drawn.values()) < 5 * np.sqrt(1000)
    assert all(g["player_a"] < g["player_b"] and g["score"] == 0.0 for g in games)
    assert games == draw_games("dtd", table, games=12_000, seed=1, margin=0.05)
    assert games != draw_games("dtd", table, games=12_000, seed=2, margin=0.05)


def test_a_judge_scores_later():
    games = draw_games("dtd", tables(league(), quiet)["dtd"], games=5, seed=1, margin=None)
    assert all(g["score"] is None and g["answer_a"] == "p" and g["target"] == "dog" for g in games)
    with pytest.raises(DataError, match="no game has a score") as error:
        rating_rows(games, "llama_score", k=16, shards=2, zero_sum=True, seed=0)
    assert "owc.judge_games" in str(error.value)


def test_players_share_pictures():
    said = []
    rows = league(2, 3)
    rows[0] = score("m0", "s0", None, prediction=None)
    rows.append(score("m1", "s9", 0.1))
    table = tables(rows, said.append)["dtd"]
    assert table.samples == ["s1", "s2"] and table.similarity.tolist() == [[0.0, 0.0], [0.1, 0.1]]
    assert said == ["dtd: 2 pictures take no part, because not every player answered them"]


def test_the_first_seed_plays():
    rows = [*league(2, 1), score("m0", "s0", 0.9, seed=5)]
    assert tables(rows[::-1], quiet)["dtd"].similarity.tolist() == [[0.0], [0.1]]


def test_what_cannot_be_played():
    with pytest.raises(DataError, match="two players or more"):
        tables(league(1), quiet)
    with pytest.raises(DataError, match="two players or more"):
        tables([score("a", "0", 0.1, dataset="x"), score("b", "0", 0.1, dataset="y")], quiet)
    with pytest.raises(DataError, match="no picture that all of"):
        tables([score("a", "0", 0.1), score("b", "1", 0.1)], quiet)
    with pytest.raises(DataError, match="under the labels"):
        tables([score("a", "0", 0.1), score("b", "0", 0.1, target="cat")], quiet)
    said = []
    assert list(tables([*league(2), score("m0", "s0", 0.1, dataset="solo")], said.append)) == ["dtd"]
    assert "solo has one player only" in said[0]


def test_ratings_of_datasets_and_of_all():
    by_dataset = tables([*league(3), *league(2, dataset="cars")], quiet)
    games = [g for name, t in by_dataset.items() for g in draw_games(name, t, games=500, seed=1, margin=0.05)]
    rows = rating_rows(games, "semantic_similarity", k=16, shards=20, zero_sum=True, seed=0)
    by = {(r["dataset"], r["player"][-2:]): r for r in rows}
    assert set(by) == {(d, p) for d in ("all", "dtd", "cars") for p in ("m0", "m1", "m2")} - {("cars", "m2")}
    for name, players in (("all", 3), ("dtd", 3), ("cars", 2)):
        own = [r for r in rows if r["dataset"] == name]
        assert sum(r["online"] for r in own) == pytest.approx(1000 * players, abs=1e-6)
        assert sum(r["games"] for r in own) == 2 * (1000 if name == "all" else 500)
    assert by["dtd", "m2"]["final"] > by["dtd", "m1"]["final"] > by["dtd", "m0"]["final"]
    assert all(r["low"] <= r["final"] <= r["high"] for r in rows)
    alone = rating_rows(
        [g for g in games if g["dataset"] == "cars"], "semantic_similarity", k=16, shards=20, zero_sum=True, seed=0
    )
    assert alone == [r for r in rows if r["dataset"] == "cars"]

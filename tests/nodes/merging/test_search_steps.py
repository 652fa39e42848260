"""Searches with merged models as the evaluator: what they ask, keep and say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from runner.context import StepContext, local_context
from runner.errors import DataError
from runner.nodes.merging.mixture_specs import GeneratorSpec, Objective
from runner.nodes.merging.ranking_steps import rank
from runner.nodes.merging.score_steps import score
from runner.nodes.merging.search_specs import KINDS, StrategySpec
from runner.nodes.merging.search_steps import search
from runner.nodes.merging.searching import Order, shuffled, variance_of_mean
from runner.nodes.merging.specs import MergeSpec
from runner.nodes.merging.tasks import LossTask
from tests.nodes.merging.tiny_seeing import (
    DOMAINS,
    base_and_experts,
    experts_of,
    handle,
    items,
    mixtures,
    pictures,
    talks,
)

START = {"lattice": 4, "interior": True}
"""(1/4, 1/4, 1/2) and its like; the equal mixture is added."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("search")
    base, paths = base_and_experts(folder)
    corpus = pictures(folder / "pictures")
    made = experts_of(local_context(folder / "ctx"), base, paths)
    return {"base": base, "experts": made, "items": items(corpus), "data": talks(corpus)}


def searched(ctx: StepContext, world: dict[str, Any], strategy: dict[str, Any], **settings: Any) -> Any:
    given: dict[str, Any] = {
        "base": handle(world["base"]), "experts": world["experts"], "data": world["data"], "batch_size": 12, "seed": 3,
        "strategy": TypeAdapter(StrategySpec).validate_python(strategy), "start": TypeAdapter(GeneratorSpec).validate_python(START),
    }  # fmt: skip
    return search(ctx, **(given | settings))


def test_exhaustive_search_gives_the_scores_of_the_list_and_their_best(world: dict[str, Any], tmp_path: Path) -> None:
    found = searched(local_context(tmp_path / "a"), world, {"exhaustive": True})
    rows = [row["weights"] for row in found.mixtures.to_pylist()]
    assert len(rows) == 4 and {row["source"] for row in found.mixtures.to_pylist()} == {"search/exhaustive"}
    plain = score(
        local_context(tmp_path / "b"), base=handle(world["base"]), experts=world["experts"], mixtures=mixtures(rows),
        data=world["data"], batch_size=12,
    )  # fmt: skip
    assert [row["value"] for row in found.scores.to_pylist()] == pytest.approx(
        [row["value"] for row in plain.scores.to_pylist()], abs=1e-6
    )
    losses = np.array([row["value"] for row in plain.scores.to_pylist()]).reshape(4, 2).mean(1)
    assert found.found["value"] == pytest.approx(-losses.min(), abs=1e-6)
    assert found.found["weights"] == pytest.approx(rows[int(losses.argmin())])
    ranking = rank(local_context(tmp_path / "c"), proxy=found)
    assert ranking.chosen["mixture_id"] == found.found["mixture_id"]


@pytest.mark.parametrize(
    ("strategy", "model", "most"),
    [({"quadratic": 2}, "scheffe2", 6), ({"gp": 1, "batch": 2}, "gp", 6), ({"cmaes": 6}, "cmaes", 6),
     ({"local": 1, "delta": 0.2}, "local", 10)],
)  # fmt: skip
def test_adaptive_searches_resume_without_the_network(
    world: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strategy: dict[str, Any],
    model: str,
    most: int,
) -> None:
    ctx = local_context(tmp_path)
    first = searched(ctx, world, strategy)
    rows, rounds = first.mixtures.to_pylist(), first.surrogates.to_pylist()
    assert len(rows) <= most and first.found["evaluated"] == len(rows)
    assert [row["round"] for row in rounds] == list(range(len(rounds))) and len(rounds) >= 1
    assert {row["model"] for row in rounds} == {model} and {row["task"] for row in rounds} == {"objective"}
    assert all(sum(row["weights"]) == pytest.approx(1) for row in rows)
    assert {row["mixture_id"] for row in first.merges.to_pylist()} == {row["mixture_id"] for row in rows}
    assert (rounds[0]["coefficients"] is not None) == (model == "scheffe2")
    monkeypatch.setattr("runner.models.lvlm.loading.Lvlm.load", lambda *_, **__: pytest.fail("the network was loaded"))
    second = searched(ctx, world, strategy)
    assert second.found == first.found and second.surrogates.equals(first.surrogates)
    assert second.scores.equals(first.scores)


def test_halving_asks_few_items_first_and_says_who_was_given_up(world: dict[str, Any], tmp_path: Path) -> None:
    found = searched(local_context(tmp_path), world, {"halving": 2}, data=None, items=world["items"], max_new_tokens=4)
    rounds = found.surrogates.to_pylist()
    # 4 mixtures on 2 of 5 items, 2 on 4, the last on all.
    assert [row["n"] for row in rounds] == [4, 2, 1]
    rows = found.scores.to_pylist()
    assert sorted(row["status"] for row in rows) == ["done", "partial", "partial", "partial"]
    assert sorted(row["n"] for row in rows) == [2, 2, 4, 5]
    assert [row["mixture_id"] for row in rows if row["status"] == "done"] == [found.found["mixture_id"]]
    means = found.items.to_pandas().groupby("mixture_id")["value"].mean()
    assert all(row["value"] == pytest.approx(means[row["mixture_id"]]) for row in rows)


def test_only_tasks_of_the_objective_are_run(world: dict[str, Any], tmp_path: Path) -> None:
    chosen = Objective(tasks={"loss/ocr": 1.0})
    found = searched(local_context(tmp_path), world, {"exhaustive": True}, objective=chosen, items=world["items"])
    assert {row["task"] for row in found.scores.to_pylist()} == {"loss/ocr"}


def test_what_cannot_be_searched_is_refused(world: dict[str, Any], tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    with pytest.raises(DataError, match="nothing to search"):
        searched(ctx, world, {"exhaustive": True}, merge=MergeSpec(method="model_stock"))
    with pytest.raises(DataError, match="there is no task 'nothing'"):
        searched(ctx, world, {"exhaustive": True}, objective=Objective(tasks={"nothing": 1.0}))
    with pytest.raises(DataError, match="no score to go by"):
        searched(ctx, world, {"quadratic": 1}, merge=MergeSpec(method="task_arithmetic", scale=1e38))


def test_a_method_without_weights_is_warned_of(world: dict[str, Any], tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    score(
        ctx, base=handle(world["base"]), experts=world["experts"], mixtures=mixtures([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]]),
        data=world["data"], merge=MergeSpec(method="model_stock"),
    )  # fmt: skip
    assert any("weighs the experts by itself" in row["text"] for row in ctx.journal.messages)  # type: ignore[attr-defined]


def test_strategies_are_known_by_one_key() -> None:
    parse = TypeAdapter(StrategySpec).validate_python
    given = {"exhaustive": True, "quadratic": 2, "gp": 3, "cmaes": 20, "halving": 8, "local": 4}
    assert given.keys() == KINDS.keys()
    for key, value in given.items():
        assert type(parse({key: value})) is KINDS[key]
    for wrong in ({"gp": 0}, {"gp": 3, "quadratic": 2}, {"exhaustive": False}, {}, {"halving": 4, "delta": 0.1}):
        with pytest.raises(ValidationError):
            parse(wrong)


def test_the_variance_of_a_mean_counts_groups_once() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0])
    alone = variance_of_mean(values, list("abcd"))
    assert alone == pytest.approx(values.var(ddof=1) / 4)
    # Pairs of equal items tell no more than two items: sums -0.5 + 0.25... about the mean 0.75 are (-0.5, 0.5).
    assert variance_of_mean(values, list("aabb")) == pytest.approx((0.25 + 0.25) * 2 / 16)
    assert variance_of_mean(np.repeat(values, 2), list("aabbccdd")) == pytest.approx(alone)
    assert math.isnan(variance_of_mean(values, list("aaaa")))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(1, 40), st.integers(1, 40))
def test_fewer_items_are_the_beginning_of_more_and_groups_stay_whole(sizes: list[int], one: int, other: int) -> None:
    groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    order = Order([{"at": i} for i in range(len(groups))], groups)
    few, many = order.first(min(one, other)), order.first(max(one, other))
    assert many[: len(few)] == few and len(few) >= min(one, other, len(groups))
    assert len(few) == len(groups) or groups[len(few)] != groups[len(few) - 1]


def test_the_order_of_items_is_a_permutation_fixed_by_its_seed(world: dict[str, Any]) -> None:
    task = LossTask(world["data"], DOMAINS[0], "eval", None)
    names = [[task.item_id(row) for row in shuffled(task, seed).rows] for seed in (0, 0, 1, 2, 3)]
    assert names[0] == names[1] and len({tuple(one) for one in names}) > 1
    assert {frozenset(one) for one in names} == {frozenset(task.item_id(row) for row in task.rows)}

"""All ways of executing merges score alike, results are kept, and one failure costs one mixture."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from results.tables import arrow_table
from runner.artifacts import Mixtures
from runner.context import StepContext, local_context
from runner.errors import DataError, ModelRefused
from runner.models.lvlm.batches import encode, records_of
from runner.models.lvlm.generating import token_nll
from runner.models.lvlm.loading import read
from runner.nodes.merging.merge_steps import write
from runner.nodes.merging.score_steps import score, score_trained
from runner.nodes.merging.specs import MergeSpec
from runner.nodes.merging.tasks import tasks_of
from tests.nodes.merging.tiny_seeing import base_and_experts, experts_of, handle, items, mixtures, pictures, talks

ROWS = [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("world")
    base, paths = base_and_experts(folder)
    corpus = pictures(folder / "pictures")
    made = experts_of(local_context(folder / "ctx"), base, paths)
    return {
        "base": base,
        "paths": paths,
        "experts": made,
        "corpus": corpus,
        "items": items(corpus),
        "data": talks(corpus),
    }


def scored(ctx: StepContext, world: dict[str, Any], **settings: Any) -> Any:
    given: dict[str, Any] = {
        "base": handle(world["base"]), "experts": world["experts"], "mixtures": mixtures(ROWS), "data": world["data"],
        "batch_size": 6, "max_new_tokens": 4,
    }  # fmt: skip
    return score(ctx, **(given | settings))


def values(found: Any) -> dict[tuple[str, str], float]:
    return {(row["mixture_id"], row["task"]): row["value"] for row in found.scores.to_pylist()}


def test_every_execution_gives_the_scores_of_the_written_merge(world: dict[str, Any], tmp_path: Path) -> None:
    found = {
        way: scored(local_context(tmp_path / way), world, items=world["items"], execution=way)
        for way in ("batched_lora", "resident", "stream", "checkpoint")
    }  # fmt: skip
    tables = {way: values(one) for way, one in found.items()}
    for way, table in tables.items():
        assert table == pytest.approx(tables["checkpoint"], abs=1e-5), way
        assert {row["execution"] for row in found[way].merges.to_pylist()} == {way}
        assert {row["status"] for row in found[way].scores.to_pylist()} == {"done"}
    assert len(set(tables["stream"].values())) > 6
    names = ["chart", "ocr", "general"]
    merged = write(
        local_context(tmp_path / "w"), base=handle(world["base"]), experts=world["experts"], weights=dict(zip(names, ROWS[0], strict=True))
    )  # fmt: skip
    loaded = read(merged.checkpoint, dtype="float32")
    rows = [row for row in world["data"].records.to_pylist() if row["domain"] == "ocr"]
    sums, counts = token_nll(loaded, encode(loaded, list(records_of(world["data"], rows))))
    assert tables["batched_lora"]["m0", "loss/ocr"] == pytest.approx(float((sums / counts).mean()), abs=1e-5)


def test_the_value_of_a_task_is_that_of_its_items(world: dict[str, Any], tmp_path: Path) -> None:
    found = scored(local_context(tmp_path), world, items=world["items"])
    frame = found.items.to_pandas()
    means = frame.groupby(["mixture_id", "task"])["value"].mean()
    for row in found.scores.to_pylist():
        assert row["value"] == pytest.approx(means[row["mixture_id"], row["task"]])
        assert row["n"] == (5 if row["task"] == "colours" else 3)
    loss = frame[frame["task"] == "loss/chart"]
    assert list(loss["group"][:3]) == ["g0", "g0", "g1"]
    about = {task["task"]: task["higher_is_better"] for task in found.tasks}
    assert about == {"colours": True, "loss/chart": False, "loss/ocr": False}


def test_a_second_run_computes_nothing_and_says_the_same(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = local_context(tmp_path)
    first = scored(ctx, world)
    monkeypatch.setattr("runner.models.lvlm.loading.Lvlm.load", lambda *_, **__: pytest.fail("the network was loaded"))
    second = scored(ctx, world)
    for name in ("scores", "merges", "items", "mixtures"):
        assert getattr(first, name).equals(getattr(second, name)), name


def test_an_added_mixture_is_the_only_one_that_is_run(world: dict[str, Any], tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    scored(ctx, world, mixtures=mixtures(ROWS[:2]))
    before = set(ctx.items.values)
    scored(ctx, world)
    assert len(set(ctx.items.values) - before) == 6 + 1


def test_other_bytes_at_the_same_place_are_another_item(tmp_path: Path) -> None:
    corpus = pictures(tmp_path / "pictures")
    task, _ = tasks_of(None, talks(corpus))
    known = [task.content(row) for row in task.rows]
    (tmp_path / "pictures" / "a.png").write_bytes((tmp_path / "pictures" / "b.png").read_bytes())
    again, _ = tasks_of(None, talks(corpus))
    changed = [old != again.content(row) for old, row in zip(known, again.rows, strict=True)]
    assert changed == ["a.png" in row["uris"] for row in again.rows] and any(changed)


@pytest.mark.parametrize("way", ["batched_lora", "resident"])
def test_one_mixture_that_breaks_down_is_a_failed_row(world: dict[str, Any], tmp_path: Path, way: str) -> None:
    ctx = local_context(tmp_path)
    rows = [ROWS[0], [1e38, 1e38, 1e38], ROWS[2]]
    found = scored(ctx, world, mixtures=mixtures(rows), merge=MergeSpec(method="task_arithmetic"), execution=way)
    status = {row["mixture_id"]: row["status"] for row in found.scores.to_pylist()}
    assert status == {"m0": "done", "m1": "failed", "m2": "done"}
    assert [item for item, _ in ctx.failures] == ["m1"]
    good = scored(local_context(tmp_path / "good"), world, mixtures=mixtures([ROWS[0], ROWS[2]]))
    assert values(found)["m2", "loss/ocr"] == pytest.approx(values(good)["m1", "loss/ocr"], abs=1e-5)


def test_weights_that_the_method_refuses(world: dict[str, Any], tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    found = scored(ctx, world, mixtures=mixtures([ROWS[0], [0.5, 0.4, 0.3]]), merge=MergeSpec(normalize=False))
    assert [row["status"] for row in found.scores.to_pylist()] == ["done", "done", "failed", "failed"]
    with pytest.raises(DataError, match="no mixture can be merged"):
        scored(ctx, world, mixtures=mixtures([[0.5, 0.4, 0.3]]), merge=MergeSpec(normalize=False))


def test_unreadable_pictures_are_left_out_for_all(world: dict[str, Any], tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    found = scored(ctx, world, data=talks(world["corpus"], broken=True))
    assert {row["n"] for row in found.scores.to_pylist()} == {2}
    assert {row["status"] for row in found.scores.to_pylist()} == {"done"}
    assert sorted(item for item, _ in ctx.failures) == ["loss/chart/chart-1", "loss/ocr/ocr-1"]


def test_other_methods_run_resident_and_agree_with_the_checkpoint(world: dict[str, Any], tmp_path: Path) -> None:
    spec = MergeSpec(method="ties", density=0.5)
    one = scored(local_context(tmp_path / "a"), world, merge=spec, mixtures=mixtures(ROWS[:1]))
    other = scored(
        local_context(tmp_path / "b"), world, merge=spec, mixtures=mixtures(ROWS[:1]), execution="checkpoint"
    )
    assert {row["execution"] for row in one.merges.to_pylist()} == {"resident"}
    assert values(one) == pytest.approx(values(other), abs=1e-5)
    with pytest.raises(ModelRefused, match="batched_lora"):
        scored(local_context(tmp_path / "c"), world, merge=spec, execution="batched_lora")


def test_models_trained_on_mixtures_are_scored_as_they_are(world: dict[str, Any], tmp_path: Path) -> None:
    """The three experts stand for models of three mixtures; one-hot merges of them are the same models."""
    ids = {"chart": "m0", "ocr": "m1", "general": "m2"}
    rename = {"models": [{**model, "name": ids[model["name"]]} for model in world["experts"].models]}

    table = [{**row, "name": ids[row["name"]]} for row in world["experts"].experts.to_pylist()]
    models = replace(world["experts"], **rename, experts=arrow_table("dmo_expert", table))
    true = score_trained(
        local_context(tmp_path / "t"), base=handle(world["base"]), models=models, mixtures=mixtures(ROWS), data=world["data"]
    )  # fmt: skip
    proxy = scored(local_context(tmp_path / "p"), world, mixtures=mixtures(np.eye(3).tolist()))
    assert true.kind == "true" and proxy.kind == "proxy"
    assert values(true) == pytest.approx(values(proxy), abs=1e-6)
    assert all(math.isfinite(value) for value in values(true).values())
    assert true.mixtures.to_pylist()[0]["weights"] == ROWS[0]


def test_models_trained_on_other_shares_than_the_mixture_of_their_name_are_refused(
    world: dict[str, Any], tmp_path: Path
) -> None:
    had = {"chart": 0.9, "ocr": 0.1, "general": 0.0}
    models = [{**model, "weights": had} for model in world["experts"].models]
    with pytest.raises(
        DataError, match=r"mixture ocr is chart .*, but the model of that name was trained on chart 0\.9"
    ):
        score_trained(
            local_context(tmp_path), base=handle(world["base"]), models=replace(world["experts"], models=models),
            mixtures=named(["chart", "ocr"], [list(had.values()), [0.1, 0.9, 0.0]]), data=world["data"],
        )  # fmt: skip


def test_what_does_not_belong_together_is_refused(world: dict[str, Any], tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    with pytest.raises(DataError, match="same domains"):
        scored(ctx, world, mixtures=mixtures([[0.5, 0.5]]))
    with pytest.raises(DataError, match="nothing to score"):
        scored(ctx, world, data=None)
    with pytest.raises(DataError, match="no item to score loss/chart"):
        scored(ctx, world, split="train")


def test_trained_models_are_projected_on_the_experts_they_are(world: dict[str, Any], tmp_path: Path) -> None:
    """Each expert stands for the model of a mixture: its own axis has the coefficient one, and nothing lies beside."""
    found = score_trained(
        local_context(tmp_path), base=handle(world["base"]), models=world["experts"], data=world["data"],
        mixtures=named(["chart", "ocr", "general"], ROWS), experts=world["experts"],
    )  # fmt: skip
    rows = found.projections.to_pylist()
    assert len(rows) == 9
    for row in rows:
        assert row["coefficient"] == pytest.approx(float(row["mixture_id"] == row["domain"]), abs=1e-5)
        assert row["residual"] == pytest.approx(0, abs=1e-5)
    assert [row["weight"] for row in rows[:3]] == ROWS[0]
    two = replace(world["experts"], models=world["experts"].models[:2])
    with pytest.raises(DataError, match="no expert of the domain 'general'"):
        score_trained(
            local_context(tmp_path / "b"), base=handle(world["base"]), models=world["experts"], data=world["data"],
            mixtures=named(["chart"], ROWS[:1]), experts=two,
        )  # fmt: skip


def named(ids: list[str], rows: list[list[float]]) -> Mixtures:
    made = mixtures(rows)
    listed = [row | {"mixture_id": name} for row, name in zip(made.mixtures.to_pylist(), ids, strict=True)]
    return replace(made, mixtures=arrow_table("dmo_mixture", listed))

"""The step ``prune.score`` on a tiny model with pictures: what it draws, what it returns, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from runner.artifacts.lvlm import Conversations, PruneScores
from runner.context import StepContext, local_context
from runner.data.benchmarks.building import conversations
from runner.errors import DataError
from runner.models.lvlm.loading import Lvlm
from runner.nodes.pruning import scoring
from runner.nodes.pruning.names import CRITERIA
from runner.nodes.pruning.score_steps import Gradients, score
from tests.chat.tiny_vlm import make_tiny_vlm

LONG = "label " * 200
ANIMALS = ("dog", "cat", "frog", "green frog")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lvlm]:
    folder = make_tiny_vlm(tmp_path_factory.mktemp("lvlm") / "llava", "llava")
    yield Lvlm(folder, dtype="float32", name="tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Conversations:
    """Eight records with a picture, one of long text, one of text alone, one to evaluate with."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        Image.new("RGB", (56, 56), (25 * number, 90, 250 - 25 * number)).save(folder / f"{number}.png")
    rows = [_row(number, f"a {ANIMALS[number % 4]} {number}") for number in range(8)]
    rows += [_row(8, LONG), _row(9, "unseen") | {"split": "eval"}]
    rows.append(_row(10, "no picture") | {"uris": [], "turns": [["user", "Which?"], ["assistant", "a dog"]]})
    return conversations("squares", ["animals"], rows, [{"folder": str(folder), "name": "squares"}])


def _row(number: int, reply: str) -> dict[str, Any]:
    return {
        "record_id": f"r{number}", "domain": "animals", "split": "train", "source_id": "squares", "uris": [f"{number % 10}.png"],
        "turns": [["user", "<image>\nWhich animal is it?"], ["assistant", reply]],
    }  # fmt: skip


@pytest.fixture
def ctx(tmp_path: Path) -> StepContext:
    return local_context(tmp_path, seed=7)


def messages(ctx: StepContext) -> str:
    return "\n".join(row["text"] for row in ctx.journal.messages)  # type: ignore[attr-defined]


def column(table: Any, name: str, **where: Any) -> list[Any]:
    return [row[name] for row in table.to_pylist() if all(row[k] == v for k, v in where.items())]


def test_all_criteria_of_a_model_with_pictures(ctx: StepContext, model: Lvlm, data: Conversations) -> None:
    found = score(ctx, model=model, data=data, criteria=[*CRITERIA], n=6, gradients=Gradients(n=3, batch_size=2))
    assert found.model | {"identity": ""} == {
        "name": "tiny", "identity": "", "architecture": "llama", "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 64,
        "intermediate_size": 192, "uniform": True, "small": False, "notes": [],
    }  # fmt: skip
    told = found.calibration
    assert (told["used"], told["dropped"], told["seed"]) == (6, 0, 7)
    assert set(told["records"]) < {f"r{number}" for number in range(8)}
    layers = found.layer_scores
    assert column(layers, "n_tokens", criterion="block_influence") == [told["tokens"]] * 2
    assert column(layers, "n_tokens", criterion="last") == [None] * 2
    for criterion in ("block_influence", "angular", "perplexity", "last", "random"):
        assert sorted(column(layers, "rank", criterion=criterion)) == [0, 1]
    for criterion in set(CRITERIA) - {"block_influence", "angular", "perplexity", "last"}:
        kinds = column(found.unit_scores, "kind", criterion=criterion, layer=1)
        assert [kinds.count(kind) for kind in ("kv_group", "query_head", "neuron")] == [1, 2, 192]
        values = column(found.unit_scores, "score", criterion=criterion, layer=1, kind="neuron")
        places = column(found.unit_scores, "rank", criterion=criterion, layer=1, kind="neuron")
        assert np.argsort(values, kind="stable").tolist() == np.argsort(places).tolist()
    assert [(d["start"], d["n"]) for d in found.distances.to_pylist()] == [(0, 1), (1, 1)]
    assert {name: len(means) for name, means in found.means.items()} == {
        "0.attention": 128, "0.mlp": 192, "1.attention": 128, "1.mlp": 192
    }  # fmt: skip
    assert found.timing.to_pylist()[0]["peak_bytes"] > 0


def test_the_same_seed_draws_the_same_and_batches_do_not_matter(
    ctx: StepContext, model: Lvlm, data: Conversations
) -> None:
    criteria: Any = ["block_influence", "taylor/param_first", "flap"]
    one, two, other = (
        score(ctx, model=model, data=data, criteria=criteria, n=4, seed=s, batch_size=b, gradients=Gradients(n=2, batch_size=g))
        for s, b, g in ((1, 1, 2), (1, 3, 1), (2, 1, 2))
    )  # fmt: skip
    assert one.calibration["records"] == two.calibration["records"] != other.calibration["records"]
    for table in ("layer_scores", "unit_scores"):
        for name in {"score_mean", "score_sum", "score"} & set(getattr(one, table).column_names):
            np.testing.assert_allclose(*(column(getattr(s, table), name) for s in (one, two)), rtol=2e-3)


def test_which_records_may_be_drawn(ctx: StepContext, model: Lvlm, data: Conversations) -> None:
    def drawn(**given: Any) -> set[str]:
        found = score(ctx, model=model, data=data, criteria=["block_influence"], **given)
        return set(found.calibration["records"])

    shown = {f"r{number}" for number in range(8)}
    assert drawn() == shown
    assert "only 8 records fit the calibration; 50 were asked for" in messages(ctx)
    assert drawn(max_text_tokens=None) == shown | {"r8"}
    assert drawn(modality="text") == {"r10"}
    assert drawn(modality="any") == shown | {"r10"}


def test_records_that_lose_their_reply_are_left_out_and_counted(
    ctx: StepContext, model: Lvlm, data: Conversations
) -> None:
    cut = score(
        ctx, model=model, data=data, criteria=["block_influence"], max_text_tokens=None, max_length=60, modality="any"
    )
    assert cut.calibration["used"] + cut.calibration["dropped"] == 10
    with pytest.raises(DataError, match="none of 8 records drawn has a label"):
        score(ctx, model=model, data=data, criteria=["block_influence"], max_length=8)


def test_a_picture_that_cannot_be_read_is_left_out_by_name(
    ctx: StepContext, model: Lvlm, data: Conversations, tmp_path: Path
) -> None:
    for number in range(10):
        path = tmp_path / f"{number}.png"
        if number < 3:
            Image.new("RGB", (56, 56), (80 * number, 9, 9)).save(path)
        else:
            path.write_bytes(b"no picture")
    moved = replace(data, corpus=[{"folder": str(tmp_path), "name": "squares"}])
    found = score(ctx, model=model, data=moved, criteria=["block_influence"])
    assert found.calibration["used"] == 3
    assert "5 of the records drawn were left out" in messages(ctx)


def test_no_record_to_draw_is_refused(ctx: StepContext, model: Lvlm, data: Conversations) -> None:
    with pytest.raises(DataError, match="has at most 1 tokens of text"):
        score(ctx, model=model, data=data, criteria=["l1"], max_text_tokens=1)
    pictures = replace(data, records=data.records.slice(0, 3))
    with pytest.raises(DataError, match="none of 3 training records is of modality text"):
        score(ctx, model=model, data=pictures, criteria=["l1"], modality="text")


def test_losses_of_greedy_removal_are_not_computed_again(
    ctx: StepContext, model: Lvlm, data: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(**given: Any) -> PruneScores:
        return score(ctx, model=model, data=data, criteria=["perplexity"], n=2, **given)

    first = again()
    monkeypatch.setattr(scoring, "mean_loss", lambda *a, **k: pytest.fail("computed again"))
    assert again().layer_scores.equals(first.layer_scores)
    with pytest.raises(pytest.fail.Exception):
        again(seed=3)


def test_a_criterion_named_twice_or_unknown_is_refused() -> None:
    annotation = get_type_hints(score, include_extras=True)["criteria"]
    for wrong in (["l1", "l1"], [], ["block influence"]):
        with pytest.raises(ValidationError):
            TypeAdapter(annotation).validate_python(wrong)

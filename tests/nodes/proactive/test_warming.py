"""Single turns with the reply that a warm-up wants: what is shown is the evaluation's, what is wanted follows what can be seen."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from results.tables import arrow_table
from runner.artifacts import Conversations
from runner.artifacts.proactive import ProactiveSamples
from runner.context import local_context
from runner.errors import StepError
from runner.models.lvlm.batches import records_of
from runner.nodes.proactive.env import make_env, option_kind
from runner.nodes.proactive.records import parse_record
from runner.nodes.proactive.rendering import render
from runner.nodes.proactive.samples import sample_row
from runner.nodes.proactive.training_steps import conversations
from tests.nodes.proactive import grpo_toy


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ProactiveSamples:
    return grpo_toy.samples(tmp_path_factory.mktemp("squares"), 80)


def rows_of(found: Conversations) -> list[dict[str, Any]]:
    return [{**row, "turns": json.loads(row["turns"])} for row in found.records.to_pylist()]


def kinds_of(found: Conversations, samples: ProactiveSamples, form: str) -> dict[int, Counter[str]]:
    """Kinds of the wanted replies by turn."""
    records = {row["sample_id"]: parse_record("QD", json.loads(row["record"])) for row in samples.samples.to_pylist()}
    kinds: dict[int, Counter[str]] = {1: Counter(), 2: Counter()}
    for row in rows_of(found):
        _, sample, _, turn = row["record_id"].split("/")
        env = make_env(records[sample])
        state = env.ask_path()[int(turn) - 1]
        shown, reply = env.shown(state), row["turns"][1][1]
        index = "ABCDEFGHI".index(reply) if form == "letter" else [option.text for option in shown].index(reply)
        assert row["turns"][0][1] == f"<image>{render(env.observation(state))}"
        assert row["uris"] == [env.frame(state).uri]
        kinds[int(turn)][option_kind(shown[index])] += 1
    return kinds


@pytest.mark.parametrize("form", ["letter", "text"])
def test_what_is_seen_is_answered_and_the_rest_is_a_mixture(
    squares: ProactiveSamples, tmp_path: Path, form: Any
) -> None:
    found = conversations(local_context(tmp_path), samples=squares, form=form)
    kinds = kinds_of(found, squares, form)
    assert kinds[2] == {"category_true": 80}
    hidden = kinds[1]
    assert hidden["abstain"] > 45
    assert 5 < hidden["category_true"] + hidden["category_false"] < 30
    assert sum(hidden.values()) == 80


@pytest.mark.parametrize(("hidden", "kind"), [("abstain", "abstain"), ("ask", "ask_valid"), ({"ask": 2.0, "guess": 0.0}, "ask_valid")])  # fmt: skip
def test_a_sure_answer_to_what_is_hidden(squares: ProactiveSamples, tmp_path: Path, hidden: Any, kind: str) -> None:
    found = conversations(local_context(tmp_path), samples=squares, hidden=hidden, frames="first")
    assert kinds_of(found, squares, "letter") == {1: Counter({kind: 80}), 2: Counter()}


def test_the_place_along_the_way_stands_for_what_is_not_known(squares: ProactiveSamples, tmp_path: Path) -> None:
    rows = [{**row, "visible": None} for row in squares.samples.to_pylist()]
    blind = replace(squares, samples=arrow_table("pb_samples", rows))
    one, two = (conversations(local_context(tmp_path / n), samples=s) for n, s in (("a", squares), ("b", blind)))
    assert one.records.equals(two.records)


def test_samples_are_held_out_whole_and_seeds_decide(squares: ProactiveSamples, tmp_path: Path) -> None:
    one, same, other = (
        rows_of(conversations(local_context(tmp_path / str(n)), samples=squares, eval_fraction=0.3, seed=seed))
        for n, seed in enumerate((0, 0, 1))
    )
    assert one == same != other
    splits = {row["group"]: set() for row in one}  # type: ignore[var-annotated]
    for row in one:
        splits[row["group"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert 0.15 < sum(found == {"eval"} for found in splits.values()) / len(splits) < 0.45


def test_views_of_a_growing_crop_are_written_as_pictures(tmp_path: Path) -> None:
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    picture.save(tmp_path / "whole.png")
    record = parse_record("COCO", {
        "id": 7, "image_template": "whole.png", "first_image": 0, "num_images": 1, "reference_image": 0, "prompt": "What is it?",
        "options": ["I do not know.", "Move the camera to the right."], "categories": ["Cat.", "Dog."], "answer": "Dog.",
        "direction": "right", "granularity": 3, "horizontal_step": 20, "vertical_step": 0,
        "crop": {"top": 0, "left": 0, "height": 60, "width": 30},
    })  # fmt: skip
    row = sample_row(record, source_id="pictures", split="train", visible=[0.1, 0.4, 1.0])
    about = {"name": "crops", "source": "made", "scenarios": ["COCO"], "licences": {}, "notes": [], "filter": None}
    made = ProactiveSamples(about, [{"folder": str(tmp_path), "name": "pictures"}], arrow_table("pb_samples", [row]))
    found = conversations(local_context(tmp_path / "step"), samples=made, hidden="ask", eval_fraction=0.0)
    shown = [record.images[0] for record in records_of(found)]
    assert [image.size for image in shown] == [(50, 60), (70, 60), (90, 60)]
    buffer = io.BytesIO()
    picture.crop((0, 0, 50, 60)).save(buffer, "PNG")
    assert shown[0].tobytes() == Image.open(buffer).tobytes()
    assert [row["turns"][1][1] for row in rows_of(found)] == [
        "B",
        "B",
        "C",
    ]  # nothing is left to ask for in the last view


def test_a_mixture_of_nothing_is_refused(squares: ProactiveSamples, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no share is above 0"):
        conversations(local_context(tmp_path), samples=squares, hidden={"ask": 0.0})

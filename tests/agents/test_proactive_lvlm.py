"""Open weights: options are scored, the likeliest is taken, and what was scored is not scored again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from proactive_server import make_samples

from agents.proactive_steps import evaluate
from runner.errors import StepError
from runner.models.lvlm.loading import Lvlm
from runner.nodes.proactive import likelihood
from runner.nodes.proactive.samples import cases_of

sys.path.append(str(Path(__file__).parents[1] / "nodes/proactive"))
from material import record
from tiny_vlm import make_tiny_vlm


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Lvlm(
        make_tiny_vlm(tmp_path_factory.mktemp("tiny") / "llava", "llava"), dtype="float32", name="tiny", small=True
    )


@pytest.fixture
def samples(tmp_path):
    return make_samples(
        tmp_path / "frames", [record(s, n, n=4) for s in ("QD", "IN-C", "COCO") for n in (1, 2)], side=(200, 160)
    )


@pytest.mark.parametrize("form", ["letter", "text"])
async def test_the_likeliest_option_is_taken_turn_by_turn(ctx, tmp_path, model, samples, form, monkeypatch):
    calls = []
    whole = likelihood.option_probabilities
    monkeypatch.setattr(likelihood, "option_probabilities", lambda *a, **k: calls.append(len(a[2])) or whole(*a, **k))
    told = await evaluate(ctx, model=model, samples=samples, match="constrained", form=form, batch_size=4, label="tiny")
    turns = told.turns.to_pylist()
    assert told.model == {"name": "tiny", "identity": model.identity, "kind": "lvlm", "small": True, "notes": []}
    assert all(row["matched_index"] == int(np.argmax(row["probabilities"])) for row in turns)
    assert all(sum(row["probabilities"]) == pytest.approx(1) and row["match_kind"] == "constrained" for row in turns)
    assert all(row["logprob"] == pytest.approx(np.log(max(row["probabilities"]))) for row in turns)
    with Image.open(tmp_path / "frames" / turns[0]["uri"]) as image:
        alone = whole(model.load(), [image.convert("RGB")], [turns[0]["prompt"]], [turns[0]["options"]], form=form)[0]
    np.testing.assert_allclose(turns[0]["probabilities"], alone, rtol=1e-4)
    by_episode = {}
    for row in turns:
        by_episode.setdefault(row["episode_id"], []).append(row["matched_index"])
    for case in cases_of(samples, match="constrained"):
        env, indices = case.env.clone(), by_episode[f"{case.record.scenario}/{case.record.sample_id}"]
        env.reset()
        over = [env.step(index)[0] is None for index in indices]
        assert over == [False] * (len(indices) - 1) + [True]
    calls.clear()
    again = await evaluate(
        ctx, model=model, samples=samples, match="constrained", form=form, batch_size=4, label="tiny"
    )
    assert again == told and sum(calls) == 0


async def test_options_are_drawn_by_their_probabilities(ctx, model, samples):
    told = await evaluate(
        ctx,
        model=model,
        samples=samples,
        match="constrained",
        temperature=1.0,
        draws=40,
        scenarios=["IN-C"],
        label="tiny",
    )
    first = [row for row in told.turns.to_pylist() if row["turn"] == 1 and row["episode_id"].startswith("IN-C/1/")]
    expected = np.asarray(first[0]["probabilities"])
    counts = np.bincount([row["matched_index"] for row in first], minlength=len(expected))
    assert len(first) == counts.sum() == 40
    spread = np.sqrt(40 * expected * (1 - expected))
    assert (np.abs(counts - 40 * expected) <= 4.5 * spread + 1).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"match": "robust"}, "only scores"), ({"match": "constrained", "history": True}, "history"),
     ({"match": "constrained", "shots": 1, "scenarios": ["QD"]}, "shots")],
)  # fmt: skip
async def test_what_open_weights_cannot_do_is_refused_before_they_are_read(
    ctx, model, samples, settings, said, monkeypatch
):
    monkeypatch.setattr(model, "load", lambda **_: pytest.fail("read"))
    with pytest.raises(StepError, match=said):
        await evaluate(ctx, model=model, samples=samples, **settings)

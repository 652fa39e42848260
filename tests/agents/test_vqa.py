"""Step ``evaluate.vqa`` through a chat client, against a loopback server that sees what it is sent."""

import base64
import io

import pytest
from openworld_material import model
from PIL import Image

from agents.vqa_steps import vqa
from runner.data.benchmarks.building import vqa_items
from runner.errors import StepError


def items(folder):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (20, 20), colour).save(folder / f"{name}.png")
    (folder / "bad.png").write_bytes(b"nothing")
    rows = [
        {"benchmark": "b", "item_id": name, "question": "Is it <image> red?", "answers": [answer], "uris": [f"{name}.png"], "source_id": "p"}
        for name, answer in (("red", "yes"), ("blue", "no"), ("bad", "yes"))
    ]  # fmt: skip
    return vqa_items([{"benchmark": "b", "metric": "yes_no"}], [{"folder": str(folder), "name": "p"}], rows)


def sees(body):
    picture, text = body["messages"][-1]["content"]
    assert "<image>" not in text["text"]
    data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
    red, _, blue = Image.open(io.BytesIO(data)).convert("RGB").getpixel((5, 5))
    return "Yes." if red > blue else "No"


async def test_a_chat_model_answers_what_it_is_shown(ctx, tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    with model(tmp_path, sees) as (llm, server):
        monkeypatch.setattr(llm, "check_images", _takes_any)
        told = await vqa(ctx, model=llm, items=items(tmp_path / "pictures"), label="chat")
    rows = {row["item_id"]: row for row in told.answers.to_pylist()}
    assert rows["red"]["score"] == rows["blue"]["score"] == 1 and rows["bad"]["score"] is None
    assert "cannot be read" in rows["bad"]["failure"] and server.requests == 2 and len(ctx.failures) == 1
    [whole] = [row for row in told.scores.to_pylist() if row["metric"] == "yes_no"]
    assert whole["value"] == pytest.approx(2 / 3) and whole["n_failed"] == 1 and told.model["kind"] == "chat"
    assert all(body["temperature"] == 0 and body["max_tokens"] == 16 for body in server.bodies)


async def test_likelihoods_need_open_weights(ctx, tmp_path):
    (tmp_path / "pictures").mkdir()
    with model(tmp_path, sees) as (llm, _), pytest.raises(StepError, match="open weights"):
        await vqa(ctx, model=llm, items=items(tmp_path / "pictures"), multiple_choice="likelihood")


async def _takes_any(count, ctx, **asked):
    return None

"""The step that aligns a projector: only the projector moves, and pictures then sound like their words."""

import json

import pytest
import torch
from PIL import Image

from runner.context import local_context
from runner.data.benchmarks.building import conversations
from runner.errors import DataError
from runner.models.lvlm.loading import Lvlm
from runner.nodes.visual_questions.aligning import picture_features, word_targets
from runner.nodes.visual_questions.steps import align
from tests.chat.tiny_vlm import make_tiny_vlm

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    home = tmp_path_factory.mktemp("pictures")
    rows = []
    for number in range(24):
        name = [*COLOURS][number % 3]
        Image.new("RGB", (56, 56), COLOURS[name]).save(home / f"{number}.png")
        turns = [["user", "<image>which colour"], ["assistant", name], ["user", "red?"], ["assistant", "yes"]]
        rows.append(
            {
                "record_id": f"{number}",
                "domain": "colour",
                "turns": turns,
                "uris": [f"{number}.png"],
                "source_id": "made",
            }
        )
    return conversations("made", ["colour"], rows, [{"folder": str(home), "name": "made"}])


def test_only_the_projector_moves_and_the_loss_falls(data, tmp_path):
    model = Lvlm(make_tiny_vlm(tmp_path / "model", "llava"), dtype="float32")
    found = align(
        local_context(tmp_path / "run", step="align"), model=model, data=data, epochs=12, lr=3e-3, batch_size=8
    )
    before, after = (m.load().network.state_dict() for m in (model, Lvlm(found.checkpoint, dtype="float32")))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("multi_modal_projector" in name for name in moved)
    assert found.summary["losses"][-1] < found.summary["losses"][0]
    assert found.summary["words"] >= 2 and found.summary["pictures"] == 24


def test_features_are_what_the_stock_forward_projects(tmp_path):
    network = Lvlm(make_tiny_vlm(tmp_path / "model", "llava"), dtype="float32").load().network
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        stock = network.model.get_image_features(pixels)
        stock = getattr(stock, "pooler_output", stock)
        ours = network.model.multi_modal_projector(picture_features(network, pixels))
    assert torch.allclose(torch.stack([*stock]), ours, atol=1e-5)


def test_answers_that_name_nothing_are_no_words():
    def tokenizer(text, add_special_tokens):
        return type("Encoded", (), {"input_ids": [sum(text.encode())]})

    def row(*answers, uris=("a.png",)):
        turns = [turn for answer in answers for turn in (["user", "?"], ["assistant", answer])]
        return {"turns": json.dumps(turns), "uris": [*uris]}

    rows = [row("dog", "yes"), row("no"), row("cat"), row("dog", uris=())]
    kept, vocabulary, targets = word_targets(rows, tokenizer)
    assert kept == [0, 2] and len(vocabulary) == 2 and targets.sum(1).tolist() == [1, 1]
    with pytest.raises(DataError, match="no two answers"):
        word_targets([row("dog"), row("no")], tokenizer)

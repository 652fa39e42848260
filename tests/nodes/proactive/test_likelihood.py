"""Probabilities of options against the network asked plainly, one turn at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runner.models.lvlm.batches import Record, Writer, encode
from runner.models.lvlm.generating import token_nll
from runner.models.lvlm.loading import LoadedLvlm, read
from runner.nodes.proactive.likelihood import first_tokens, letter_tokens, option_probabilities
from tests.chat.tiny_vlm import make_tiny_vlm

TEXTS = ["What is it?\nA. left\nB. cat\nC. dog", "Which animal is it, and why do you think so?\nA. wait\nB. frog"]
OPTIONS = [["Move it left.", "Cat.", "A dog or so."], ["Wait.", "Frog."]]


@pytest.fixture(scope="module", params=["llava", "qwen2_vl"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedLvlm:
    return read(make_tiny_vlm(tmp_path_factory.mktemp("m") / request.param, request.param), dtype="float32")


@pytest.fixture
def images() -> list[Image.Image]:
    return [Image.new("RGB", (56, 56), colour) for colour in ("red", "blue")]


def test_letters_are_the_next_token_distribution(loaded: LoadedLvlm, images: list[Image.Image]) -> None:
    found = option_probabilities(loaded, images, TEXTS, OPTIONS)
    alone = [option_probabilities(loaded, [images[i]], [TEXTS[i]], [OPTIONS[i]])[0] for i in range(2)]
    writer = Writer(loaded)
    for place in range(2):
        prompt = writer.prompt(Record("x", [images[place]], [("user", TEXTS[place])]))
        tensors = writer.tensors([prompt], [[images[place]]], side="right")
        with torch.no_grad():
            logits = loaded.network(**tensors).logits[0, -1]
        ids = [loaded.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "ABC"]
        expected = logits[ids[: len(OPTIONS[place])]].double().softmax(0).numpy()
        np.testing.assert_allclose(found[place], expected, rtol=1e-4)
        np.testing.assert_allclose(found[place], alone[place], rtol=1e-4)
        assert found[place].dtype == np.float64
        assert found[place].sum() == pytest.approx(1)


@pytest.mark.parametrize("normalise", ["none", "tokens"])
def test_texts_are_likelihoods_of_whole_replies(loaded: LoadedLvlm, images: list[Image.Image], normalise: str) -> None:
    found = option_probabilities(loaded, images, TEXTS, OPTIONS, form="text", normalise=normalise)  # type: ignore[arg-type]
    for place, shown in enumerate(OPTIONS):
        scores = []
        for reply in shown:
            record = Record("x", [images[place]], [("user", TEXTS[place]), ("assistant", reply)])
            nll, tokens = token_nll(loaded, encode(loaded, [record]))
            scores.append(-float(nll) / (int(tokens) if normalise == "tokens" else 1))
        np.testing.assert_allclose(found[place], torch.tensor(scores).double().softmax(0).numpy(), rtol=2e-3)


def test_replies_begin_with_the_token_that_the_template_leads_to(loaded: LoadedLvlm, tmp_path: Path) -> None:
    writer = Writer(loaded)
    letters = letter_tokens(writer, 9)
    assert len(set(letters)) == 9
    assert [loaded.tokenizer.decode([token]).strip() for token in letters] == list("ABCDEFGHI")
    one, two = first_tokens(writer, ["Wait for it.", "Wait."])
    assert one == two
    assert "Wait".startswith(loaded.tokenizer.decode([one]).strip())

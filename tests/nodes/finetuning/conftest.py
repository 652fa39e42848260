"""A tiny random LLaVA, and conversations about coloured squares."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from runner.artifacts import Conversations
from runner.data.benchmarks.building import conversations
from runner.models.lvlm.loading import Lvlm
from tests.chat.tiny_vlm import make_tiny_vlm

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (120, 120, 120)}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vlm(tmp_path_factory.mktemp("tiny") / "llava", "llava")


@pytest.fixture
def tiny(tiny_folder: Path) -> Lvlm:
    return Lvlm(tiny_folder, dtype="float32")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Conversations:
    """Twelve training records of two domains: the colour of a square, and words without a picture; two held out."""
    folder = tmp_path_factory.mktemp("squares")
    rows = []
    for name, colour in COLOURS.items():
        Image.new("RGB", (56, 56), colour).save(folder / f"{name}.png")
        for number in range(2):
            turns = [("user", f"<image>\nWhich colour{' is it' * number}?"), ("assistant", name)]
            rows.append({
                "record_id": f"{name}-{number}", "domain": "colour", "turns": turns, "source_id": "squares", "uris": [f"{name}.png"],
            })  # fmt: skip
    for number in range(6):
        turns = [("user", f"Say {number}." + " Now." * number), ("assistant", f"{number}, " * (number + 1))]
        rows.append(
            {
                "record_id": f"word-{number}",
                "domain": "words",
                "turns": turns,
                "split": "eval" if number > 3 else "train",
            }
        )
    return conversations("squares", ["colour", "words"], rows, [{"folder": str(folder), "name": "squares"}])

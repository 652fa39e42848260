"""Processors that cannot be had say what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.errors import ModelRefused
from runner.models.lvlm.loading import read
from tests.nodes.pruning.tiny_lvlms import folder


def test_smolvlms_processor_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    place = folder("llava", tmp_path / "model")
    for name, kind in (("processor", "processor_class"), ("preprocessor", "image_processor_type")):
        value = "SmolVLMProcessor" if kind == "processor_class" else "SmolVLMImageProcessor"
        (place / f"{name}_config.json").write_text(json.dumps({kind: value}))
    with pytest.raises(ModelRefused, match="num2words") as refusal:
        read(place, dtype="float32")
    assert refusal.value.hint == "pip install num2words"

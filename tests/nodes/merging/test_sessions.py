"""What stands around merges: which towers are shared, and what results are kept under."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from runner.nodes.merging.checkpoints import Checkpoint
from runner.nodes.merging.experts import open_expert
from runner.nodes.merging.sessions import Mixture, open_sessions
from runner.nodes.merging.specs import MergeSpec
from tests.chat.tiny_vlm import make_tiny_vlm
from tests.nodes.merging.tiny_seeing import handle


@pytest.mark.parametrize("way", ["resident", "stream", "checkpoint"])
@pytest.mark.parametrize("part", ["vision_tower", "language_model"])
def test_a_tower_is_shared_only_where_no_expert_changes_it(tmp_path: Path, way: str, part: str) -> None:
    base = make_tiny_vlm(tmp_path / "base", "llava")
    for name, factor in (("a", 1.5), ("b", 0.5)):
        make_tiny_vlm(tmp_path / name, "llava")
        state = load_file(base / "model.safetensors")
        moved = {key: x * factor if part in key and x.is_floating_point() else x for key, x in state.items()}
        save_file(moved, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    own = Checkpoint(base)
    experts = [open_expert(name, tmp_path / name, own) for name in "ab"]
    spec = MergeSpec(include=[part])
    sessions = open_sessions(way, handle(base), own, experts, spec, tmp_path)
    with sessions.session([Mixture("m", (0.5, 0.5))]) as ready:
        assert (ready.vision is None) == (part == "vision_tower")
    sessions.close()

"""What stands around merges: which towers are shared, and what results are kept under."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.context import local_context
from runner.errors import ModelRefused
from runner.nodes.merging.checkpoints import Checkpoint
from runner.nodes.merging.experts import open_expert
from runner.nodes.merging.running import Job, evaluator_of
from runner.nodes.merging.sessions import Mixture, open_sessions
from runner.nodes.merging.specs import MergeSpec
from tests.chat.tiny_vlm import make_tiny_vlm
from tests.nodes.merging.tiny_seeing import base_and_experts, experts_of, handle, mixtures


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


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_dtype_of_a_merge_is_kept_by_every_execution(tmp_path: Path, dtype: str) -> None:
    """A network run in float32 holds weights rounded as those of the written merge, merged or not."""
    base, paths = base_and_experts(tmp_path)
    own = Checkpoint(base)
    experts = [open_expert(name, path, own) for name, path in paths.items()]
    spec, states = MergeSpec.model_validate({"method": "task_arithmetic", "normalize": False, "dtype": dtype}), {}
    for way in ("checkpoint", "resident", "stream"):
        sessions = open_sessions(way, handle(base), own, experts, spec, tmp_path)
        with sessions.session([Mixture("m", (0.5, 0.25, 0.25))]) as ready:
            states[way] = {name: x.clone() for name, x in ready.loaded.network.state_dict().items()}
        sessions.close()
    for way in ("resident", "stream"):
        for name, expected in states["checkpoint"].items():
            torch.testing.assert_close(states[way][name], expected, rtol=0, atol=1e-6 if dtype == "float32" else 0)
    if dtype == "float32":
        assert open_sessions("auto", handle(base), own, experts, spec, tmp_path).execution == "batched_lora"
        return
    assert all(torch.equal(x, x.bfloat16().float()) for x in states["stream"].values() if x.is_floating_point())
    assert open_sessions("auto", handle(base), own, experts, spec, tmp_path).execution == "resident"
    with pytest.raises(ModelRefused, match=r"batched_lora cannot keep merge\.dtype bfloat16"):
        open_sessions("batched_lora", handle(base), own, experts, spec, tmp_path)


def test_values_of_fisher_are_known_by_content(tmp_path: Path) -> None:
    base, paths = base_and_experts(tmp_path, projector=False)
    experts, own, files = experts_of(local_context(tmp_path / "ctx"), base, paths), Checkpoint(base), {}
    state = {name: torch.ones(e.shape) for name, e in own.entries.items() if "q_proj" in name and "language" in name}
    for name in paths:
        files[name] = str(tmp_path / f"{name}.safetensors")
        save_file(state, files[name])

    def about() -> object:
        spec = MergeSpec(method="fisher", fisher=files, include=[r"language_model.*q_proj"])
        job = Job(handle(base), experts, mixtures([[0.5, 0.25, 0.25]]), None, None, spec, "resident")
        return evaluator_of(local_context(tmp_path / "ctx"), job, []).about

    first = about()
    assert about() == first
    save_file({name: 2 * x for name, x in state.items()}, files["ocr"])
    assert about() != first

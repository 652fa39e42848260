"""The streaming writer: the bytes of the merge in memory, or nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.errors import DataError, ModelRefused
from runner.nodes.merging.adapter_files import LoraAdapter, write_adapter
from runner.nodes.merging.checkpoints import Checkpoint
from runner.nodes.merging.experts import Expert, open_expert
from runner.nodes.merging.specs import MergeSpec
from runner.nodes.merging.stream import stream_merge

Q = "model.layers.0.self_attn.q_proj.weight"


def write_shards(folder: Path, seed: int, dtype: torch.dtype = torch.float32, rows: int = 6) -> Path:
    """A checkpoint of three shards; the vision tower has one of its own."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    shards = [
        {"model.embed_tokens.weight": torch.randn(8, rows, dtype=dtype), Q: torch.randn(rows, rows, dtype=dtype)},
        {"visual.patch.weight": torch.ones(3, 5, dtype=dtype)},
        {"model.norm.weight": torch.randn(rows, dtype=dtype), "lm_head.weight": torch.randn(8, rows, dtype=dtype)},
    ]  # fmt: skip
    index: dict[str, Any] = {"metadata": {"total_size": 0}, "weight_map": {}}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-00003.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        index["weight_map"] |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1, "dtype": "float32"}))
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {}}}')
    (folder / "old.bin").write_bytes(b"pickle")
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    return {name: x for file in sorted(folder.glob("*.safetensors")) for name, x in load_file(file).items()}


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, list[Expert]]:
    base = write_shards(tmp_path / "base", 0)
    checkpoint = Checkpoint(base)
    folders = [write_shards(tmp_path / f"e{seed}", seed) for seed in (1, 2)]
    return base, [open_expert(folder.name, folder, checkpoint) for folder in folders]


@pytest.mark.parametrize("dtype", ["base", "bfloat16"])
def test_bytes_are_those_of_the_merge_in_memory(world: Any, tmp_path: Path, dtype: str) -> None:
    base, experts = world
    spec = MergeSpec(dtype=dtype, exclude=["visual"])
    written = stream_merge(base, experts, [0.5, 0.5], spec, tmp_path / "out", card="# card\n")
    one, other = state(tmp_path / "e1"), state(tmp_path / "e2")
    for file in sorted(base.glob("*.safetensors")):
        expected = {
            name: x if "visual" in name else 0.5 * one[name] + 0.5 * other[name] for name, x in load_file(file).items()
        }  # fmt: skip
        if dtype != "base":
            expected = {name: x.bfloat16() for name, x in expected.items()}
        save_file(expected, tmp_path / "memory.safetensors", {"format": "pt"})
        assert (tmp_path / "out" / file.name).read_bytes() == (tmp_path / "memory.safetensors").read_bytes()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == ({path.name for path in base.iterdir()} - {"old.bin"}) | {"README.md"}
    assert (written.n_merged, written.n_copied) == (4, 1)
    linked = (tmp_path / "out/model-00002-of-00003.safetensors").stat().st_ino
    assert (linked == (base / "model-00002-of-00003.safetensors").stat().st_ino) == (dtype == "base")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["dtype"] == ("float32" if dtype == "base" else "bfloat16")


def test_lora_experts_and_one_hot_weights(world: Any, tmp_path: Path) -> None:
    base, _ = world
    a, b = torch.randn(2, 6), torch.randn(6, 2)
    name = Q.removesuffix(".weight")
    norm = torch.randn(6)
    write_adapter(LoraAdapter({name: (a, b)}, {name: 0.5}, {"model.norm.weight": norm}), tmp_path / "lora")
    other = write_shards(tmp_path / "other", 5)
    experts = [open_expert(f.name, f, Checkpoint(base)) for f in (tmp_path / "lora", other)]
    stream_merge(base, experts, [1.0, 0.0], MergeSpec(), tmp_path / "out")
    found, own = state(tmp_path / "out"), state(base)
    assert torch.allclose(found[Q], own[Q] + 0.5 * b @ a, atol=1e-6)
    assert torch.equal(found["model.norm.weight"], norm) and torch.equal(found["lm_head.weight"], own["lm_head.weight"])


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "out" in path.name)


def test_a_failure_half_way_leaves_nothing(world: Any, tmp_path: Path) -> None:
    base, experts = world
    damaged = write_shards(tmp_path / "damaged", 3)
    last = damaged / "model-00003-of-00003.safetensors"
    save_file({name: x * float("nan") for name, x in load_file(last).items()}, last, {"format": "pt"})
    with pytest.raises(DataError, match="not finite"):
        stream_merge(
            base, [experts[0], open_expert("bad", damaged, Checkpoint(base))], [0.5, 0.5], MergeSpec(), tmp_path / "out"
        )
    assert left_behind(tmp_path) == []
    with pytest.raises(ModelRefused, match="no tensor"):
        stream_merge(base, experts, [0.5, 0.5], MergeSpec(include=["nothing"]), tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").touch()
    with pytest.raises(DataError, match="already there"):
        stream_merge(base, experts, [0.5, 0.5], MergeSpec(), tmp_path / "out")


@pytest.fixture
def small_files() -> Iterator[None]:
    """Writing more than a few bytes fails like a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_is_one_clear_line(world: Any, tmp_path: Path, small_files: None) -> None:
    base, experts = world
    with pytest.raises(DataError, match="no room to write the merged model"):
        stream_merge(base, experts, [0.5, 0.5], MergeSpec(), tmp_path / "out")
    assert left_behind(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from runner.nodes.merging.checkpoints import Checkpoint
from runner.nodes.merging.experts import open_expert
from runner.nodes.merging.specs import MergeSpec
from runner.nodes.merging.stream import stream_merge
root = Path(sys.argv[1])
experts = [open_expert(n, root / n, Checkpoint(root / "base")) for n in ("e1", "e2")]
def die(name):
    if name == "model.norm.weight":
        os.kill(os.getpid(), signal.SIGKILL)
stream_merge(root / "base", experts, [0.5, 0.5], MergeSpec(), root / "out", progress=die)
"""


def test_killed_half_way_the_final_name_is_not_there(world: Any, tmp_path: Path) -> None:
    base, experts = world
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name.startswith(".out.partial-") for name in left_behind(tmp_path)] == [True]
    stream_merge(base, experts, [0.5, 0.5], MergeSpec(), tmp_path / "out")
    assert left_behind(tmp_path) == ["out"]

"""Checkpoints of cut models: stock transformers reads uniform and masked ones, the loader here reads manifests, bit by bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.errors import DataError, ModelRefused
from runner.models.lvlm import pruned
from runner.models.lvlm.loading import read
from runner.nodes.finetuning.teaching import kept_layers
from runner.nodes.pruning.apply import (
    LayerWidths,
    Plan,
    compensate,
    drop_layers,
    layer_groups,
    mask_plan,
    slice_widths,
)
from tests.nodes.pruning.tiny_lvlms import TEXTS, VOCABULARY, WRAPPED, folder, inputs, network

ALL = [*TEXTS, *WRAPPED]
NEURONS = (0, 3, 5, 38)
STOCK = """
import sys
sys.modules["runner"] = None
import torch
from pathlib import Path
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from safetensors.torch import load_file, save_file
found = {}
for place in sys.argv[2:]:
    seeing = hasattr(AutoConfig.from_pretrained(place), "vision_config")
    kind = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    model, report = kind.from_pretrained(place, dtype="float32", output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), (place, report)
    given = load_file(Path(place) / "inputs.tensors")
    with torch.no_grad():
        found[Path(place).name] = model.eval()(**given).logits.contiguous()
save_file(found, sys.argv[1])
"""


def cut(model: Any, *, even: bool, layers: tuple[int, ...] = (0, 2, 3)) -> tuple[Any, Plan]:
    """The network with one group of heads and most neurons gone in all layers (or in one), and a layer dropped."""
    groups = layer_groups(model)
    widths = {
        i: LayerWidths.by_groups(g, range(1, g.attention.n_kv), NEURONS) for i, g in enumerate(groups) if even or i == 2
    }
    plan = Plan.whole(groups).narrow(widths).drop(layers)
    return drop_layers(slice_widths(model, widths), layers), plan


def logits(model: Any, name: str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**inputs(name)).logits
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("sources")
    return {name: folder(name, base / name) for name in ALL}


@pytest.fixture(scope="module")
def source(sources: dict[str, Path]) -> Path:
    return sources["llama"]


def test_stock_transformers_computes_the_same_from_uniform_and_masked_folders(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    expected: dict[str, torch.Tensor] = {}
    for name, origin in sources.items():
        for format in ("uniform", "masked"):
            even = format == "uniform" and name != "qwen2_vl"  # whose stock attention takes no head_dim
            sliced, plan = (
                cut(network(name), even=True) if even else (network(name), Plan.whole(layer_groups(network(name))))
            )
            if name == "qwen2_vl" and format == "uniform":
                sliced, plan = drop_layers(sliced, [1, 2]), plan.drop([1, 2])
            if format == "masked":
                _, plan = cut(network(name), even=False)
                sliced = mask_plan(network(name), plan)
            label = f"{name}-{format}"
            pruned.write(sliced, plan, tmp_path / label, format, origin)  # type: ignore[arg-type]
            save_file(inputs(name), tmp_path / label / "inputs.tensors")
            expected[label] = logits(sliced, name)
    out, places = tmp_path / "found.tensors", [str(tmp_path / label) for label in expected]
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", STOCK, str(out), *places],
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(out)
    assert found.keys() == expected.keys()
    assert [label for label in expected if not torch.equal(found[label], expected[label])] == []


@pytest.mark.parametrize("name", ALL)
def test_manifests_reload_bit_by_bit_twice(name: str, sources: dict[str, Path], tmp_path: Path) -> None:
    model, plan = cut(network(name), even=False)
    written = pruned.write(model, plan, tmp_path / "m", "manifest", sources[name])
    assert (written.bytes, written.sha256) == pruned.weights_sha256(tmp_path / "m")
    first, second = (pruned.load(tmp_path / "m", "float32") for _ in range(2))
    with torch.no_grad():
        first.get_input_embeddings().weight.zero_()
    assert torch.equal(logits(second, name), logits(model, name))
    assert type(second) is type(model)
    assert pruned.read_manifest(tmp_path / "m")[0] == plan


def test_heads_that_do_not_divide_the_width_are_written_as_the_same_function(tmp_path: Path) -> None:
    """Llama's own config refuses 5 heads at width 48; Mistral's without a window computes the same."""
    from transformers import AutoModelForCausalLM

    heads = {"num_attention_heads": 6, "num_key_value_heads": 6}
    origin = folder("llama", tmp_path / "origin", **heads)
    model, plan = cut(network("llama", **heads), even=True)
    written = pruned.write(model, plan, tmp_path / "u", "uniform", origin)
    assert written.note is not None
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "u", dtype="float32")
    assert again.config.model_type == "mistral"
    assert torch.equal(logits(again, "llama"), logits(model, "llama"))


def test_companions_go_along_and_weights_and_code_do_not(source: Path, tmp_path: Path) -> None:
    (source / "modeling_evil.py").write_text("raise SystemExit")
    model, plan = cut(network("llama"), even=False)
    pruned.write(model, plan, tmp_path / "m", "manifest", source, card="# Cut\n")
    names = {file.name for file in (tmp_path / "m").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json", "pruning.json"} <= names
    assert "modeling_evil.py" not in names
    assert (tmp_path / "m" / "README.md").read_text() == "# Cut\n"


def test_tied_weights_are_written_once(sources: dict[str, Path], tmp_path: Path) -> None:
    model, plan = cut(network("llama_tied"), even=False)
    pruned.write(model, plan, tmp_path / "m", "manifest", sources["llama_tied"])
    names = load_file(tmp_path / "m" / "model.safetensors").keys()
    assert len([n for n in names if "embed_tokens" in n or "lm_head" in n]) == 1
    again = pruned.load(tmp_path / "m", "float32")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert again.lm_head.weight.shape[0] == VOCABULARY


def test_added_biases_come_back(source: Path, tmp_path: Path) -> None:
    model, plan = cut(network("llama"), even=False)
    compensate(layer_groups(model)[1].mlp_output, torch.tensor([0, 2]), torch.randn(40))
    pruned.write(model, plan, tmp_path / "m", "manifest", source)
    assert pruned.read_manifest(tmp_path / "m")[1] == ["1.mlp.down_proj"]
    assert torch.equal(logits(pruned.load(tmp_path / "m", "float32"), "llama"), logits(model, "llama"))
    even, plan = cut(network("llama"), even=True)
    compensate(layer_groups(even)[1].mlp_output, torch.tensor([0, 2]), torch.randn(40))
    with pytest.raises(ModelRefused, match=r"cannot hold this model: .*bias"):
        pruned.write(even, plan, tmp_path / "u", "uniform", source)


def test_unequal_layers_are_no_uniform_model(source: Path, tmp_path: Path) -> None:
    model, plan = cut(network("llama"), even=False)
    with pytest.raises(ModelRefused, match=r"layers 2 keep other numbers .* than layer 0"):
        pruned.write(model, plan, tmp_path / "u", "uniform", source)
    assert list(tmp_path.iterdir()) == []


def test_a_second_cut_of_a_cut_model_stays_readable(source: Path, tmp_path: Path) -> None:
    model, plan = cut(network("llama"), even=False)
    pruned.write(model, plan, tmp_path / "first", "manifest", source)
    again = pruned.load(tmp_path / "first", "float32")
    groups = layer_groups(again)
    widths = {0: LayerWidths.by_groups(groups[0], [0, 3], range(11))}
    plan = Plan.whole(groups).narrow(widths)
    slice_widths(again, widths)
    pruned.write(again, plan, tmp_path / "second", "manifest", tmp_path / "first")
    assert torch.equal(logits(pruned.load(tmp_path / "second", "float32"), "llama"), logits(again, "llama"))


def test_a_second_cut_is_told_in_the_originals_indices(source: Path, tmp_path: Path) -> None:
    model, first = cut(network("llama"), even=False)  # layers 0, 2, 3; of layer 2 the heads 1, 2, 3 and four neurons
    pruned.write(model, first, tmp_path / "first", "manifest", source)
    again = pruned.load(tmp_path / "first", "float32")
    groups = layer_groups(again)
    widths = {1: LayerWidths.by_groups(groups[1], [0, 2], [1, 3])}
    plan = Plan.whole(groups).narrow(widths).drop([1, 2])
    drop_layers(slice_widths(again, widths), [1, 2])
    pruned.write(again, plan, tmp_path / "second", "manifest", tmp_path / "first")
    told = pruned.read_manifest(tmp_path / "second")[0]
    assert told.layers == (2, 3)
    assert told.widths[0].heads == (1, 3)
    assert told.widths[0].neurons == (NEURONS[1], NEURONS[3])


def test_uniform_folders_say_what_they_kept(source: Path, tmp_path: Path) -> None:
    model, first = cut(network("llama"), even=True)  # layers 0, 2, 3; heads 1, 2, 3 and four neurons of each
    pruned.write(model, first, tmp_path / "first", "uniform", source)
    pruned.save_like(read(tmp_path / "first", dtype="float32").network, tmp_path / "first", tmp_path / "trained")
    for name in ("first", "trained"):
        assert not (tmp_path / name / "pruning.json").exists()
        assert kept_layers(tmp_path / name, 3) == [0, 2, 3]
    for format in ("manifest", "uniform"):
        again = read(tmp_path / "trained", dtype="float32").network
        groups = layer_groups(again)
        widths = {i: LayerWidths.by_groups(g, [0, 1], [1, 3]) for i, g in enumerate(groups)}
        plan = Plan.whole(groups).narrow(widths).drop([1, 2])
        drop_layers(slice_widths(again, widths), [1, 2])
        pruned.write(again, plan, tmp_path / format, format, tmp_path / "trained")  # type: ignore[arg-type]
        told = pruned.kept_plan(tmp_path / format)
        assert told is not None and told.layers == (2, 3)
        assert all(w.heads == (1, 2) and w.neurons == (NEURONS[1], NEURONS[3]) for w in told.widths)
    assert kept_layers(source, 4) is None


def test_a_record_of_another_model_is_refused(source: Path, tmp_path: Path) -> None:
    model, plan = cut(network("llama"), even=True)
    pruned.write(model, plan, tmp_path / "first", "uniform", source)
    stranger = folder("llama", tmp_path / "stranger")
    (stranger / "pruning_record.json").write_bytes((tmp_path / "first" / "pruning_record.json").read_bytes())
    whole = network("llama")
    with pytest.raises(ModelRefused, match="less than its weights hold"):
        pruned.write(whole, Plan.whole(layer_groups(whole)), tmp_path / "second", "uniform", stranger)
    assert not (tmp_path / "second").exists()


def test_trained_weights_of_a_cut_model_keep_its_layout(source: Path, tmp_path: Path) -> None:
    model, plan = cut(network("llama"), even=False)
    pruned.write(model, plan, tmp_path / "m", "manifest", source)
    trained = pruned.load(tmp_path / "m", "float32")
    with torch.no_grad():
        trained.lm_head.weight.mul_(2)
    pruned.save_like(trained, tmp_path / "m", tmp_path / "trained")
    assert torch.equal(logits(pruned.load(tmp_path / "trained", "float32"), "llama"), logits(trained, "llama"))


def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    from transformers import modeling_utils

    model, plan = cut(network("llama"), even=False)

    def torn(tensors: Any, path: Any, **more: Any) -> None:
        data = safetensors.torch.save(tensors)
        Path(path).write_bytes(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(modeling_utils, "safe_save_file", torn)
        with pytest.raises(DataError, match="No space left"):
            pruned.write(model, plan, tmp_path / "m", "manifest", source)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(pruned.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match="room for 1,000 bytes"):
        pruned.write(model, plan, tmp_path / "m", "manifest", source)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 9}, "version 9"),
        ({"plan": {"layers": [0]}}, "a plan of what is kept"),
        ({"added_biases": ["0.mlp.gate_proj"]}, "no output"),
        ({"decoder": "model.nothing"}, "no decoder"),
        ({"neurons": 5}, "disagree|fit"),
        ({"neurons": 99}, "cannot keep"),
        ({"layers": 1}, "the config has 3 layers, the plan 1"),
    ],
)
def test_manifests_that_lie_are_refused(change: dict[str, Any], said: str, source: Path, tmp_path: Path) -> None:
    model, plan = cut(network("llama"), even=False)
    pruned.write(model, plan, tmp_path / "m", "manifest", source)
    place = tmp_path / "m" / "pruning.json"
    told = json.loads(place.read_text())
    if "neurons" in change:
        told["plan"]["neurons"][0] = list(range(change["neurons"]))
    elif "layers" in change:
        told["plan"] = {key: value[:1] for key, value in told["plan"].items()}
    else:
        told |= change
    place.write_text(json.dumps(told))
    with pytest.raises(ModelRefused, match=said):
        pruned.load(tmp_path / "m", "float32")

"""What does not belong together is refused from headers and small files; geometry from factors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.errors import ModelRefused
from runner.nodes.lora_geometry import cosines
from runner.nodes.merging.adapter_files import LoraAdapter, write_adapter
from runner.nodes.merging.checks import check_experts
from runner.nodes.merging.describing import describe
from runner.nodes.merging.execution import LowRank
from runner.nodes.merging.geometry import gram, projection
from runner.nodes.merging.names import canonical, match

CONFIG = {"model_type": "llama", "vocab_size": 8, "tie_word_embeddings": False}
Q = "model.layers.0.self_attn.q_proj"
NAMES = {
    "model.embed_tokens.weight": (8, 4),
    f"{Q}.weight": (4, 4),
    "lm_head.weight": (8, 4),
    "visual.patch.weight": (2, 2),
}


def full(folder: Path, seed: int, *, rename: Any = None, drop: tuple[str, ...] = (), **config: Any) -> Path:
    folder.mkdir()
    torch.manual_seed(seed)
    tensors = {(rename or str)(n): torch.randn(shape) for n, shape in NAMES.items() if n not in drop}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


def lora(folder: Path, seed: int, *, module: str = Q, size: int = 4, base: str | None = "base") -> Path:
    torch.manual_seed(seed)
    write_adapter(LoraAdapter({module: (torch.randn(2, size), torch.randn(4, 2))}, {module: 2.0}), folder, base)
    return folder


def change(folder: Path, name: str, tensor: torch.Tensor) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: tensor}, folder / "model.safetensors")


def test_names_of_other_versions_of_the_library(tmp_path: Path) -> None:
    assert canonical("model.language_model.layers.0.x") == canonical("language_model.model.layers.0.x") == "layers.0.x"
    assert canonical("vision_tower.vision_model.a.b") == canonical("model.vision_tower.a.b")
    assert canonical("language_model.lm_head.weight") == "lm_head.weight"
    found = match(["a.x", "model.a.y"], ["model.a.x", "language_model.a.y", "z"])
    assert found.found == {"model.a.x": "a.x", "language_model.a.y": "model.a.y"} and found.ignored == ("z",)
    base = full(tmp_path / "base", 0)
    drifted = full(tmp_path / "new", 1, rename=lambda n: f"model.{n}" if n.startswith("visual") else
                   n.replace("model.", "model.language_model."))  # fmt: skip
    checked = check_experts(
        base, {"a": drifted, "b": lora(tmp_path / "l", 2, module=Q.replace("model.", "model.language_model."))}
    )
    assert [(e.kind, e.merged, e.copied) for e in checked.experts] == [("full", 4, 0), ("lora", 1, 3)]
    assert checked.experts[1].rank == 2 and checked.experts[1].scaling == 2.0


REFUSED = {
    "one": (lambda t: {}, "at least 2"),
    "no folder": (lambda t: {"x": t / "nowhere"}, "not a folder"),
    "shape": (lambda t: {"x": lora(t / "x", 1, size=6)}, r"\[4, 6\].*\[4, 4\]"),
    "other model": (lambda t: {"x": lora(t / "x", 1, module="model.h.0.attn")}, "no.* place"),
    "other base": (lambda t: {"x": lora(t / "x", 1, base="hub/other")}, "different bases"),
    "missing": (lambda t: {"x": full(t / "x", 1, drop=("visual.patch.weight",))}, "lacks 1 tensors"),
    "untied": (lambda t: {"x": full(t / "x", 1, drop=("lm_head.weight",))}, "ties its head"),
    "tied config": (lambda t: {"x": full(t / "x", 1, tie_word_embeddings=True)}, "tie_word_embeddings"),
    "architecture": (lambda t: {"x": full(t / "x", 1, model_type="qwen2")}, "model_type"),
    "quantised": (lambda t: {"x": full(t / "x", 1, quantization_config={"bits": 4})}, "quantised"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    base = full(tmp_path / "base", 0)
    with pytest.raises(ModelRefused, match=message):
        check_experts(base, {"good": lora(tmp_path / "good", 9), **make(tmp_path)})


def test_vocabularies_codes_pickles_and_cut_files(tmp_path: Path) -> None:
    base, good, bad = full(tmp_path / "base", 0), lora(tmp_path / "good", 9), full(tmp_path / "bad", 1)
    for folder, word in ((base, "cat"), (bad, "dog")):
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {word: 1}}}))
    with pytest.raises(ModelRefused, match=r'vocabularies.*"cat"'):
        check_experts(base, {"good": good, "bad": bad})
    (bad / "tokenizer.json").unlink()
    change(bad, "model.embed_tokens.weight", torch.zeros(9, 4))
    with pytest.raises(ModelRefused, match=r"\[9, 4\].*vocabularies differ"):
        check_experts(base, {"good": good, "bad": bad})
    change(bad, "model.embed_tokens.weight", torch.zeros(8, 4, dtype=torch.int8))
    with pytest.raises(ModelRefused, match="I8"):
        check_experts(base, {"good": good, "bad": bad})
    weights = bad / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ModelRefused, match="cut short"):
        check_experts(base, {"good": good, "bad": bad})
    weights.unlink()
    (bad / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelRefused, match="pickled"):
        check_experts(base, {"good": good, "bad": bad})


def test_descriptions_warn_of_zero_and_equal_experts_and_refuse_nan(tmp_path: Path) -> None:
    base = full(tmp_path / "base", 0)
    same, other = full(tmp_path / "same", 0), full(tmp_path / "other", 1)
    found = describe(base, {"same": same, "other": other, "again": other})
    assert any("same equals the base" in text for text in found.warnings)
    assert any("other and again are the same weights" in text for text in found.warnings)
    a, b = load_file(base / "model.safetensors"), load_file(other / "model.safetensors")
    norm = sum(float((b[n] - a[n]).double().square().sum()) for n in a) ** 0.5
    assert [row["delta_norm"] for row in found.experts] == pytest.approx([0.0, norm, norm])
    assert [row["cosine"] for row in found.geometry] == [None, None, pytest.approx(1.0)]
    change(other, "lm_head.weight", torch.full((8, 4), torch.nan))
    with pytest.raises(ModelRefused, match=r"expert other: lm_head\.weight"):
        describe(base, {"same": same, "other": other})


def test_experts_of_another_base_are_told(tmp_path: Path) -> None:
    """Same shapes, other weights: a whole checkpoint by its distance, an adapter by the name of its base alone."""
    base, far, near = full(tmp_path / "base", 0), full(tmp_path / "far", 1), full(tmp_path / "near", 0)
    moved = {name: 1.3 * tensor for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(moved, near / "model.safetensors")
    found = describe(base, {"far": far, "near": near})
    assert [text.split()[1] for text in found.warnings] == ["far"] and "not trained from this base" in found.warnings[0]
    adapters = {name: lora(tmp_path / name, seed, base="hub/Model-7B") for seed, name in enumerate("ab")}
    (warning,) = describe(base, adapters).warnings
    assert "'Model-7B'" in warning and "base" in warning and "make sure" in warning
    assert describe(base, adapters, base_name="mine/Model-7B").warnings == ()
    (warning,) = describe(base, adapters, base_name="mine/Other").warnings
    assert "Other, base" in warning


def test_adapters_of_what_the_base_lacks_are_refused_by_name(tmp_path: Path) -> None:
    base, good = full(tmp_path / "base", 0), lora(tmp_path / "good", 9)
    factors = {name: (torch.randn(2, 4), torch.randn(4, 2)) for name in (Q, Q.replace("q_proj", "gate"))}
    write_adapter(LoraAdapter(factors, dict.fromkeys(factors, 1.0)), tmp_path / "more", "base")
    with pytest.raises(ModelRefused, match=r"expert more: .*self_attn\.gate\.weight has no place"):
        check_experts(base, {"good": good, "more": tmp_path / "more"})
    tied = full(tmp_path / "tied", 0, drop=("lm_head.weight",), tie_word_embeddings=True)
    head = {Q: factors[Q], "lm_head": (torch.randn(2, 4), torch.randn(8, 2))}
    write_adapter(LoraAdapter(head, dict.fromkeys(head, 1.0)), tmp_path / "head", "base")
    with pytest.raises(ModelRefused, match=r"lm_head\.weight has no place .*whose head is its embedding table"):
        check_experts(tied, {"good": good, "head": tmp_path / "head"})


def test_geometry_of_factors_is_that_of_whole_differences() -> None:
    torch.manual_seed(0)
    low = [{"w": LowRank(torch.randn(r, 7), torch.randn(5, r), 0.5 * r)} for r in (2, 3)]
    whole = [{"w": x["w"].scaling * x["w"].b @ x["w"].a} for x in low] + [{"w": torch.randn(5, 7), "v": torch.randn(3)}]
    flat = torch.stack([torch.cat([m["w"].reshape(-1), m.get("v", torch.zeros(3))]) for m in whole]).double()
    found = gram([*low, whole[2]])
    assert torch.allclose(found, flat @ flat.T, rtol=1e-5)
    assert torch.allclose(
        cosines(found), torch.nn.functional.cosine_similarity(flat[:, None], flat[None], dim=-1), atol=1e-6
    )
    truth = torch.tensor([[0.3, 1.0], [0.7, -2.0], [0.0, 0.5]]).double()
    mixed = truth.T @ flat
    apart = torch.linalg.svd(flat, full_matrices=True).Vh[-1]
    mixed = torch.cat([mixed, (mixed[0] + mixed[0].norm() * apart)[None]])
    coefficients, rest = projection(flat @ flat.T, flat @ mixed.T, mixed.square().sum(1))
    assert torch.allclose(coefficients[:, :2], truth, atol=1e-8) and torch.allclose(
        coefficients[:, 2], truth[:, 0], atol=1e-8
    )
    assert rest.tolist() == pytest.approx([0, 0, 0.5], abs=1e-9)

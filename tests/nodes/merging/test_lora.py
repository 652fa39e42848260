"""Adapters as algebra, against merged weights and against peft itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from runner.errors import DataError, ModelRefused
from runner.nodes.merging.lora import (
    LoraAdapter,
    concatenate_adapters,
    delta,
    merged_weight,
    padded,
    read_adapter,
    write_adapter,
)

NAME = "layers.0.up_proj"


class Toy(nn.Module):
    """Two levels of modules whose names end alike, so that patterns by suffix can go wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"model_type": "toy"}
        self.layers = nn.ModuleList(nn.ModuleDict({"up_proj": nn.Linear(6, 8, bias=False)}) for _ in range(2))
        self.tower = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"up_proj": nn.Linear(6, 8, bias=False)})])})
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(sum(layer["up_proj"](x) for layer in [*self.layers, *self.tower["layers"]]))


def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


def adapted(seed: int, folder: Path, **config: Any) -> Path:
    """An adapter that peft made and wrote, with random factors."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(toy(), LoraConfig(**{"target_modules": ["up_proj"], "r": 3, "lora_alpha": 5, **config}))
    for name, parameter in model.named_parameters():
        if "lora_" in name or ".modules_to_save." in name:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def by_peft(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the toy with the adapter merged in by peft."""
    from peft import PeftModel

    return dict(PeftModel.from_pretrained(toy(), str(folder)).merge_and_unload().state_dict())


def ours(adapter: LoraAdapter) -> dict[str, torch.Tensor]:
    base = toy().state_dict()
    return {n: adapter.full.get(n, merged_weight(x, [adapter], [1.0], n)) for n, x in base.items()}


KINDS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True},
    {"rank_pattern": {"layers.1.up_proj": 2}, "alpha_pattern": {"^layers.0.up_proj": 7}},
    {"modules_to_save": ["head"], "target_modules": ["layers.1.up_proj"]},
    {"init_lora_weights": "gaussian", "r": 1},
]


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_reading_agrees_with_peft(config: dict[str, Any], tmp_path: Path) -> None:
    folder = adapted(1, tmp_path / "a", **config)
    torch.testing.assert_close(ours(read_adapter(folder)), by_peft(folder))


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_peft_reads_what_is_written(config: dict[str, Any], tmp_path: Path) -> None:
    adapter = read_adapter(adapted(1, tmp_path / "a", **config))
    for changed in (adapter, padded(adapter, 6)):
        write_adapter(changed, tmp_path / "b", "toy")
        torch.testing.assert_close(by_peft(tmp_path / "b"), by_peft(tmp_path / "a"))
    assert read_adapter(tmp_path / "b").base_name == "toy"
    assert {len(a) for a, _ in padded(adapter).factors.values()} == {adapter.rank}


def test_patterns_of_one_module_do_not_reach_longer_names(tmp_path: Path) -> None:
    a, b = torch.randn(2, 6), torch.randn(8, 2)
    factors = {NAME: (a, b), "layers.1.up_proj": (a[:1], b[:, :1]), "tower." + NAME: (a[:1], b[:, :1])}
    write_adapter(LoraAdapter(factors, {NAME: 0.5, "layers.1.up_proj": 3.0, "tower." + NAME: 3.0}), tmp_path)
    found = by_peft(tmp_path)
    torch.testing.assert_close(found[NAME + ".weight"], toy().state_dict()[NAME + ".weight"] + 0.5 * b @ a)
    torch.testing.assert_close(
        found["tower." + NAME + ".weight"], toy().state_dict()["tower." + NAME + ".weight"] + 3 * b[:, :1] @ a[:1]
    )


@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(1, 5), st.floats(-2, 2), st.floats(0.1, 4)), min_size=1, max_size=5),
)
@settings(max_examples=40, deadline=None)
def test_concatenated_adapter_is_the_merge(seed: int, experts: list[tuple[int, float, float]]) -> None:
    """Mixed ranks, zero and negative weights, any scaling, targets that some leave out."""
    made = torch.Generator().manual_seed(seed)
    adapters = []
    for k, (rank, _, scaling) in enumerate(experts):
        factors = {NAME: (torch.randn(rank, 6, generator=made), torch.randn(8, rank, generator=made))}
        if k % 2:
            factors["layers.1.up_proj"] = (torch.randn(rank, 6, generator=made), torch.randn(8, rank, generator=made))
        adapters.append(LoraAdapter(factors, dict.fromkeys(factors, scaling)))
    weights = [w for _, w, _ in experts]
    one = concatenate_adapters(adapters, weights)
    assert one.rank == sum(rank for rank, _, _ in experts)
    base = torch.randn(8, 6, generator=made)
    for name in one.factors:
        exact = base.double() + sum(
            (w * s * x.factors[name][1].double() @ x.factors[name][0].double()
             for x, (_, w, s) in zip(adapters, experts, strict=True) if name in x.factors),
            start=torch.zeros(8, 6, dtype=torch.float64),
        )  # fmt: skip
        size = 1 + exact.abs().max().item()
        for found in (
            merged_weight(base, [one], [1.0], name + ".weight"),
            merged_weight(base, adapters, weights, name),
        ):
            torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-6 * size)


def test_peft_cat_is_exact_and_its_linear_is_not(tmp_path: Path) -> None:
    from peft import PeftModel

    weights = [0.2, 0.3, 0.5]
    folders = [adapted(seed, tmp_path / str(seed)) for seed in range(3)]
    model = PeftModel.from_pretrained(toy(), str(folders[0]), adapter_name="0")
    for k in (1, 2):
        model.load_adapter(str(folders[k]), adapter_name=str(k))
    layer = model.base_model.model.layers[0]["up_proj"]
    found = {}
    for kind in ("cat", "linear"):
        model.add_weighted_adapter(["0", "1", "2"], weights, kind, combination_type=kind)
        found[kind] = layer.get_delta_weight(kind)
    adapters = [read_adapter(folder) for folder in folders]
    exact = sum(w * delta(x, NAME) for w, x in zip(weights, adapters, strict=True))
    torch.testing.assert_close(
        delta(concatenate_adapters(adapters, weights), NAME + ".weight"), exact, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(found["cat"], exact, rtol=1e-6, atol=1e-6)
    error = (found["linear"] - exact).norm() / exact.norm()
    assert error > 0.5, "products of one expert's B with another's A"


def test_full_tensors_are_merged_linearly(tmp_path: Path) -> None:
    config = {"modules_to_save": ["head"], "target_modules": ["layers.1.up_proj"]}
    one, two = (read_adapter(adapted(seed, tmp_path / str(seed), **config)) for seed in (1, 2))
    bare = read_adapter(adapted(3, tmp_path / "3"))
    merged = concatenate_adapters([one, two], [0.25, 0.75])
    torch.testing.assert_close(merged.full["head.bias"], 0.25 * one.full["head.bias"] + 0.75 * two.full["head.bias"])
    base = toy().state_dict()
    merged = concatenate_adapters([one, bare], [0.25, 0.75], base)
    torch.testing.assert_close(merged.full["head.weight"], 0.25 * one.full["head.weight"] + 0.75 * base["head.weight"])
    with pytest.raises(DataError, match=r"head.*the base's is needed"):
        concatenate_adapters([one, bare], [0.25, 0.75])
    with pytest.raises(DataError, match="in full"):
        concatenate_adapters([bare, LoraAdapter({}, {}, {NAME + ".weight": base[NAME + ".weight"]})], [0.5, 0.5], base)


def test_adapters_of_other_shapes_are_named() -> None:
    one = LoraAdapter({NAME: (torch.ones(2, 6), torch.ones(8, 2))}, {NAME: 1.0})
    two = LoraAdapter({NAME: (torch.ones(2, 7), torch.ones(8, 2))}, {NAME: 1.0})
    with pytest.raises(DataError, match=r"up_proj: adapters of different shapes \[\(8, 6\), \(8, 7\)\]"):
        concatenate_adapters([one, two], [0.5, 0.5])
    with pytest.raises(DataError, match="one weight an adapter"):
        concatenate_adapters([one], [0.5, 0.5])
    with pytest.raises(DataError, match="more than 1"):
        padded(one, 1)


def test_half_precision_is_summed_in_float32() -> None:
    a, b = torch.randn(4, 6).bfloat16(), torch.randn(8, 4).bfloat16()
    adapter = LoraAdapter({NAME: (a, b)}, {NAME: 0.1})
    assert delta(adapter, NAME).dtype == torch.float32
    torch.testing.assert_close(delta(adapter, NAME), 0.1 * b.float() @ a.float())
    assert merged_weight(torch.ones(8, 6).bfloat16(), [adapter], [1.0], NAME).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "trained biases"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"something_of_a_later_version": {"a": 1}}, "something_of_a_later_version"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"peft_type": "IA3"}, "method 'IA3'"),
        ({"r": 0}, "rank r"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"r": 4}, "rank 3, its config says 4"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_other_algebra_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = adapted(1, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelRefused, match=says):
        read_adapter(folder)


def test_damage_is_refused(tmp_path: Path) -> None:
    folder = adapted(1, tmp_path)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    first = next(name for name in tensors if "lora_A" in name)
    bad = {
        "lacks lora_A": {n: x for n, x in tensors.items() if n != first},
        "do not fit": tensors | {first: torch.ones(2, 6)},
        "not finite": tensors | {first: torch.full((3, 6), torch.inf)},
        "neither lora_A nor lora_B": tensors | {first.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(8)},
        "holds no tensor": {},
    }
    for says, content in bad.items():
        save_file(content, weights)
        with pytest.raises(ModelRefused, match=says):
            read_adapter(folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(ModelRefused, match="pickled"):
        read_adapter(folder)

"""Cut networks compute what masked ones compute; layers and counts are what arithmetic says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from runner.errors import DataError
from runner.nodes.pruning.apply import (
    LayerWidths,
    Plan,
    compensate,
    count,
    drop_layers,
    layer_groups,
    mask_layers,
    mask_plan,
    mask_widths,
    slice_widths,
    unit_parameters,
)
from tests.nodes.pruning.tiny_lvlms import (
    HEADS,
    HIDDEN,
    IMAGE_TOKEN,
    LAYERS,
    MLP,
    TEXTS,
    VOCABULARY,
    WRAPPED,
    inputs,
    network,
)

ALL = [*TEXTS, *WRAPPED]
NEURONS = (0, 3, 4, 17, MLP - 1)


def logits(model: Any, name: str, **more: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**inputs(name), **more).logits
    return found


def double(name: str) -> Any:
    return network(name).double() if name != "llava" else network(name)


def uneven(model: Any) -> dict[int, LayerWidths]:
    """Other widths in layers 1 and 2, the rest whole."""
    groups = layer_groups(model)
    return {
        1: LayerWidths.by_groups(groups[1], kv_heads=[1], neurons=NEURONS),
        2: LayerWidths.by_groups(groups[2], neurons=range(0, MLP, 2)),
    }


@pytest.mark.parametrize("name", ALL)
def test_sliced_is_masked(name: str) -> None:
    model = double(name)
    plan, masked = uneven(model), copy.deepcopy(model)
    before = logits(model, name)
    mask_widths(masked, plan)
    slice_widths(model, plan)
    torch.testing.assert_close(logits(model, name), logits(masked, name), rtol=1e-5, atol=1e-5)
    assert (logits(model, name) - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["llama_gqa", "phi3_gqa", "qwen3"])
def test_single_query_heads_can_go_when_groups_stay_equal(name: str) -> None:
    model = double(name)
    plan = {i: LayerWidths.by_queries(g, heads=[1, 2]) for i, g in enumerate(layer_groups(model))}
    masked = mask_widths(copy.deepcopy(model), plan)
    slice_widths(model, plan)
    torch.testing.assert_close(logits(model, name), logits(masked, name), rtol=1e-9, atol=1e-9)
    assert model.config.num_attention_heads == 2
    with pytest.raises(DataError, match="unequal numbers"):
        LayerWidths.by_queries(layer_groups(double(name))[0], heads=[0, 1, 2])


@pytest.mark.parametrize("name", ALL)
def test_a_removed_layer_is_a_zeroed_layer(name: str) -> None:
    model = double(name)
    zeroed = mask_layers(copy.deepcopy(model), [1, 3])
    drop_layers(model, [0, 2])
    torch.testing.assert_close(logits(model, name), logits(zeroed, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_nothing_removed_changes_nothing(name: str) -> None:
    model = network(name)
    before = logits(model, name)
    drop_layers(model, range(LAYERS))
    slice_widths(model, {i: LayerWidths.whole(g) for i, g in enumerate(layer_groups(model))})
    assert torch.equal(logits(model, name), before)


@pytest.mark.parametrize("name", ["llama_gqa", "qwen2", "phi", "phi3", "gemma2", "llava", "qwen2_vl", "smolvlm"])
def test_generation_with_a_cache_is_generation_without(name: str) -> None:
    model = network(name)
    drop_layers(model, [0, 2, 3])
    slice_widths(model, {1: uneven(network(name))[1]})
    settings = {
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
        "suppress_tokens": [IMAGE_TOKEN],
    }
    made = [model.generate(**inputs(name), use_cache=cached, **settings) for cached in (True, False)]
    assert made[0].shape[1] == 17
    assert torch.equal(*made)


def test_other_networks_of_the_same_config_keep_their_layers() -> None:
    from transformers import LlamaForCausalLM

    first = network("llama")
    second = LlamaForCausalLM(first.config).eval()
    before = logits(second, "llama")
    drop_layers(first, [0])
    slice_widths(first, {0: LayerWidths.by_groups(layer_groups(first)[0], kv_heads=[0, 1])})
    assert torch.equal(logits(second, "llama"), before)
    assert (second.config.num_hidden_layers, second.config.num_attention_heads) == (LAYERS, HEADS)


def test_lists_by_layer_follow_their_layers() -> None:
    model = network("gemma2")
    types = list(model.config.layer_types)
    assert len(set(types)) == 2
    drop_layers(model, [1, 2])
    assert model.config.layer_types == [types[1], types[2]]
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]
    assert model.config.num_hidden_layers == 2


def test_wrappers_see_the_new_widths_and_numbers() -> None:
    model = network("llava")
    drop_layers(model, [0, 3])
    slice_widths(model, {i: LayerWidths.by_groups(g, [0, 2], NEURONS) for i, g in enumerate(layer_groups(model))})
    text = model.config.text_config
    assert text is model.model.language_model.config
    assert (text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads) == (2, 2, 2)
    assert (text.head_dim, text.intermediate_size) == (HIDDEN // HEADS, len(NEURONS))


@pytest.mark.parametrize("name", ["llama", "llama_gqa", "llama_tied", "phi", "phi3_gqa", "qwen2"])
def test_counts_are_closed_forms(name: str) -> None:
    model, size = network(name), HIDDEN // HEADS
    kv = layer_groups(model)[0].attention.n_kv
    slice_widths(model, {1: LayerWidths.by_groups(layer_groups(model)[1], [0], NEURONS)})
    heads, kv_heads, neurons = [HEADS] * LAYERS, [kv] * LAYERS, [MLP] * LAYERS
    heads[1], kv_heads[1], neurons[1] = HEADS // kv, 1, len(NEURONS)
    expected = {"llama_tied": 1, "phi": 2}.get(name, 2) * VOCABULARY * HIDDEN + HIDDEN
    for h, g, n in zip(heads, kv_heads, neurons, strict=True):
        expected += 2 * (h + g) * size * HIDDEN + (2 if name == "phi" else 3) * n * HIDDEN
        expected += HIDDEN if name == "phi" else 2 * HIDDEN
        if name == "qwen2":
            expected += (h + 2 * g) * size
        if name == "phi":  # biases of q, k, v, dense, fc1, fc2 and of the layer's norm
            expected += (h + 2 * g) * size + HIDDEN + n + HIDDEN + HIDDEN
    if name == "phi":
        expected += VOCABULARY + HIDDEN
    found = count(model)
    assert (found.llm, found.total) == (expected, expected)
    assert (found.heads, found.neurons) == (tuple(heads), tuple(neurons))


def test_vision_counts_in_the_total_only() -> None:
    model = network("llava")
    found = count(model)
    others = sum(p.numel() for n, p in model.named_parameters() if "vision_tower" in n or "projector" in n)
    assert others > 0
    assert found.total - found.llm == others


@pytest.mark.parametrize("name", ["phi", "phi3_gqa", "qwen2"])
def test_unit_parameters_are_what_a_cut_removes(name: str) -> None:
    model = network(name)
    groups, before = layer_groups(model), count(model).total
    r = groups[0].attention.queries
    expected = (
        r * unit_parameters(groups[0], "query")
        + unit_parameters(groups[0], "kv")
        + 3 * unit_parameters(groups[0], "neuron")
    )
    keep = range(1, groups[0].attention.n_kv)
    slice_widths(model, {0: LayerWidths.by_groups(groups[0], keep, range(3, MLP))})
    assert before - count(model).total == expected


def test_groups_of_heads_are_contiguous() -> None:
    groups = layer_groups(network("llama_gqa"))[0]
    assert LayerWidths.by_groups(groups, [1]).heads == (2, 3)
    with pytest.raises(DataError, match="without its key-value head"):
        slice_widths(network("llama_gqa"), {0: LayerWidths((0, 2), (0,), (0,))})


def test_plans_compose_to_original_indices_and_survive_json() -> None:
    model = network("llama_gqa")
    original = copy.deepcopy(model)
    plan = Plan.whole(layer_groups(model))
    first = {1: LayerWidths.by_groups(layer_groups(model)[1], [1], (2, 5, 7, 30))}
    plan, model = plan.narrow(first), slice_widths(model, first)
    plan, model = plan.drop([1, 2]), drop_layers(model, [1, 2])
    second = {0: LayerWidths.by_groups(layer_groups(model)[0], None, (1, 3))}
    plan, model = plan.narrow(second), slice_widths(model, second)
    assert plan.layers == (1, 2)
    assert plan.widths[0] == LayerWidths((2, 3), (1,), (5, 30))
    assert plan.unequal() == [2]
    again = Plan.from_dict(plan.to_dict())
    assert again == plan
    torch.testing.assert_close(
        logits(mask_plan(original, again), "llama"), logits(model, "llama"), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "given",
    [
        None, {"layers": [0]}, {"layers": [], "heads": [], "kv_heads": [], "neurons": []},
        {"layers": [1, 0], "heads": [[0], [0]], "kv_heads": [[0], [0]], "neurons": [[0], [0]]},
        {"layers": [0], "heads": [[0]], "kv_heads": [[0]], "neurons": [[True]]},
        {"layers": [0], "heads": [[0]], "kv_heads": [["0"]], "neurons": [[1]]},
        {"layers": [0], "heads": [[0]], "kv_heads": [[]], "neurons": [[1]]},
    ],
)  # fmt: skip
def test_plans_that_are_none_are_refused(given: Any) -> None:
    with pytest.raises(DataError):
        Plan.from_dict(given)


@pytest.mark.parametrize("keep", [[], [0, 0], [1, 0], [0, LAYERS], [-1]])
def test_layers_that_are_not_there_cannot_stay(keep: list[int]) -> None:
    with pytest.raises(DataError, match="layers to keep"):
        drop_layers(network("llama"), keep)


def test_compensation_keeps_the_output_of_constant_inputs() -> None:
    """Where a pruned neuron never varies, its mean in the bias replaces it exactly."""
    linear = torch.nn.Linear(6, 4, bias=False)
    x = torch.randn(5, 6)
    x[:, [1, 4]] = torch.tensor([2.0, -3.0])
    before = linear(x)
    compensate(linear, torch.tensor([1, 4]), x.mean(0))
    with torch.no_grad():
        linear.weight[:, [1, 4]] = 0
    torch.testing.assert_close(linear(x), before)

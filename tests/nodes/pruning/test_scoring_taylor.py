"""Taylor scores against gradients stored whole, and what must hold for any network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from runner.models.lvlm.groups import coupled_groups
from runner.nodes.pruning.apply import mask_widths
from runner.nodes.pruning.names import SALIENCIES, TAYLOR
from runner.nodes.pruning.scoring import Settings, score_model
from runner.nodes.pruning.select import keep_units
from tests.nodes.pruning.scoring_material import label_count, own_loss, sequences, singles, tiny, tokens

KINDS = [TAYLOR + kind for kind in SALIENCIES if kind not in ("l1", "l2")]
NAMES = ["llama", "qwen2", "phi", "phi3_gqa"]


def stored_gradients(
    net: Any, losses: list[Tensor], shares: list[float]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradient of the weighted loss, and the mean of squared gradients of the single ones, by name of the weight."""
    names = [n for n, p in net.named_parameters() if ".layers." in n and p.dim() == 2]
    weights = [net.get_parameter(n) for n in names]
    each = [torch.autograd.grad(loss, weights) for loss in losses]
    whole = {n: sum(s * g[i] for s, g in zip(shares, each, strict=True)) for i, n in enumerate(names)}
    fisher = {n: sum(g[i] ** 2 for g in each) / len(each) for i, n in enumerate(names)}
    return whole, fisher  # type: ignore[return-value]


def parts_of(name: str, layer: int, of: dict[str, Tensor]) -> dict[str, Tensor]:
    """q, k, v, o, gate, up, down of a layer, fused matrices taken apart by the layouts' own rules."""
    at = {n.split(f"layers.{layer}.")[1].removesuffix(".weight"): t for n, t in of.items() if f"layers.{layer}." in n}
    if name == "phi3_gqa":
        q, k, v = at["self_attn.qkv_proj"].split([48, 24, 24])
        gate, up = at["mlp.gate_up_proj"].split(40)
        return {
            "q": q,
            "k": k,
            "v": v,
            "o": at["self_attn.o_proj"],
            "gate": gate,
            "up": up,
            "down": at["mlp.down_proj"],
        }
    names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
    if name == "phi":
        names |= {"o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"}
    else:
        names |= {"o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    return {role: at[n] for role, n in names.items()}


def plain(kind: str, roles: dict[str, Tensor], kv: int) -> tuple[list[float], list[float]]:
    """Scores of key-value groups and neurons from saliencies of whole matrices, by loops."""

    def size(x: Tensor) -> Tensor:
        return x.sum(1).abs() if kind.endswith("vectorize") else x.abs().sum(1)

    rows = {role: size(x.T if role in ("o", "down") else x) for role, x in roles.items()}
    heads = []
    for g in range(kv):
        wide, narrow = 48 // kv, len(rows["k"]) // kv
        total = sum(float(rows[m][g * wide : (g + 1) * wide].sum()) for m in ("q", "o"))
        heads.append(total + sum(float(rows[m][g * narrow : (g + 1) * narrow].sum()) for m in ("k", "v")))
    return heads, sum(rows[m] for m in ("gate", "up", "down") if m in rows).tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_hooked_scores_are_those_of_stored_gradients(name: str, checkpointing: bool) -> None:
    net, anatomy = tiny(name)
    ids = tokens()
    total = sum(map(label_count, ids))
    whole, fisher = stored_gradients(net, [own_loss(net, x) for x in ids], [label_count(x) / total for x in ids])
    weights = {n: net.get_parameter(n).detach() for n in whole}
    saliency = {
        "param_first": {n: w * whole[n] for n, w in weights.items()},
        "vectorize": {n: w * whole[n] for n, w in weights.items()},
        "param_second": {n: w**2 * fisher[n] for n, w in weights.items()},
        "param_mix": {n: w * whole[n] - w**2 * fisher[n] / 2 for n, w in weights.items()},
    }
    found = score_model(net, [sequences(net, ids)], KINDS, Settings(checkpointing=checkpointing))  # type: ignore[arg-type]
    kv = coupled_groups(anatomy.layers[0], anatomy.config).attention.n_kv
    for criterion in KINDS:
        for layer in range(4):
            heads, neurons = plain(criterion, parts_of(name, layer, saliency[criterion.removeprefix(TAYLOR)]), kv)
            own = found.units[criterion]
            torch.testing.assert_close(own[layer, "kv_group"].tolist(), heads, rtol=1e-5, atol=1e-12)
            torch.testing.assert_close(own[layer, "neuron"].tolist(), neurons, rtol=1e-5, atol=1e-12)


def test_means_of_samples_weigh_short_ones_alike() -> None:
    net, _ = tiny("qwen2")
    ids = tokens()
    whole, _ = stored_gradients(net, [own_loss(net, x) for x in ids], [1 / 3] * 3)
    roles = parts_of("qwen2", 1, {n: net.get_parameter(n).detach() * g for n, g in whole.items()})
    found = score_model(net, singles(net, ids), ["taylor/param_first"], Settings(aggregate="sample_mean"))
    heads, _ = plain("param_first", roles, 2)
    torch.testing.assert_close(found.units["taylor/param_first"][1, "kv_group"].tolist(), heads, rtol=1e-5, atol=1e-12)


def test_vectorize_is_the_gradient_of_a_mask() -> None:
    """A factor of 1 on every row of up: |dL/dm| is what the row adds to a neuron's score."""
    net, _ = tiny("llama")
    ids = tokens()[0]
    mask = torch.ones(40, dtype=torch.float64, requires_grad=True)
    names = {f"model.layers.1.mlp.{n}_proj.weight": axis for n, axis in (("gate", 0), ("up", 0), ("down", 1))}
    wanted = torch.zeros(40, dtype=torch.float64)
    labels = ids.clone()
    labels[:3] = -100
    for name, axis in names.items():
        masked = net.get_parameter(name).detach() * (mask[:, None] if axis == 0 else mask)
        out = torch.func.functional_call(net, {name: masked}, kwargs={"input_ids": ids[None], "labels": labels[None]})
        wanted += torch.autograd.grad(out.loss, mask)[0].abs()
    found = score_model(net, singles(net, [ids]), ["taylor/vectorize"])
    torch.testing.assert_close(found.units["taylor/vectorize"][1, "neuron"], wanted, rtol=1e-6, atol=1e-12)


def test_a_neuron_or_head_that_nothing_reads_scores_zero_and_goes_first() -> None:
    net, anatomy = tiny("llama")
    with torch.no_grad():
        anatomy.layers[2].mlp.down_proj.weight[:, 17] = 0
        anatomy.layers[1].self_attn.o_proj.weight[:, 24:36] = 0
    found = score_model(net, [sequences(net, tokens())], ["taylor/param_first"])
    units = found.units["taylor/param_first"]
    assert (units[2, "neuron"] == 0).nonzero().tolist() == [[17]]
    assert (units[1, "kv_group"] == 0).nonzero().tolist() == [[2]]
    assert 17 not in keep_units(units[2, "neuron"], 0.01).tolist()
    assert found.zero_share["taylor/param_first"] == pytest.approx(2 / (4 * 44))


@pytest.mark.parametrize("seed", [0, 1])
def test_permuted_units_have_permuted_scores_and_the_same_pruned_function(seed: int) -> None:
    from runner.models.lvlm.plans import LayerWidths

    ids = tokens()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    heads = torch.randperm(4, generator=torch.Generator().manual_seed(seed + 7))
    criteria = [*KINDS, "activation", "wanda_sp", "flap", "l1", "l2"]
    outputs, scores = [], []
    for permuted in (False, True):
        net, anatomy = tiny("llama")
        if permuted:
            _permute(anatomy.layers[1], order, heads)
        found = score_model(net, [sequences(net, ids)], criteria)  # type: ignore[arg-type]
        scores.append(found.units)
        first = found.units["taylor/param_first"]
        group = coupled_groups(anatomy.layers[1], anatomy.config)
        kept = [keep_units(first[1, k], 0.3, channels=c).tolist() for k, c in (("kv_group", 12), ("neuron", 1))]
        mask_widths(net, {1: LayerWidths.by_groups(group, *kept)})
        with torch.no_grad():
            outputs.append(net(input_ids=ids[0][None]).logits)
    for criterion in criteria:
        for key, permutation in (("neuron", order), ("kv_group", heads)):
            before, after = (s[criterion][1, key] for s in scores)
            torch.testing.assert_close(after, before[permutation], rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-12)


def _permute(layer: Any, neurons: Tensor, heads: Tensor) -> None:
    channels = (heads[:, None] * 12 + torch.arange(12)).flatten()
    attention, mlp = layer.self_attn, layer.mlp
    with torch.no_grad():
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            linear.weight.copy_(linear.weight[channels].clone())
        attention.o_proj.weight.copy_(attention.o_proj.weight[:, channels].clone())
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight.copy_(linear.weight[neurons].clone())
        mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, neurons].clone())


def test_the_network_is_left_as_it_was() -> None:
    net, _ = tiny("llama")
    frozen = net.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    net.lm_head.weight.grad = torch.ones_like(net.lm_head.weight)
    before = {n: (p.detach().clone(), p.requires_grad) for n, p in net.named_parameters()}
    score_model(net, singles(net, tokens()), KINDS, Settings(checkpointing=True))  # type: ignore[arg-type]
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
        assert (parameter.grad is None) == (name != "lm_head.weight")
    assert not frozen.requires_grad
    assert all(not m._forward_hooks and not m._forward_pre_hooks and "forward" not in vars(m) for m in net.modules())


def test_gradients_of_bfloat16_are_summed_in_float32() -> None:
    """Over many batches, against one backward pass of all: bfloat16 sums would be off by percents."""
    net, _ = tiny("llama")
    net.bfloat16()
    ids = tokens((11,) * 12)
    one, many = (score_model(net, b, ["taylor/param_first"]) for b in ([sequences(net, ids)], singles(net, ids)))
    for key, value in one.units["taylor/param_first"].items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(many.units["taylor/param_first"][key], value, rtol=0.03, atol=0)

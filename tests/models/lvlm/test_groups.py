"""Coupled rows and columns of every layout."""

from __future__ import annotations

import pytest
import torch

from runner.errors import ModelRefused
from runner.models.lvlm.anatomy import anatomy
from runner.models.lvlm.groups import LayerGroups, coupled_groups
from tests.nodes.pruning.tiny_lvlms import HEADS, HIDDEN, MLP, TEXTS, WRAPPED, network

KINDS = {"phi": "plain", "phi3": "fused", "phi3_gqa": "fused"}


def groups_of(name: str) -> LayerGroups:
    found = anatomy(network(name))
    return coupled_groups(found.layers[1], found.config)


@pytest.mark.parametrize("name", [*TEXTS, *WRAPPED])
def test_counts_and_shapes(name: str) -> None:
    groups = groups_of(name)
    is_gqa = name.endswith("_gqa") or name in {
        "qwen2",
        "qwen3",
        "mistral",
        "gemma",
        "gemma2",
        "qwen2_vl",
        "internvl",
        "smolvlm",
    }
    size = 16 if name in {"qwen3", "gemma", "gemma2"} else HIDDEN // HEADS
    attention = groups.attention
    assert (attention.kind, attention.n_heads, attention.head_dim) == ("gqa" if is_gqa else "mha", HEADS, size)
    assert attention.n_kv == (2 if is_gqa else HEADS)
    assert (groups.mlp.kind, groups.mlp.width) == (KINDS.get(name, "gated"), MLP)
    lengths = [view.shape[axis] for view, axis in groups.views("attention")]
    assert lengths == [HEADS * size, attention.n_kv * size, attention.n_kv * size, HEADS * size]
    assert all(view.shape[axis] == MLP and view.shape[1 - axis] == HIDDEN for view, axis in groups.views("mlp"))


@pytest.mark.parametrize("name", ["llama_gqa", "phi3_gqa", "phi"])
def test_views_are_the_weights_themselves_and_cover_each_matrix_once(name: str) -> None:
    groups = groups_of(name)
    with torch.no_grad():
        for linear in {
            id(groups.linear(m)): groups.linear(m) for k in ("attention", "mlp") for m in groups.members(k)
        }.values():
            linear.weight.zero_()
        for kind in ("attention", "mlp"):
            for view, _ in groups.views(kind):
                view += 1
    for member in (*groups.members("attention"), *groups.members("mlp")):
        assert bool((groups.linear(member).weight == 1).all())


def test_fused_parts_stand_where_the_network_reads_them() -> None:
    groups = groups_of("phi3_gqa")
    starts = {m.role: (m.start, m.length) for m in groups.members("attention")}
    assert starts == {"q": (0, 48), "k": (48, 24), "v": (72, 24), "o": (0, 48)}
    assert {m.role: m.start for m in groups.members("mlp")} == {"gate": 0, "up": MLP, "down": 0}


def test_gradients_are_seen_through_the_same_views() -> None:
    groups = groups_of("phi3")
    with pytest.raises(ValueError, match="no gradient"):
        groups.views("mlp", grad=True)
    weight = groups.layer.mlp.gate_up_proj.weight
    weight.grad = torch.arange(weight.numel(), dtype=torch.float32).view_as(weight)
    groups.mlp_output.weight.grad = torch.zeros_like(groups.mlp_output.weight)
    gate, up, _ = (view for view, _ in groups.views("mlp", grad=True))
    assert torch.equal(torch.cat([gate, up]), weight.grad)


def test_unknown_parameters_are_refused() -> None:
    found = anatomy(network("llama"))
    layer = found.layers[0]
    layer.self_attn.sinks = torch.nn.Parameter(torch.zeros(HEADS))
    with pytest.raises(ModelRefused, match="holds sinks"):
        coupled_groups(layer, found.config)


def test_norms_over_all_heads_are_refused() -> None:
    found = anatomy(network("llama"))
    found.layers[0].self_attn.q_norm = torch.nn.RMSNorm(HIDDEN)
    with pytest.raises(ModelRefused, match=r"holds q_norm\.weight"):
        coupled_groups(found.layers[0], found.config)


def test_other_blocks_are_refused() -> None:
    with pytest.raises(ModelRefused, match="no 'self_attn'"):
        coupled_groups(torch.nn.Linear(2, 2), anatomy(network("llama")).config)

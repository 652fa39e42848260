"""Scores of whole networks from forward passes: against plain loops, against transformers' own states, across batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from runner.errors import DataError
from runner.models.lvlm.groups import coupled_groups
from runner.nodes.pruning.apply import drop_layers, mask_layers
from runner.nodes.pruning.collecting import hooked
from runner.nodes.pruning.names import CRITERIA, OF_BLOCKS
from runner.nodes.pruning.scoring import Settings, score_model
from tests.nodes.pruning.scoring_material import own_loss, sequences, singles, tiny, tokens

FORWARD = ["block_influence", "angular", "activation", "wanda_sp", "flap"]
NAMES = ["llama", "qwen2", "phi", "phi3_gqa", "gemma2"]


def states_of(net: Any, ids: torch.Tensor) -> list[np.ndarray[Any, Any]]:
    """Hidden states as transformers gives them: the last one is after the final norm."""
    with torch.no_grad():
        found = net(input_ids=ids[None], output_hidden_states=True).hidden_states
    return [state[0].double().numpy() for state in found]


def cosines(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_block_influence_and_angles_are_those_of_the_states(name: str) -> None:
    net, _ = tiny(name)
    ids = tokens()
    found = score_model(net, [sequences(net, ids)], ["block_influence", "angular"], Settings(last_state="post_norm"))
    states = [states_of(net, own) for own in ids]
    wanted = [sum(float((1 - cosines(s[i], s[i + 1])).sum()) for s in states) for i in range(4)]
    blocks = found.blocks["block_influence"]
    np.testing.assert_allclose(blocks.total, wanted, rtol=1e-9)
    assert blocks.tokens == sum(map(len, ids))
    np.testing.assert_allclose(blocks.mean, np.array(wanted) / blocks.tokens, rtol=1e-9)
    assert found.angles is not None
    for low in range(3):
        for high in range(low + 1, 4):  # the last state is another one here: before the norm
            angle = sum(float(np.arccos(cosines(s[low], s[high])).sum()) for s in states) / np.pi / blocks.tokens
            assert float(found.angles[low, high]) == pytest.approx(angle, rel=1e-9)


def test_the_last_block_is_compared_before_the_norm_unless_asked() -> None:
    net, parts = tiny("llama")
    batch = [sequences(net, tokens())]
    pre, post = (
        score_model(net, batch, ["block_influence"], Settings(last_state=s)) for s in ("pre_norm", "post_norm")
    )  # type: ignore[arg-type]
    a, b = (s.blocks["block_influence"].total for s in (pre, post))
    assert a is not None and b is not None
    assert torch.equal(a[:3], b[:3])
    last: list[torch.Tensor] = []
    with hooked(inputs=[(parts.layers[-1], last.append), (parts.norm, last.append)]), torch.no_grad():
        net(input_ids=tokens()[0][None])
    own = 1 - cosines(*(x[0].numpy() for x in last))
    single = score_model(net, singles(net, tokens()[:1]), ["block_influence"]).blocks["block_influence"].total
    assert single is not None
    assert float(single[-1]) == pytest.approx(own.sum(), rel=1e-9)
    assert a[-1] != b[-1]


@pytest.mark.parametrize("name", NAMES)
def test_batches_and_padding_change_nothing(name: str) -> None:
    net, _ = tiny(name)
    ids = tokens()
    taylor = ["taylor/param_first", "taylor/vectorize", "taylor/param_second", "taylor/param_mix"]
    together = [sequences(net, ids, padding=9)]
    mixed = [sequences(net, ids[:2]), sequences(net, ids[2:])]
    one, two, three = (score_model(net, b, [*FORWARD, *taylor]) for b in (together, mixed, singles(net, ids)))  # type: ignore[list-item]
    for other in (two, three):
        for criterion, block in one.blocks.items():
            torch.testing.assert_close(block.mean, other.blocks[criterion].mean, rtol=1e-9, atol=0)
        for criterion, units in one.units.items():
            for key, value in units.items():
                torch.testing.assert_close(value.double(), other.units[criterion][key].double(), rtol=1e-6, atol=1e-12)


def test_sums_of_samples_and_means_of_samples() -> None:
    net, _ = tiny("qwen2")
    ids = tokens()
    alone = [score_model(net, [b], ["block_influence", "angular"]) for b in singles(net, ids)]
    whole = score_model(net, [sequences(net, ids)], ["block_influence", "angular"], Settings(aggregate="sample_mean"))
    own = [s.blocks["block_influence"] for s in alone]
    found = whole.blocks["block_influence"]
    torch.testing.assert_close(found.total, sum(b.total for b in own), rtol=1e-12, atol=0)  # type: ignore[misc]
    torch.testing.assert_close(found.mean, sum(b.mean for b in own) / 3, rtol=1e-12, atol=0)  # type: ignore[misc,operator]
    torch.testing.assert_close(whole.angles, sum(s.angles for s in alone) / 3)  # type: ignore[misc,operator]


@pytest.mark.parametrize("name", ["llama_gqa", "phi", "phi3_gqa"])
def test_forward_criteria_of_units_against_loops(name: str) -> None:
    net, parts = tiny(name)
    ids = tokens()
    found = score_model(net, [sequences(net, ids)], ["activation", "wanda_sp", "flap"])
    group = coupled_groups(parts.layers[1], parts.config)
    for kind, module, units in (
        ("kv_group", group.attention_output, group.attention.n_kv),
        ("neuron", group.mlp_output, group.mlp.width),
    ):
        seen: list[torch.Tensor] = []
        with hooked(inputs=[(module, seen.append)]), torch.no_grad():
            for own in ids:
                net(input_ids=own[None])
        samples = [x[0].numpy() for x in seen]
        tokens_ = np.concatenate(samples)
        weight = module.weight.detach().numpy()
        wanted = {
            "activation": np.stack([np.abs(s).mean(0) for s in samples]).__pow__(2).sum(0),
            "wanda_sp": np.abs(weight).sum(0) * np.sqrt((tokens_**2).sum(0)),
            "flap": tokens_.var(0, ddof=1) * (weight**2).sum(0),
        }
        for criterion, channels in wanted.items():
            folded = channels.reshape(units, -1).sum(1)
            folded = np.sqrt(folded) if criterion == "activation" else folded
            np.testing.assert_allclose(found.units[criterion][1, kind], folded, rtol=1e-9)
        place = "attention" if kind == "kv_group" else "mlp"
        np.testing.assert_allclose(found.means[1, place], tokens_.mean(0), rtol=1e-5, atol=1e-6)


def test_greedy_removal_follows_the_loss_of_the_networks_without_the_blocks() -> None:
    ids = tokens()
    net, _ = tiny("llama")
    before = net(input_ids=ids[0][None]).logits
    found = score_model(net, singles(net, ids), ["perplexity"], Settings(aggregate="sample_mean"))
    assert torch.equal(net(input_ids=ids[0][None]).logits, before)

    def loss_without(gone: tuple[int, ...]) -> float:
        cut = drop_layers(tiny("llama")[0], [i for i in range(4) if i not in gone])
        with torch.no_grad():
            return float(sum(own_loss(cut, own) for own in ids) / 3)

    gone: list[int] = []
    while len(gone) < 3:
        losses = {i: loss_without((*gone, i)) for i in range(4) if i not in gone}
        best = min(losses, key=losses.__getitem__)
        block = found.blocks["perplexity"]
        assert block.order[best] == len(gone)
        assert block.mean is not None
        assert float(block.mean[best]) == pytest.approx(losses[best], rel=1e-6)
        gone.append(best)


def test_greedy_asks_for_each_loss_once_and_remembers() -> None:
    net, _ = tiny("llama")
    asked: list[tuple[int, ...]] = []

    def losses(skipped: tuple[int, ...], compute: Any) -> float:
        asked.append(skipped)
        return float(len(skipped) * 10 + sum(skipped))

    found = score_model(net, singles(net, tokens()), ["perplexity"], Settings(greedy_depth=2), losses=losses)
    assert asked == [(0,), (1,), (2,), (3,), (0, 1), (0, 2), (0, 3)]
    assert found.blocks["perplexity"].order == [0, 1, 2, 3]


def test_orders_that_need_no_data_and_random_scores_by_seed() -> None:
    net, _ = tiny("llama_gqa")
    batch = singles(net, tokens())
    one, same, other = (score_model(net, batch, ["last", "random"], Settings(seed=s)) for s in (1, 1, 2))
    assert one.blocks["last"].order == [2, 1, 0, 3]
    assert set(one.units["random"]) == {(n, k) for n in range(4) for k in ("kv_group", "query_head", "neuron")}
    for key, value in one.units["random"].items():
        assert torch.equal(value, same.units["random"][key])
        assert not torch.equal(value, other.units["random"][key])


def test_magnitudes_are_those_of_the_rows_and_columns() -> None:
    net, _ = tiny("phi3")
    found = score_model(net, singles(net, tokens()), ["l1", "l2"])
    fused, down = (net.get_parameter(f"model.layers.2.mlp.{n}.weight") for n in ("gate_up_proj", "down_proj"))
    gate, up = fused[:40], fused[40:]
    wanted = (gate.abs().sum(1) + up.abs().sum(1) + down.abs().sum(0)) / 3
    torch.testing.assert_close(found.units["l1"][2, "neuron"], wanted.detach())
    qkv, o = (net.get_parameter(f"model.layers.2.self_attn.{n}.weight") for n in ("qkv_proj", "o_proj"))
    square = [part.square().sum(1) for part in qkv.split(48)] + [o.square().sum(0)]
    torch.testing.assert_close(found.units["l2"][2, "kv_group"], (sum(square) / 4).view(4, 12).sum(1).detach())


# --- what is refused -------------------------------------------------------------------------------------------------------


def test_no_sequence_is_refused() -> None:
    with pytest.raises(DataError, match="no calibration sequence"):
        score_model(tiny("llama")[0], [], ["block_influence"])


def test_scores_that_are_not_finite_are_named() -> None:
    net, parts = tiny("llama")
    with torch.no_grad():
        parts.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(DataError, match="criterion block_influence: scores of the blocks are not finite"):
        score_model(net, singles(net, tokens()), ["block_influence"])
    with pytest.raises(DataError, match="criterion l1: scores of layer 2, neuron are not finite"):
        score_model(net, singles(net, tokens()), ["l1"])


def test_scores_that_are_all_equal_are_named() -> None:
    net, _ = tiny("llama")
    mask_layers(net, range(4))
    with pytest.raises(DataError, match="criterion block_influence: all scores of the blocks equal 0"):
        score_model(net, singles(net, tokens()), ["block_influence"])
    with pytest.raises(DataError, match="criterion taylor/param_first: all scores of layer 0, kv_group equal 0"):
        score_model(net, singles(net, tokens()), ["taylor/param_first"])


def test_every_criterion_gives_scores_of_blocks_or_of_units() -> None:
    net, _ = tiny("llama_gqa")
    found = score_model(net, [sequences(net, tokens())], CRITERIA)
    assert set(found.blocks) == set(OF_BLOCKS)
    assert set(found.units) == set(CRITERIA) - {"block_influence", "angular", "perplexity", "last"}
    for units in found.units.values():
        assert {key: len(value) for key, value in units.items() if key[0] == 0} == {(0, "kv_group"): 2, (0, "query_head"): 4, (0, "neuron"): 40}  # fmt: skip

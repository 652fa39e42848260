"""Merged models that share one loaded network give what separately merged models give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from runner.errors import ModelRefused
from runner.nodes.merging.execution import BatchedMixtures, LowRank, MixedLinear, ResidentDeltas, shared_pictures
from tests.nodes.merging.tiny_experts import average, tiny_llama

WEIGHTS = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0], [0.1, 0.2, 0.7], [1.2, -0.4, 0.2]])


def random_factors(network: Any, seed: int, rank: int, scaling: float, only: str = "proj") -> dict[str, LowRank]:
    generator = torch.Generator().manual_seed(seed)
    linears = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear) and only in n}
    return {
        name: LowRank(
            0.2 * torch.randn(rank, module.in_features, generator=generator),
            0.2 * torch.randn(module.out_features, rank, generator=generator),
            scaling,
        )
        for name, module in linears.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny_llama()


@pytest.fixture(scope="module")
def experts(network: Any) -> list[dict[str, LowRank]]:
    """Three of different ranks and scalings; the last adapts attention only."""
    return [
        random_factors(network, 1, 4, 2.0), random_factors(network, 2, 2, 0.5),
        random_factors(network, 3, 8, 1.0, "self_attn"),
    ]  # fmt: skip


def merged(network: Any, experts: list[dict[str, LowRank]], weights: torch.Tensor) -> Any:
    """A copy whose weights are W + sum_k w_k s_k B_k A_k, multiplied out in float64."""
    import copy

    copied = copy.deepcopy(network)
    for name, module in copied.named_modules():
        if isinstance(module, nn.Linear):
            delta = sum(
                (float(w) * e[name].scaling * e[name].b.double() @ e[name].a.double())
                for w, e in zip(weights, experts, strict=True) if name in e
            )  # fmt: skip
            module.weight.data = (module.weight.data.double() + delta).float()
    return copied


@torch.no_grad()
def test_rows_of_different_mixtures_equal_separately_merged_models(network: Any, experts: Any) -> None:
    ids = torch.randint(0, 64, (4, 9), generator=torch.Generator().manual_seed(0))
    expected = torch.cat([merged(network, experts, w)(ids[i : i + 1]).logits for i, w in enumerate(WEIGHTS)])
    before = network(ids).logits
    with BatchedMixtures(network, experts) as mixtures:
        mixtures.assign(WEIGHTS)
        assert torch.allclose(network(ids).logits, expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=0.1)
    assert torch.equal(network(ids).logits, before)


@torch.no_grad()
def test_generation_with_a_cache_and_left_padding(network: Any, experts: Any) -> None:
    ids = torch.randint(1, 64, (4, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :2], ids[1, :2] = 0, 0
    settings: dict[str, Any] = {
        "max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True, "use_cache": True,
    }  # fmt: skip
    with BatchedMixtures(network, experts) as mixtures:
        mixtures.assign(WEIGHTS)
        found = network.generate(input_ids=ids, attention_mask=mask, **settings)
    for row, weights in enumerate(WEIGHTS):
        one = slice(row, row + 1)
        alone = merged(network, experts, weights).generate(input_ids=ids[one], attention_mask=mask[one], **settings)
        assert torch.equal(alone.sequences[0], found.sequences[row])
        for ours, theirs in zip(found.logits, alone.logits, strict=True):
            assert torch.allclose(ours[row], theirs[0], atol=1e-4)


def test_gradients_reach_the_input_as_in_the_merged_model(network: Any, experts: Any) -> None:
    name = "model.layers.0.self_attn.q_proj"
    linear = network.get_submodule(name)
    x = torch.randn(2, 3, 32, requires_grad=True)
    with BatchedMixtures(network, experts) as mixtures:
        mixtures.assign(WEIGHTS[:2])
        module = network.get_submodule(name)
        assert isinstance(module, MixedLinear)
        module(x).square().sum().backward()
    ours, x.grad = x.grad, None
    for row, weights in enumerate(WEIGHTS[:2]):
        weight = linear.weight + sum(
            float(w) * e[name].scaling * e[name].b @ e[name].a for w, e in zip(weights, experts, strict=True)
        )  # fmt: skip
        (x[row] @ weight.T).square().sum().backward()
    assert ours is not None and x.grad is not None and torch.allclose(ours, x.grad, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_inputs_that_are_no_samples_are_divided_among_the_copies() -> None:
    linear = nn.Linear(3, 3, bias=False)
    holder = nn.Sequential(linear)
    experts = [{"0": LowRank(torch.eye(3), torch.eye(3), 1.0)}, {"0": LowRank(torch.eye(3), -2 * torch.eye(3), 1.0)}]
    patches = torch.randn(5, 3)
    with BatchedMixtures(holder, experts) as mixtures:
        mixtures.assign(torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2), copies=2)
        found = holder(patches.repeat(2, 1))
        with pytest.raises(ValueError, match="4 samples"):
            holder(patches)
    plain = patches @ linear.weight.T
    assert torch.allclose(found, torch.cat([plain + patches, plain - 2 * patches]), atol=1e-6)


def test_what_cannot_be_batched_is_refused(network: Any) -> None:
    factors = LowRank(torch.zeros(2, 32), torch.zeros(32, 2), 1.0)
    with pytest.raises(ModelRefused, match="does not have"):
        BatchedMixtures(network, [{"model.layers.9.self_attn.q_proj": factors}])
    with pytest.raises(ModelRefused, match="Embedding"):
        BatchedMixtures(network, [{"model.embed_tokens": factors}])
    with pytest.raises(ModelRefused, match="shape"):
        BatchedMixtures(network, [{"model.layers.0.mlp.down_proj": factors}])
    with pytest.raises(ValueError, match=r"\[B, K\]"):
        BatchedMixtures(network, [{"model.layers.0.self_attn.q_proj": factors}]).assign(torch.ones(2, 3))


def noisy(network: Any, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (p.data.float() + 0.05 * torch.randn(p.shape, generator=generator)).to(p.dtype)
        for name, p in network.named_parameters()
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_resident_merges_are_the_average_and_never_drift(dtype: torch.dtype, tied: bool) -> None:
    network = tiny_llama(tied=tied).to(dtype)
    base = {name: p.data.clone() for name, p in network.named_parameters()}
    states = [noisy(network, seed) for seed in range(3)]
    resident = ResidentDeltas(network, states)
    for weights in ([0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [0.6, 0.1, 0.3]) * 20:
        resident.set(weights)
    expected = average([0.6, 0.1, 0.3], states)
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter.float(), expected[name].float(), atol=1e-6 if dtype == torch.float32 else 1e-2)
    resident.set([0.0, 1.0, 0.0])
    assert all(torch.equal(p, states[1][name]) for name, p in network.named_parameters())
    resident.reset()
    assert all(torch.equal(p, base[name]) for name, p in network.named_parameters())
    assert not tied or network.lm_head.weight is network.model.embed_tokens.weight


@torch.no_grad()
def test_resident_task_arithmetic_and_missing_tensors() -> None:
    network = tiny_llama()
    base = {name: p.data.clone() for name, p in network.named_parameters()}
    states = [noisy(network, seed) for seed in range(2)]
    key = "model.layers.1.mlp.down_proj.weight"
    del states[1][key]
    resident = ResidentDeltas(network, states)
    resident.set([0.4, 0.9])
    own = base[key].double() + 0.4 * (states[0][key].double() - base[key])
    assert torch.allclose(network.get_parameter(key).double(), own, atol=1e-6)
    other = "model.norm.weight"
    expected = base[other].double() + sum(
        w * (s[other].double() - base[other]) for w, s in zip((0.4, 0.9), states, strict=True)
    )
    assert torch.allclose(network.get_parameter(other).double(), expected, atol=1e-6)
    with pytest.raises(ModelRefused, match="no parameter 'x'"):
        ResidentDeltas(network, [{"x": torch.ones(1)}])


class Tower(nn.Module):
    """Counts the pictures it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, pixels: torch.Tensor, *, grid: torch.Tensor | None = None) -> dict[str, Any]:
        self.seen += len(pixels)
        return {"features": pixels * 2, "layers": (pixels + 1,), "grid": grid}


def test_pictures_of_copies_are_seen_once() -> None:
    tower = Tower()
    pixels, grid = torch.randn(3, 2), torch.tensor([[1, 2], [3, 4], [5, 6]])
    with shared_pictures(tower, 4):
        found = tower(pixels.repeat(4, 1), grid=grid.repeat(4, 1))
        tower(torch.arange(8.0).view(8, 1), grid=None)
    assert tower.seen == 3 + 8
    assert torch.equal(found["features"], pixels.repeat(4, 1) * 2)
    assert torch.equal(found["layers"][0], pixels.repeat(4, 1) + 1)
    assert torch.equal(found["grid"], grid.repeat(4, 1))
    tower(pixels)
    assert tower.seen == 14 and "forward" not in tower.__dict__


def test_scaling_and_bias_by_hand() -> None:
    """A mixture of one expert at weight one half is half its difference."""
    holder = nn.Sequential(nn.Linear(2, 2, bias=True))
    with BatchedMixtures(holder, [{"0": LowRank(torch.ones(1, 2), torch.ones(2, 1), 3.0)}]) as mixtures:
        mixtures.assign(torch.tensor([[0.5]]))
        with torch.no_grad():
            found = holder(torch.ones(1, 2))
    assert torch.allclose(found, holder(torch.ones(1, 2)) + 0.5 * 3.0 * 2)


@torch.no_grad()
def test_parameters_that_experts_carry_whole() -> None:
    """A projector of norm, Linear, Linear: mixing whole modules layer by layer equals mixing their parameters."""
    torch.manual_seed(0)
    projector = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))
    states = [{name: p + torch.randn_like(p) for name, p in projector.named_parameters()} for _ in range(2)]
    del states[1]["3.bias"]
    weights, x = torch.tensor([[0.3, 0.7], [1.5, -0.5]]), torch.randn(2, 5, 4)
    base = {name: p.clone() for name, p in projector.named_parameters()}
    with BatchedMixtures(projector, [{}, {}], states) as mixtures:
        mixtures.assign(weights)
        found = projector(x)
    for row, pair in enumerate(weights):
        mixed = {n: b + sum(w * (s.get(n, b) - b) for w, s in zip(pair, states, strict=True)) for n, b in base.items()}
        assert torch.allclose(found[row], torch.func.functional_call(projector, mixed, (x[row],)), atol=1e-5)
    assert torch.equal(projector(x), torch.func.functional_call(projector, base, (x,)))


def test_tied_embeddings_are_not_mixed_in_a_batch() -> None:
    network = tiny_llama(tied=True)
    whole = [{"model.embed_tokens.weight": torch.zeros(64, 32)}, {}]
    with pytest.raises(ModelRefused, match="embed_tokens"):
        BatchedMixtures(network, [{}, {}], whole)

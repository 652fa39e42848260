"""Maps, masks and vectors of part discovery: identities, and what gradients reach."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runner.models.backbones.timm_vit import planted_vit
from runner.nodes.leakage import discovery
from runner.nodes.leakage.discovery_model import (
    DiscoveryHead,
    Routes,
    hard_stage,
    kept_shares,
    modulation,
    own_copy,
    second_stage,
)
from runner.nodes.leakage.discovery_specs import HeadPlan


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _scene(seed: int = 0, batch: int = 2, patches: int = 16, width: int = 8, parts: int = 4) -> tuple[Tensor, Tensor]:
    draw = _draw(seed)
    return torch.randn(batch, patches, width, generator=draw), torch.randn(parts, width, generator=draw)


@given(st.integers(0, 10**6), st.floats(0.05, 10), st.booleans())
@settings(max_examples=25, deadline=None)
def test_maps_sum_to_1_and_follow_the_nearest_prototype(seed: int, tau: float, noisy: bool) -> None:
    tokens, prototypes = _scene(seed)
    noise = discovery.gumbel((2, 4, 16), _draw(seed)) if noisy else None
    maps = discovery.part_maps(tokens, prototypes, tau, noise)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 16))
    torch.testing.assert_close(
        discovery.part_logits(tokens, prototypes),
        -torch.cdist(tokens, prototypes[None]).square().mT,
        atol=1e-4,
        rtol=1e-4,
    )
    if not noisy:
        assert torch.equal(maps, discovery.part_maps(tokens, prototypes, tau))
        nearest = torch.cdist(tokens.double(), prototypes[None].double()).argmin(2)
        assert torch.equal(discovery.hard_slots(discovery.part_logits(tokens, prototypes)), nearest)


def test_gumbel_noise_has_its_mean_and_draws_categories() -> None:
    noise = discovery.gumbel((200_000,), _draw(0))
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.std()) == pytest.approx(math.pi / math.sqrt(6), abs=0.02)
    logits = torch.tensor([0.7, 0.2, 0.1]).log()
    drawn = (logits + discovery.gumbel((50_000, 3), _draw(1))).argmax(1)
    torch.testing.assert_close(torch.bincount(drawn) / 50_000, logits.exp(), atol=0.01, rtol=0)


def test_vectors_are_means_under_the_map_and_by_n_tell_the_area() -> None:
    tokens = torch.ones(1, 10, 3)
    maps = torch.zeros(1, 3, 10)
    maps[0, 0, :2], maps[0, 2, 2:] = 1, 1
    by_area = discovery.part_vectors(tokens, maps)
    torch.testing.assert_close(by_area[0], torch.tensor([[1.0] * 3, [0.0] * 3, [1.0] * 3]))
    torch.testing.assert_close(
        discovery.part_vectors(tokens, maps, by_area=False)[0, :, 0], torch.tensor([0.2, 0, 0.8])
    )


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_gates_are_exactly_hard_and_carry_the_gradient_of_the_maps(seed: int) -> None:
    tokens, prototypes = _scene(seed)
    maps = discovery.part_maps(tokens, prototypes, 5.0).requires_grad_()
    gates = discovery.slot_gates(maps)
    assert set(gates.flatten().tolist()) <= {0.0, 1.0}
    slots = discovery.hard_slots(maps)
    assert torch.equal(gates.sum(1), (slots < 3).float())
    weight = torch.randn(gates.shape, generator=_draw(seed))
    (gradient,) = torch.autograd.grad((gates * weight).sum(), maps)
    assert torch.equal(gradient[:, :-1], weight)
    assert not gradient[:, -1].any()
    foreground = discovery.foreground_gate(maps)
    assert torch.equal(foreground, (slots < 3).float())
    (gradient,) = torch.autograd.grad(foreground.sum(), maps)
    assert torch.equal(gradient[:, :-1], torch.ones_like(maps[:, :-1]))


def test_foreground_gate_forgets_dropped_parts() -> None:
    maps = torch.tensor([0.6, 0.1, 0.3])[None, :, None]
    keep = torch.tensor([[False, True]])
    assert discovery.foreground_gate(maps).tolist() == [[1.0]]
    assert discovery.foreground_gate(maps, keep, 0.3).tolist() == [[0.0]]


def test_annealing_goes_from_1_to_a_tenth_and_then_hard() -> None:
    assert discovery.annealed(0) == 1
    assert discovery.annealed(0.4) == pytest.approx(0.1**0.5)
    assert discovery.annealed(0.799999) == pytest.approx(0.1, rel=1e-4)
    assert discovery.annealed(0.8) == discovery.annealed(1) == 0


def test_routing_softens_or_is_hard_with_a_gradient() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0]], requires_grad=True)
    torch.testing.assert_close(discovery.routed(logits, 0.5), torch.softmax(2 * logits, 1))
    hard = discovery.routed(logits, 0.0)
    assert hard.tolist() == [[0.0, 1.0, 0.0]]
    (gradient,) = torch.autograd.grad(hard[0, 1], logits)
    assert bool(gradient.any())


def test_masked_cross_entropy_ignores_what_is_not_annotated() -> None:
    logits = torch.tensor([[0.0, 3.0], [2.0, -50.0]], requires_grad=True)
    targets = torch.tensor([[1, 0], [1, 1]])
    valid = torch.tensor([[True, False], [True, False]])
    expected = (math.log(2) + math.log1p(math.exp(-2))) / 2
    assert float(discovery.bce_attributes(logits, targets, valid).detach()) == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(discovery.bce_attributes(logits, targets, valid), logits)
    assert not gradient[:, 1].any()
    nothing = discovery.bce_attributes(logits, targets, torch.zeros(2, 2))
    assert float(nothing.detach()) == 0


def test_dropped_slots_take_their_attributes_with_them() -> None:
    shares = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]])
    left, told = kept_shares(shares, torch.tensor([[False, True, True]]))
    assert told.tolist() == [[False, False, True]]
    torch.testing.assert_close(left[0, 2], torch.tensor([0, 0.5, 0.5]))


def test_fixed_routing_reads_its_slot_only() -> None:
    head = DiscoveryHead(
        HeadPlan(3, 8, "layer_norm", "mean", "cls", 0), Routes(torch.eye(3), torch.arange(3)), two_stage=True
    )
    vectors = torch.randn(2, 3, 8, requires_grad=True)
    logits = head.attribute_logits(vectors, head.shares(1.0))
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), vectors)
    assert bool(gradient[:, 1].any())
    assert not gradient[:, [0, 2]].any()


@pytest.mark.parametrize("kind", ["layer_norm", "original", "mlp", "none"])
def test_modulations_keep_shapes_and_start_as_they_should(kind: str) -> None:
    vectors = torch.randn(2, 4, 8)
    made = modulation(kind, 4, 8)(vectors)  # type: ignore[arg-type]
    if kind == "layer_norm":
        torch.testing.assert_close(made.flatten(1).mean(1), torch.zeros(2), atol=1e-6, rtol=0)
        torch.testing.assert_close(made.flatten(1).std(1, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    else:
        torch.testing.assert_close(made, vectors)


# --- stage 2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_gated_stage_is_the_hard_stage_and_its_gradient_reaches_every_patch_and_prototype(pool: str) -> None:
    backbone = planted_vit(0)
    pixels = torch.rand(2, 3, 64, 64, generator=_draw(0))
    normalised = backbone.normalise(pixels)
    tokens = torch.randn(2, 64, 64, generator=_draw(1))
    prototypes = (0.3 * torch.randn(4, 64, generator=_draw(2))).requires_grad_()
    maps = discovery.part_maps(tokens, prototypes)
    gates = discovery.slot_gates(maps)
    gates.retain_grad()
    pictures = torch.arange(2).repeat_interleave(3)
    soft = second_stage(backbone, normalised, gates.flatten(0, 1), pictures, pool)
    hard = hard_stage(backbone, normalised, gates.flatten(0, 1).detach() > 0, pictures, pool)
    torch.testing.assert_close(soft, hard, atol=1e-5, rtol=1e-5)
    torch.autograd.backward(soft.square().sum())
    assert gates.grad is not None and prototypes.grad is not None
    if pool == "cls":  # the gradient reaches patches that were dropped, and patches that were kept
        assert bool((gates.grad[gates == 0] != 0).all()) and bool((gates.grad[gates == 1] != 0).all())
    assert bool(prototypes.grad.abs().sum(1).gt(0).all())
    assert all(not p.requires_grad for p in backbone.network.parameters())


def test_nothing_outside_a_slot_reaches_its_vector() -> None:
    backbone = planted_vit(0)
    kept = torch.zeros(2, 64, dtype=torch.bool)
    kept[:, :20] = True
    pixels = torch.rand(1, 3, 64, 64, generator=_draw(0)).repeat(2, 1, 1, 1)
    pixels[1, :, 24:] = torch.rand(3, 40, 64, generator=_draw(1))  # below the third row of patches
    normalised = backbone.normalise(pixels)
    for pool in ("cls", "mean"):
        first, second = hard_stage(backbone, normalised, kept, torch.arange(2), pool)
        assert torch.equal(first, second)
        gated = second_stage(backbone, normalised, kept.float(), torch.arange(2), pool)
        assert torch.equal(gated[0], gated[1])


def test_an_empty_slot_tells_nothing_of_the_picture_with_and_without_a_prefix() -> None:
    from tiny_backbones import TINY

    for name in ("timm_vit", "siglip"):
        backbone = TINY[name]()
        assert bool(backbone.prefix_tokens) == (name == "timm_vit")
        patches = (backbone.image_size // backbone.patch_sizes[0]) ** 2
        normalised = torch.randn(2, 3, backbone.image_size, backbone.image_size, generator=_draw(0))
        nothing = torch.zeros(2, patches)
        for made in (
            second_stage(backbone, normalised, nothing, torch.arange(2)),
            hard_stage(backbone, normalised, nothing.bool(), torch.arange(2)),
        ):
            assert bool(made.isfinite().all()), name
            torch.testing.assert_close(made[0], made[1], msg=name)


def test_a_copy_has_weights_of_its_own() -> None:
    backbone = planted_vit(0)
    copied = own_copy(backbone, train=True)
    pixels = torch.rand(1, 3, 64, 64, generator=_draw(0))
    before = backbone.embed(pixels)
    with torch.no_grad():
        for parameter in copied.network.parameters():  # type: ignore[attr-defined]
            parameter.add_(1)
    assert torch.equal(backbone.embed(pixels), before)
    assert not torch.equal(copied.embed(pixels), before)


# --- interventions ---------------------------------------------------------------------------------------------------


def test_patches_of_low_confidence_become_background() -> None:
    tokens, prototypes = _scene(3, batch=4)
    slots = discovery.hard_slots(discovery.part_maps(tokens, prototypes))
    levels = torch.tensor([0.1, 0.5])
    found = discovery.low_confidence_thresholds(tokens.flatten(0, 1), prototypes, slots.flatten(), levels)
    fewer = discovery.remove_low_confidence(slots, tokens, prototypes, found.thresholds[1])
    for slot in range(3):
        held = int((slots == slot).sum())
        assert int((fewer == slot).sum()) in (held - held // 2, held // 2)
    assert torch.equal(discovery.remove_low_confidence(slots, tokens, prototypes, torch.full((3,), -torch.inf)), slots)


def test_leaving_one_out_touches_no_other_slot() -> None:
    slots = torch.tensor([[0, 1, 2, 1]])
    assert discovery.leave_one_out(slots, 1, 3).tolist() == [[0, 3, 2, 3]]

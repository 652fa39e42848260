"""What every transformer backbone must do, on one tiny network a family."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from tiny_backbones import SIDE, TINY, TRANSFORMERS, layers, model, pixels, timm_eva, timm_vit
from torch import Tensor

from runner.models.backbones.transformer import TokenBackbone

CLOSE = 1e-5


@cache
def tiny(name: str) -> Any:
    backbone = TINY[name]()
    assert isinstance(backbone, TokenBackbone)
    return backbone


@pytest.fixture(params=TRANSFORMERS)
def backbone(request: pytest.FixtureRequest) -> Any:
    return tiny(request.param)


def own_forward(backbone: Any, normalised: Tensor) -> Tensor:
    """The library's own last tokens, normed."""
    network, name = backbone.network, backbone.name.partition("/")[2]
    if name.startswith("timm"):
        found = network.forward_features(normalised)
        return network.fc_norm(found) if isinstance(network.norm, torch.nn.Identity) else found
    if name.startswith("open_clip"):
        return network.ln_post(network.transformer(network._embeds(normalised)))
    found = network(normalised).last_hidden_state
    return network.post_layernorm(found) if name == "clip" else found


def in_order(backbone: Any, normalised: Tensor, found: Tensor) -> Tensor:
    """Tokens of the masked autoencoder's own forward, which come shuffled, in the order of the picture."""
    noise = torch.arange(backbone.patches, dtype=torch.float32).expand(len(normalised), -1)
    return backbone.network(normalised, noise=noise).last_hidden_state if backbone.name == "tiny/mae" else found


@torch.no_grad()
def test_layer_by_layer_is_the_library_s_own_forward(backbone: Any) -> None:
    images = pixels(3)
    found = backbone.norm(layers(backbone, images)[-1])
    normalised = backbone.normalise(images)
    expected = in_order(backbone, normalised, own_forward(backbone, normalised))
    assert found.shape == (3, backbone.prefix_tokens + (SIDE // 8) ** 2, 32)
    assert (found - expected).abs().max() < CLOSE
    assert found.std() > 0.5


@torch.no_grad()
def test_patches_stand_row_by_row(backbone: Any) -> None:
    """Layer 0 sees one patch only: a change of one patch's pixels moves its token and no other."""
    images = pixels(1)
    changed = images.clone()
    changed[:, :, 8:16, 24:32] = 0  # row 1, column 3 of four by four
    moved = (backbone.embed(images) - backbone.embed(changed)).abs().amax((0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == [backbone.prefix_tokens + 7]


def everywhere(backbone: Any, count: int) -> Tensor:
    return torch.arange(-backbone.prefix_tokens, backbone.patches).clamp(min=-1).expand(count, -1)


@torch.no_grad()
def test_a_permuted_sequence_gives_a_permuted_output(backbone: Any) -> None:
    tokens, order = backbone.embed(pixels(2)), torch.randperm(backbone.prefix_tokens + backbone.patches)
    positions = everywhere(backbone, 2)
    for number in range(1, backbone.depth + 1):
        found = backbone.block(number, tokens[:, order], positions=positions[:, order])
        tokens = backbone.block(number, tokens)
        assert (found - tokens[:, order]).abs().max() < CLOSE


@torch.no_grad()
def test_dropping_tokens_is_forbidding_to_read_them(backbone: Any) -> None:
    """Two pictures whose kept patches differ: the rows of rotary positions are picked a picture."""
    generator = torch.Generator().manual_seed(3)
    length, prefix = backbone.prefix_tokens + backbone.patches, backbone.prefix_tokens
    kept = torch.stack([torch.randperm(backbone.patches, generator=generator)[:5] + prefix for _ in range(2)])
    kept = torch.cat([torch.arange(prefix).expand(2, -1), kept], 1)
    allowed = torch.zeros(2, 1, length, dtype=torch.bool).scatter(2, kept.unsqueeze(1), True).expand(-1, length, -1)
    tokens = backbone.embed(pixels(2))
    few = tokens.gather(1, kept.unsqueeze(-1).expand(-1, -1, 32))
    positions = everywhere(backbone, 2).gather(1, kept)
    for number in range(1, backbone.depth + 1):
        tokens = backbone.block(number, tokens, allowed=allowed)
        few = backbone.block(number, few, positions=positions)
        assert (tokens.gather(1, kept.unsqueeze(-1).expand(-1, -1, 32)) - few).abs().max() < CLOSE


@torch.no_grad()
def test_allowing_everything_and_a_gate_of_ones_are_the_plain_block(backbone: Any) -> None:
    tokens = backbone.embed(pixels(2))
    length = tokens.shape[1]
    plain = backbone.block(1, tokens)
    allowed = backbone.block(1, tokens, allowed=torch.ones(1, length, length, dtype=torch.bool))
    gated = backbone.block(1, tokens, gate=torch.ones(2, length))
    assert (allowed - plain).abs().max() < CLOSE
    assert (gated - plain).abs().max() < CLOSE


def test_a_forbidden_key_has_exactly_no_influence(backbone: Any) -> None:
    tokens = backbone.embed(pixels(1)).requires_grad_()
    length = tokens.shape[1]
    allowed = torch.ones(1, length, length, dtype=torch.bool)
    allowed[..., -3:] = False
    found = backbone.block(1, tokens, allowed=allowed)[:, :-3]
    gradient = torch.autograd.grad(found.pow(2).sum(), tokens)[0]
    assert (gradient[:, -3:] == 0).all()
    assert (gradient[:, :-3] != 0).any()
    with torch.no_grad():
        other = tokens.clone()
        other[:, -3:] = 100 * torch.randn_like(other[:, -3:])
        assert torch.equal(backbone.block(1, other, allowed=allowed)[:, :-3], found)
        assert not torch.allclose(backbone.block(1, other)[:, :-3], found, atol=1e-3)


def test_a_hard_gate_is_the_mask_and_passes_gradient_to_kept_and_dropped_keys(backbone: Any) -> None:
    tokens = backbone.embed(pixels(2))
    length = tokens.shape[1]
    gate = torch.ones(2, length)
    gate[0, -5:] = 0
    gate[1, backbone.prefix_tokens : backbone.prefix_tokens + 3] = 0
    with torch.no_grad():
        expected = backbone.block(1, tokens, allowed=(gate > 0).unsqueeze(1).expand(-1, length, -1))
    found = backbone.block(1, tokens, gate=gate.requires_grad_())
    assert (found - expected).abs().max() < CLOSE
    gradient = torch.autograd.grad(found.pow(2).sum(), gate)[0]
    assert (gradient[gate > 0] != 0).any()
    assert (gradient[gate == 0] != 0).all()


@torch.no_grad()
def test_attention_is_a_distribution_that_is_not_degenerate(backbone: Any) -> None:
    for number, tokens in enumerate(layers(backbone, pixels(2))[:-1], start=1):
        shown = backbone.attention(number, tokens)
        length = tokens.shape[1]
        assert shown.shape == (2, 4, length, length)
        assert (shown.sum(-1) - 1).abs().max() < CLOSE
        assert (shown > 0).all()
        assert 1.2 / length < shown.amax(-1).mean() < 0.95


@torch.no_grad()
def test_attention_shown_is_the_attention_used(backbone: Any) -> None:
    """A query that may read one key only must get that key's value: compare with the weights after removing the others."""
    tokens = backbone.embed(pixels(1))
    length = tokens.shape[1]
    shown = backbone.attention(1, tokens).mean((0, 1))
    strongest = shown.argmax(-1)
    allowed = torch.ones(1, length, length, dtype=torch.bool)
    allowed[0, torch.arange(length), strongest] = False
    weakest = torch.ones_like(allowed)
    weakest[0, torch.arange(length), shown.argmin(-1)] = False
    plain = backbone.block(1, tokens)
    without_strongest = (backbone.block(1, tokens, allowed=allowed) - plain).norm(dim=-1).mean()
    without_weakest = (backbone.block(1, tokens, allowed=weakest) - plain).norm(dim=-1).mean()
    assert without_strongest > 2 * without_weakest


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_registers", "dinov3", "siglip", "vit", "deit", "clip"])
@torch.no_grad()
def test_hidden_states_of_transformers(kind: str) -> None:
    backbone = tiny(kind)
    images = pixels(2)
    states = backbone.network(backbone.normalise(images), output_hidden_states=True).hidden_states
    found = layers(backbone, images)
    assert len(states) == len(found) == backbone.depth + 1
    for ours, theirs in zip(found, states, strict=True):
        assert (ours - theirs).abs().max() < CLOSE


@torch.no_grad()
def test_intermediate_tokens_of_timm() -> None:
    for name in ("timm_vit", "timm_registers", "timm_eva"):
        backbone = tiny(name)
        images = pixels(2)
        theirs = backbone.network.forward_intermediates(
            backbone.normalise(images), output_fmt="NLC", intermediates_only=True, norm=False
        )
        for ours, each in zip(layers(backbone, images)[1:], theirs, strict=True):
            assert (ours[:, backbone.prefix_tokens :] - each).abs().max() < CLOSE


@torch.no_grad()
def test_the_autoencoder_s_own_forward_shuffles_and_ours_does_not() -> None:
    network, backbone = model("mae").eval(), tiny("mae")
    normalised = backbone.normalise(pixels(1))
    own = network(normalised)
    assert (own.ids_restore != torch.arange(backbone.patches)).any()
    restored = own.last_hidden_state[:, 1:].gather(1, own.ids_restore.unsqueeze(-1).expand(-1, -1, 32))
    found = backbone.norm(layers(backbone, pixels(1))[-1])[:, 1:]
    assert (found - restored).abs().max() < CLOSE


@torch.no_grad()
def test_kinds_of_rotary_positions() -> None:
    """Interleaved, half-rotated and learnt a block: a permuted sequence keeps its answer in each."""
    for options in (
        {"rope_type": "cat", "rope_rotate_half": False},
        {"rope_type": "mixed", "rope_rotate_half": False, "num_reg_tokens": 0},
        {"rope_type": "cat", "use_abs_pos_emb": True, "qkv_fused": False},
    ):
        backbone = timm_eva(**options)
        tokens = backbone.embed(pixels(1))
        order = torch.randperm(tokens.shape[1])
        for number in range(1, backbone.depth + 1):
            found = backbone.block(number, tokens[:, order], positions=everywhere(backbone, 1)[:, order])
            unturned = backbone.block(number, tokens, positions=torch.full((1, tokens.shape[1]), -1))
            tokens = backbone.block(number, tokens)
            assert (found - tokens[:, order]).abs().max() < CLOSE
            assert (unturned - tokens).abs().max() > 1e-3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@torch.no_grad()
def test_half_precision_keeps_the_softmax_in_float32(precision: Any) -> None:
    from dataclasses import replace

    from tiny_backbones import about, drawn

    from runner.models.backbones.timm_vit import timm_backbone

    exact = tiny("timm_vit")
    from timm.models.vision_transformer import VisionTransformer

    network = drawn(VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=0))
    half = timm_backbone(network, replace(about("tiny/timm_vit"), precision=precision))
    tokens = half.embed(half.normalise(pixels(2)))
    assert tokens.dtype == half.dtype != torch.float32
    shown = half.attention(1, tokens)
    assert shown.dtype == torch.float32
    assert (shown.sum(-1) - 1).abs().max() < CLOSE
    found, expected = (each.norm(layers(each, pixels(2))[-1]) for each in (half, exact))
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, expected, dim=-1).min() > 0.999
    assert half.identity != exact.identity


def test_gradients_reach_the_pixels(backbone: Any) -> None:
    images = pixels(1).requires_grad_()
    found = backbone.norm(layers(backbone, images)[-1])[:, -1]
    gradient = torch.autograd.grad(found.pow(2).sum() / 2 + found.sum(), images)[0]
    assert math.isfinite(float(gradient.abs().sum()))
    assert (gradient != 0).float().mean() > 0.9
    assert not any(parameter.requires_grad for parameter in backbone.network.parameters())


def test_wrong_calls_are_refused(backbone: Any) -> None:
    tokens = backbone.embed(pixels(1))
    for number in (0, backbone.depth + 1):
        with pytest.raises(ValueError, match=rf"blocks 1 \.\. {backbone.depth}, not {number}"):
            backbone.block(number, tokens)
    with pytest.raises(ValueError, match="not both"):
        backbone.block(1, tokens, gate=torch.ones(1, 9), allowed=torch.ones(1, 9, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"takes pixels \[B, 3, 32, 32\], not \[1, 3, 40, 40\]"):
        backbone.embed(pixels(1, 40))


def test_identity_follows_weights_geometry_and_nothing_else() -> None:
    assert timm_vit().identity == tiny("timm_vit").identity
    assert len({tiny(name).identity for name in TRANSFORMERS}) == len(TRANSFORMERS)

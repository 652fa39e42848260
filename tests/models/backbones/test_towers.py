"""Towers of CLIP models, and convolutional networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_backbones import TINY, convolutional, drawn, layers, open_clip_tower, pixels

from runner import assets
from runner.errors import ModelRefused
from runner.models.backbones.open_clip import clip_tower
from runner.models.backbones.providers import ClipTower
from runner.models.encoders.clip import load_local
from runner.models.registry import Services

# --- CLIP ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip() -> Any:
    return load_local(assets.ensure("small-clip").path, None, device="cpu", half=False)


@torch.no_grad()
def test_the_tower_of_the_small_clip_gives_its_embedding(clip: Any) -> None:
    tower = ClipTower(provider="clip_tower", clip="$clip").load(Services(linked={"clip": clip}))
    assert (tower.image_size, tower.patch_sizes[0], tower.depth, tower.prefix_tokens) == (64, 8, 6, 1)
    assert tower.small
    assert "small CLIP" in tower.notes[0]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 70, 3), np.uint8))
    images = torch.from_numpy(tower.prepare(picture)).unsqueeze(0)
    expected = clip.network.encode_image(tower.normalise(images))
    found = tower.project(tower.norm(layers(tower, images)[-1])[:, 0])
    assert found is not None
    assert (found - expected).abs().max() < 1e-5


@torch.no_grad()
def test_an_edited_clip_has_another_tower(clip: Any) -> None:
    before = clip_tower(clip).identity
    weight = clip.network.visual.transformer.resblocks[2].attn.out_proj.weight
    old = weight.clone()
    weight[0] += 1
    try:
        assert clip_tower(clip).identity != before
    finally:
        weight.copy_(old)
    assert clip_tower(clip).identity == before


@torch.no_grad()
def test_variants_of_the_tower() -> None:
    """Layer scale, no norm before the blocks, and open_clip's own attention with normed queries and keys."""
    for options in (
        {"ls_init_value": 1e-5, "no_ln_pre": True},
        {"block_type": "custom", "qk_norm": True, "scale_attn_inner": True},
    ):
        try:
            tower: Any = open_clip_tower(**options)
        except ModelRefused as refused:  # its attention may be another one: then it says so instead of masking nothing
            assert "called the fused attention of torch 0 times" in refused.message
            continue
        images = pixels(2)
        network = tower.network
        expected = network.ln_post(network.transformer(network._embeds(tower.normalise(images))))
        assert (tower.norm(layers(tower, images)[-1]) - expected).abs().max() < 1e-5


def test_towers_that_cannot_be_read() -> None:
    from types import SimpleNamespace

    from open_clip.modified_resnet import ModifiedResNet

    visual = ModifiedResNet([1, 1, 1, 1], 16, 2, image_size=64, width=16)
    handle: Any = SimpleNamespace(
        network=SimpleNamespace(visual=visual), name="RN", family="f", device="cpu", small=False
    )
    with pytest.raises(ModelRefused, match=r"RN: its vision tower \(ModifiedResNet\) is no vision transformer"):
        clip_tower(handle)
    with pytest.raises(ModelRefused, match="pools with attention before the final norm"):
        open_clip_tower(attentional_pool=True, attn_pooler_heads=2, attn_pooler_queries=4)


@torch.no_grad()
def test_a_tower_of_timm_inside_a_clip() -> None:
    from types import SimpleNamespace

    from open_clip.timm_model import TimmModel

    visual = TimmModel("test_vit", 16, image_size=64, pool="avg", proj="linear")
    drawn(visual)
    handle: Any = SimpleNamespace(
        network=SimpleNamespace(visual=visual.eval()), name="C", family="siglip", device="cpu", small=False
    )
    tower: Any = clip_tower(handle)
    images = pixels(1, 64)
    expected = visual.trunk.forward_features(tower.normalise(images))
    assert (tower.norm(layers(tower, images)[-1]) - expected).abs().max() < 1e-5


# --- convolutional ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["resnet", "convnext"])
def network(request: pytest.FixtureRequest) -> Any:
    return convolutional(request.param)


@torch.no_grad()
def test_maps_are_the_library_s_own_features(network: Any) -> None:
    images = network.normalise(pixels(2, 64))
    maps = network.maps(images)
    assert [each.shape[1] for each in maps] == list(network.widths)
    assert [64 // each.shape[-1] for each in maps] == list(network.patch_sizes)
    assert (network.depth, network.prefix_tokens, network.kind_of_layers) == (4, 0, "maps")
    assert (maps[-1] - network.network.forward_features(images)).abs().max() < 1e-5
    vectors = maps[-1].flatten(2).mean(2)
    assert network.norm(vectors) is vectors


def test_the_stem_sees_its_neighbourhood_only(network: Any) -> None:
    images = pixels(1, 64).requires_grad_()
    first = network.maps(images)[0][..., 8, 8].sum()
    reached = torch.autograd.grad(first, images)[0].abs().sum((0, 1)).nonzero()
    assert reached.min() >= 32 - 12
    assert reached.max() <= 36 + 12


def test_maps_of_a_picture_do_not_depend_on_the_batch(network: Any) -> None:
    images = network.normalise(pixels(3, 64))
    together, alone = network.maps(images)[-1][:1], network.maps(images[:1])[-1]
    assert (together - alone).abs().max() < 1e-5


def test_there_are_no_tokens(network: Any) -> None:
    for call in (lambda: network.embed(pixels(1, 64)), lambda: network.block(1, pixels(1, 64))):
        with pytest.raises(ModelRefused, match=r"has maps, not tokens\n.*pixel_fill or crop"):
            call()
    with pytest.raises(ModelRefused, match="has tokens, not maps"):
        TINY["timm_vit"]().maps(pixels(1))

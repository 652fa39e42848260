"""Backbones from files, folders and published names; what cannot be read is refused with one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from tiny_backbones import about, configuration, drawn, layers, model, pixels

from runner.errors import AssetError, ModelRefused
from runner.models.backbones.huggingface import huggingface_backbone
from runner.models.backbones.loading import lineage, load_huggingface, load_timm
from runner.models.backbones.providers import Timm, VisionHuggingFace
from runner.models.backbones.timm_vit import planted_vit
from runner.models.registry import Services, load_providers

KINDS = ["dinov2", "dinov2_registers", "dinov3", "clip", "siglip", "mae", "vit", "deit"]
SMALL = "vit_tiny_patch16_224"
FIRST = "cls_token"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    def saved(kind: str) -> Path:
        model(kind).save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return saved


def last(backbone: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = backbone.norm(layers(backbone, pixels(1, backbone.image_size))[-1])
    return found


# --- transformers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_its_weights(kind: str, folder: Any) -> None:
    backbone = load_huggingface(folder(kind))
    assert (backbone.image_size, backbone.depth, backbone.random_init) == (32, 3, False)
    expected = model(kind).state_dict()
    found = backbone.network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items() if name in found)
    assert last(backbone).std() > 0.5


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_another_size_interpolates_positions_as_the_library_does(kind: str, folder: Any) -> None:
    backbone: Any = load_huggingface(folder(kind), image_size=48)
    network, images = model(kind).eval(), backbone.normalise(pixels(2, 48))
    options = {} if kind.startswith("dinov") else {"interpolate_pos_encoding": True}
    if kind == "mae":
        options["noise"] = torch.arange(36.0).expand(2, -1)
    expected = network(images, **options).last_hidden_state
    expected = network.post_layernorm(expected) if kind == "clip" else expected
    tokens = backbone.embed(images)
    for number in range(1, 4):
        tokens = backbone.block(number, tokens)
    assert (backbone.norm(tokens) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_weights_come_from_the_config_and_the_seed(kind: str, tmp_path: Path) -> None:
    configuration(kind).save_pretrained(tmp_path)
    before = torch.random.get_rng_state()
    first, again, other = (load_huggingface(tmp_path, random_init=True, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.random_init
    assert first.family == "random"
    assert torch.equal(last(first), last(again))
    assert not torch.equal(last(first), last(other))
    assert first.identity == again.identity != other.identity


@torch.no_grad()
def test_a_whole_clip_brings_its_projection(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    text = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 50,
    }
    vision = configuration("clip").to_dict()
    whole = drawn(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))).eval()
    whole.save_pretrained(tmp_path)
    backbone = load_huggingface(tmp_path)
    images = pixels(2)
    expected = whole.get_image_features(backbone.normalise(images))
    expected = getattr(expected, "pooler_output", expected)
    found = backbone.project(backbone.norm(layers(backbone, images)[-1])[:, 0])
    assert found is not None
    assert found.shape == (2, 16)
    assert (found - expected).abs().max() < 1e-5


def test_preprocessing_is_the_folder_s(folder: Any) -> None:
    path = folder("dinov2")
    assert load_huggingface(path).mean == (0.485, 0.456, 0.406)
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "resample": 2, "size": {"shortest_edge": 999}}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    backbone = load_huggingface(path)
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert (backbone.geometry.size, backbone.geometry.short_side, backbone.geometry.interpolation) == (
        32,
        32,
        "bilinear",
    )


def test_folders_that_cannot_be_read(folder: Any, tmp_path: Path) -> None:
    path = folder("vit")
    with pytest.raises(ModelRefused, match="image_size 30 is no multiple of the patch size 8\n  Take 24 or 32"):
        load_huggingface(path, image_size=30)
    (path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelRefused, match="vit: transformers cannot load it"):
        load_huggingface(path)
    save_file({"layernorm.weight": torch.ones(32)}, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelRefused, match=r"weights are missing or do not fit: embeddings\.cls_token"):
        load_huggingface(path)
    (path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    with pytest.raises(
        ModelRefused, match=r"'swin' is no backbone that can be read layer by layer\n.*dinov2, dinov2_with"
    ):
        load_huggingface(path)
    with pytest.raises(AssetError, match=r"weights of nobody/none are not available.*HF_HUB_OFFLINE"):
        load_huggingface(None, "nobody/none")


# --- timm ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm

    network = drawn(timm.create_model(SMALL))  # with its head, as published files have it
    path = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    save_file(network.state_dict(), path, {"runner": json.dumps({"small": True, "notes": ["made up"]})})
    return path


@torch.no_grad()
def test_a_file_of_timm_s_names_at_another_size(checkpoint: Path) -> None:
    import timm
    from safetensors.torch import load_file

    backbone: Any = load_timm(SMALL, checkpoint=checkpoint, image_size=64)
    assert (backbone.image_size, backbone.patches, backbone.small, backbone.notes) == (64, 16, True, ("made up",))
    assert backbone.family == "supervised"
    network = timm.create_model(SMALL, img_size=64)
    network.load_state_dict(
        timm.models.vision_transformer.checkpoint_filter_fn(load_file(checkpoint), network, interpolation="bicubic")
    )
    images = backbone.normalise(pixels(1, 64))
    assert (last(backbone) - network.eval().forward_features(images)).abs().max() < 1e-4
    assert load_timm(SMALL, checkpoint=checkpoint).identity != backbone.identity


def test_files_that_cannot_be_read(checkpoint: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "weights.pth"
    torch.save({}, pickled)
    with pytest.raises(ModelRefused, match="read from safetensors only"):
        load_timm(SMALL, checkpoint=pickled)
    short = tmp_path / "short.safetensors"
    save_file({"cls_token": torch.zeros(1, 1, 192)}, short)
    with pytest.raises(ModelRefused, match="tensors do not fit the network"):
        load_timm(SMALL, checkpoint=short)
    with pytest.raises(ModelRefused, match="image_size 100 is no multiple of the patch size 16\n  Take 96 or 112"):
        load_timm(SMALL, checkpoint=checkpoint, image_size=100)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_smal", "timm has no model 'vit_smal'\n  Did you mean vit_small_"),
        (f"{SMALL}.nope", "timm cannot build 'vit_tiny_patch16_224.nope'"),
        ("mobilenetv3_small_050", "timm's MobileNetV3 is no backbone that can be read layer by layer"),
        ("test_beit", "timm has no model"),
    ],
)
def test_names_that_cannot_be_read(name: str, message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        load_timm(name, random_init=True)


def test_published_weights_that_are_not_there() -> None:
    with pytest.raises(AssetError, match=f"weights of {SMALL} are not available: they are not in the local cache"):
        load_timm(SMALL)


def test_untrained_timm_follows_its_seed() -> None:
    first, again, other = (load_timm("test_vit", random_init=True, seed=seed) for seed in (1, 1, 2))
    assert first.identity == again.identity != other.identity
    assert first.random_init
    with pytest.raises(ModelRefused, match="image_size 40 is no multiple of its largest stride 32\n  Take 32 or 64"):
        load_timm("test_resnet", random_init=True, image_size=40)


def test_the_planted_transformer_is_the_same_everywhere() -> None:
    by_name = load_timm("tiny_planted", seed=0)
    assert by_name.identity == planted_vit().identity != planted_vit(1).identity
    assert (by_name.image_size, by_name.patch_sizes, by_name.widths, by_name.depth) == (64, (8,) * 5, (64,) * 5, 4)
    weight = by_name.network.blocks[2].mlp.fc2.weight  # type: ignore[attr-defined]
    assert float(weight.std()) == pytest.approx(256**-0.5, rel=0.02)


def test_lineage_by_name() -> None:
    told = {
        "vit_small_patch14_reg4_dinov2.lvd142m": "dinov2",
        "vit_base_patch16_dinov3.lvd1689m": "dinov3",
        "vit_base_patch16_224.dino": "dino",
        "vit_base_patch16_clip_224.openai": "openai-clip",
        "vit_base_patch16_clip_224.laion2b": "laion-clip",
        "vit_base_patch16_siglip_224.webli": "siglip",
        "vit_base_patch16_224.mae": "mae",
        "vit_base_patch16_224.augreg_in21k": "supervised",
        "resnet50.a1_in1k": "supervised",
    }
    assert {name: lineage(name) for name in told} == told


# --- providers -------------------------------------------------------------------------------------------------------


def test_providers_load_what_the_spec_says(folder: Any, checkpoint: Path) -> None:
    assert {"timm", "vision_huggingface", "clip_tower"} <= set(load_providers())
    context = {"base": checkpoint.parent}
    config = Timm.model_validate(
        {"provider": "timm", "name": SMALL, "checkpoint": checkpoint.name, "image_size": 32}, context=context
    )
    assert config.load(Services()).image_size == 32
    path = folder("siglip")
    found = VisionHuggingFace.model_validate(
        {"provider": "vision_huggingface", "path": path.name, "precision": "bf16"}, context={"base": path.parent}
    )
    assert found.load(Services()).prefix_tokens == 0
    assert "device" not in found.identity()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "../etc"}, "should match pattern"),
        ({"name": SMALL, "image_size": 10**6}, "less than or equal to 4096"),
        ({"name": SMALL, "image_size": 100}, "image_size 100 is no multiple of the patch size 16"),
        ({"name": "tiny_planted", "image_size": 32}, "tiny_planted has 64 x 64 pixels"),
        (
            {"name": SMALL, "checkpoint": "weights.safetensors", "random_init": True},
            "untrained weights take no checkpoint",
        ),
    ],
)
def test_specs_that_are_refused(config: dict[str, Any], message: str, checkpoint: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        Timm.model_validate(config | {"provider": "timm"}, context={"base": checkpoint.parent})


def test_one_source_of_a_transformers_model() -> None:
    for config in ({}, {"name": "a/b", "path": "."}):
        with pytest.raises(ValidationError, match="give path"):
            VisionHuggingFace.model_validate(config | {"provider": "vision_huggingface"}, context={"base": Path()})


# --- untrained, and what is refused ----------------------------------------------------------------------------------


@torch.no_grad()
def moved(backbone: Any) -> float:
    """How far a quadrant's single-stage vector turns when all other pixels change: 1 - cosine, the least of four pictures."""
    from runner.nodes.leakage.dependence import cosine_distance
    from runner.nodes.leakage.features import single_stage

    side = backbone.image_size
    masks = torch.zeros(4, 1, side, side, dtype=torch.bool)
    half = side // 2 // backbone.patch_sizes[0] * backbone.patch_sizes[0]
    masks[..., :half, :half] = True
    first, other = pixels(4, side, 0), pixels(4, side, 1)
    vectors = (single_stage(backbone, each, masks) for each in (first, torch.where(masks, first, other)))
    return float(cosine_distance(*vectors).min())


def test_an_untrained_network_mixes_its_patches(tmp_path: Path) -> None:
    from transformers import Dinov2Config

    config = Dinov2Config(hidden_size=192, num_hidden_layers=8, num_attention_heads=3, patch_size=8, image_size=32)
    config.save_pretrained(tmp_path)
    for backbone in (
        load_timm("vit_small_patch14_dinov2", random_init=True, image_size=56),
        load_huggingface(tmp_path, random_init=True),
    ):
        assert moved(backbone) > 1e-3, backbone.name
        assert backbone.name.endswith(" (untrained, seed 0)")
        scales = 2 * backbone.depth
        assert len(backbone.notes) == 1 and f"each of its {scales} layer scales set to 1 (ours" in backbone.notes[0]


def test_layer_scales_are_found_in_every_library() -> None:
    import timm

    from runner.models.backbones.weights import open_layer_scales

    assert open_layer_scales(model("dinov3")) == 6
    assert open_layer_scales(timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))) == 4
    eva: Any = timm.models.eva.Eva(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, init_values=1e-5)
    before = {name: each.clone() for name, each in eva.named_parameters()}
    assert open_layer_scales(eva) == 4
    changed = {name for name, each in eva.named_parameters() if not torch.equal(each, before[name])}
    assert changed == {f"blocks.{b}.gamma_{i}" for b in (0, 1) for i in (1, 2)}
    plain = load_timm("test_vit", random_init=True)
    assert plain.notes == ("untrained: weights as the library draws them with seed 0",)


def test_untrained_networks_of_old_and_now_are_told_apart() -> None:
    trained, untrained = (Timm(provider="timm", name=SMALL, random_init=each).identity() for each in (False, True))
    assert "layer_scales" not in trained and untrained["layer_scales"] == 1


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "vitamin_small_224"])
def test_networks_with_a_convolutional_stem_are_refused(name: str) -> None:
    with pytest.raises(ModelRefused, match="no token that reads the pixels of one patch alone before block 1"):
        load_timm(name, random_init=True)


def test_an_overlapping_projection_is_refused() -> None:
    from torch import nn

    network: Any = model("vit")
    network.embeddings.patch_embeddings.projection = nn.Conv2d(3, 32, 10, stride=8, padding=1)
    with pytest.raises(ModelRefused, match="no token that reads the pixels of one patch alone"):
        huggingface_backbone(network, about("overlapping"))

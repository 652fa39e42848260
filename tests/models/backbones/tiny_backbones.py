"""One tiny backbone with random weights a family; a test puts this folder on ``sys.path`` (see ``conftest.py``)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from runner.data.geometry import Geometry
from runner.models.backbones.convolutional import ConvolutionalBackbone
from runner.models.backbones.huggingface import huggingface_backbone
from runner.models.backbones.open_clip import clip_tower
from runner.models.backbones.timm_vit import HALF, timm_backbone
from runner.models.backbones.transformer import About
from runner.models.backbones.weights import draw_by_fan_in, seeded
from runner.models.base import VisionBackbone

SIDE = 32


def about(name: str, side: int = SIDE) -> About:
    return About(name, "random", Geometry(side, side), HALF, HALF, random_init=True)


def drawn(network: Any) -> Any:
    """Weights by fan-in; positions and tokens large enough to matter."""
    return draw_by_fan_in(network, 1, token_std=0.5)


def timm_vit(**options: Any) -> VisionBackbone:
    from timm.models.vision_transformer import VisionTransformer

    small = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0}
    return timm_backbone(drawn(VisionTransformer(**(small | options))), about("tiny/timm_vit"))


def timm_distilled() -> VisionBackbone:
    from timm.models.deit import VisionTransformerDistilled

    network = VisionTransformerDistilled(img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0)
    return timm_backbone(drawn(network), about("tiny/timm_distilled"))


def timm_eva(**options: Any) -> VisionBackbone:
    from timm.models.eva import Eva

    small = {
        "img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0,
        "num_reg_tokens": 2, "use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3",
        "rope_rotate_half": True, "init_values": 1e-5, "global_pool": "token", "dynamic_img_size": True,
    }  # fmt: skip
    return timm_backbone(drawn(Eva(**(small | options))), about("tiny/timm_eva"))


def configuration(kind: str) -> Any:
    """A tiny configuration of transformers."""
    import transformers as hf

    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 8, "image_size": SIDE}
    wide = size | {"intermediate_size": 64}
    return {
        "dinov2": lambda: hf.Dinov2Config(**size, mlp_ratio=2),
        "dinov2_registers": lambda: hf.Dinov2WithRegistersConfig(**size, mlp_ratio=2, num_register_tokens=2),
        "dinov3": lambda: hf.DINOv3ViTConfig(**wide, num_register_tokens=2),
        "clip": lambda: hf.CLIPVisionConfig(**wide, projection_dim=16),
        "siglip": lambda: hf.SiglipVisionConfig(**wide),
        "mae": lambda: hf.ViTMAEConfig(**wide, mask_ratio=0.0),
        "vit": lambda: hf.ViTConfig(**wide),
        "deit": lambda: hf.DeiTConfig(**wide),
    }[kind]()


def model(kind: str) -> Any:
    """A tiny model of transformers with random weights."""
    import transformers as hf

    classes = {
        "dinov2": hf.Dinov2Model, "dinov2_registers": hf.Dinov2WithRegistersModel, "dinov3": hf.DINOv3ViTModel,
        "clip": hf.CLIPVisionModel, "siglip": hf.SiglipVisionModel, "mae": hf.ViTMAEModel, "vit": hf.ViTModel,
        "deit": hf.DeiTModel,
    }  # fmt: skip
    options = {"add_pooling_layer": False} if kind in ("vit", "deit") else {}
    return drawn(classes[kind](configuration(kind), **options))


def huggingface(kind: str) -> VisionBackbone:
    return huggingface_backbone(model(kind), about(f"tiny/{kind}"))


def open_clip_tower(**options: Any) -> VisionBackbone:
    from open_clip.transformer import VisionTransformer

    network = VisionTransformer(
        **({"image_size": SIDE, "patch_size": 8, "width": 32, "layers": 3, "heads": 4, "mlp_ratio": 2.0} | options),
        output_dim=16,
    )
    handle = SimpleNamespace(
        network=SimpleNamespace(visual=drawn(network)),
        name="tiny/open_clip",
        family="random",
        device="cpu",
        small=False,
    )
    return clip_tower(handle)  # type: ignore[arg-type]


def convolutional(name: str) -> VisionBackbone:
    import timm

    options: dict[str, Any] = {
        "resnet": {"model_name": "resnet10t", "channels": (8, 16, 24, 32), "stem_width": 8},
        "convnext": {"model_name": "convnext_atto", "depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    }[name]
    with seeded(0):
        network = timm.create_model(**options, num_classes=0)
    return ConvolutionalBackbone(network, about(f"tiny/{name}", 64))


TINY: dict[str, Callable[[], VisionBackbone]] = {
    "timm_vit": timm_vit,
    "timm_registers": lambda: timm_vit(reg_tokens=2, no_embed_class=True, init_values=1e-5),
    "timm_no_cls": lambda: timm_vit(class_token=False, global_pool="avg"),
    "timm_distilled": timm_distilled,
    "timm_eva": timm_eva,
    "dinov2": lambda: huggingface("dinov2"),
    "dinov2_registers": lambda: huggingface("dinov2_registers"),
    "dinov3": lambda: huggingface("dinov3"),
    "clip": lambda: huggingface("clip"),
    "siglip": lambda: huggingface("siglip"),
    "mae": lambda: huggingface("mae"),
    "vit": lambda: huggingface("vit"),
    "deit": lambda: huggingface("deit"),
    "open_clip": open_clip_tower,
    "resnet": lambda: convolutional("resnet"),
    "convnext": lambda: convolutional("convnext"),
}
TRANSFORMERS = tuple(name for name in TINY if name not in ("resnet", "convnext"))


def pixels(count: int = 2, side: int = SIDE, seed: int = 0) -> torch.Tensor:
    """Pictures float32 [count, 3, side, side] in 0..1."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def layers(backbone: VisionBackbone, images: torch.Tensor) -> list[torch.Tensor]:
    """Tokens of layers 0 .. depth."""
    found = [backbone.embed(backbone.normalise(images))]
    for number in range(1, backbone.depth + 1):
        found.append(backbone.block(number, found[-1]))
    return found

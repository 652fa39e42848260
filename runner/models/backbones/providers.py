"""Providers of vision backbones in a spec: ``timm``, ``vision_huggingface``, ``clip_tower``. Light: imported to validate."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from runner.models.base import ClipModel, VisionBackbone
from runner.models.registry import ModelConfig, Services, model_link, provider
from runner.references import InputPath
from runner.steps import ModelHandle

LARGEST_SIDE = 4096


class _Backbone(ModelConfig):
    """What the backbones of both libraries take."""

    kind: ClassVar[type[ModelHandle]] = VisionBackbone
    image_size: int | None = Field(
        default=None, ge=8, le=LARGEST_SIDE, description="side of the input in pixels; none = the checkpoint's own"
    )
    random_init: bool = Field(
        default=False, description="the published architecture with untrained weights and layer scales of 1 (a control)"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of untrained weights")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="attention stays in float32")
    device: str | None = Field(default=None, description="cpu, cuda, mps; none = the run's")

    def identity(self) -> dict[str, Any]:
        """Everything but the device; untrained networks as they are made now, with open layer scales."""
        untrained = {"layer_scales": 1} if self.random_init else {}
        return self.model_dump(mode="python", exclude={"device"}) | untrained


@provider("timm")
class Timm(_Backbone):
    """A vision transformer, ResNet or ConvNeXt of timm; without `checkpoint` its published weights are fetched."""

    provider: Literal["timm"] = "timm"
    name: str = Field(
        pattern=r"^\w[\w.\-]{0,199}$",
        description="timm's name, with a tag where it has several weights (vit_small_patch14_dinov2.lvd142m), or "
        "tiny_planted: the untrained 64-pixel transformer of the leakage checks",
    )
    checkpoint: InputPath | None = Field(default=None, description="safetensors file with timm's names, or asset:NAME")

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Timm:
        if self.checkpoint is not None and (self.random_init or self.name == "tiny_planted"):
            raise ValueError("untrained weights take no checkpoint")
        if self.name == "tiny_planted" and self.image_size not in (None, 64):
            raise ValueError("tiny_planted has 64 x 64 pixels")
        return self

    @model_validator(mode="after")
    def _whole_patches(self) -> Timm:
        """Where timm's name tells the patch size, a size that does not fit is refused before anything is loaded."""
        patch = re.search(r"_patch(\d{1,3})(?=[_.]|$)", self.name)
        if patch and self.image_size and int(patch[1]) and self.image_size % int(patch[1]):
            raise ValueError(f"image_size {self.image_size} is no multiple of the patch size {patch[1]}")
        return self

    def load(self, services: Services) -> VisionBackbone:
        """Load. Raises ``ModelRefused`` or ``AssetError``."""
        from runner.models.backbones.loading import load_timm

        return load_timm(
            self.name,
            checkpoint=None if self.checkpoint is None else services.resolve(self.checkpoint),
            image_size=self.image_size,
            random_init=self.random_init,
            seed=self.seed,
            precision=self.precision,
            device=self.device or services.device,
        )


@provider("vision_huggingface")
class VisionHuggingFace(_Backbone):
    """A vision transformer of transformers: DINOv2, DINOv3, CLIP, SigLIP, MAE, ViT or DeiT."""

    provider: Literal["vision_huggingface"] = "vision_huggingface"
    path: InputPath | None = Field(default=None, description="folder with config.json and model.safetensors")
    name: str | None = Field(
        default=None, pattern=r"^[\w.\-]+/[\w.\-]+(@[\w.\-]+)?$", description="on the hub: OWNER/NAME, with @REVISION"
    )

    @model_validator(mode="after")
    def _one_source(self) -> VisionHuggingFace:
        if (self.path is None) == (self.name is None):
            raise ValueError("give path (a local folder) or name (of a model on the hub)")
        return self

    def load(self, services: Services) -> VisionBackbone:
        """Load. Raises ``ModelRefused`` or ``AssetError``."""
        from runner.models.backbones.loading import load_huggingface

        return load_huggingface(
            None if self.path is None else services.resolve(self.path),
            self.name,
            image_size=self.image_size,
            random_init=self.random_init,
            seed=self.seed,
            precision=self.precision,
            device=self.device or services.device,
        )


@provider("clip_tower")
class ClipTower(ModelConfig):
    """The vision tower of a CLIP model of this spec, edited or not, at its own size and precision."""

    kind: ClassVar[type[ModelHandle]] = VisionBackbone
    provider: Literal["clip_tower"] = "clip_tower"
    clip: model_link(ClipModel) = Field(description="a CLIP model of this spec: $name")  # type: ignore[valid-type]

    def load(self, services: Services) -> VisionBackbone:
        """Load. Raises ``ModelRefused``."""
        from runner.models.backbones.loading import clip_tower

        return clip_tower(services.linked["clip"])

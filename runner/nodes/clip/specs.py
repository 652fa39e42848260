"""What a spec may say of the network and of its training. Light: nothing heavy is imported here."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

VOCABULARY = 49_408
"""Tokens of CLIP's byte-pair encoding."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel statistics that stock CLIP models are normalised by."""


class ClipSize(BaseModel):
    """Size of the network: a plain vision transformer with a class token, and a causal text transformer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(default=64, ge=8, le=512, description="side of the picture, in pixels")
    patch: int = Field(default=8, ge=2, le=64, description="side of a patch, in pixels")
    width: int = Field(default=192, ge=8, le=2048)
    layers: int = Field(default=6, ge=1, le=48)
    head_width: int = Field(default=32, ge=4, le=256, description="of both towers")
    text_width: int = Field(default=160, ge=8, le=2048)
    text_layers: int = Field(default=4, ge=1, le=48)
    context_length: int = Field(default=32, ge=4, le=256, description="most tokens of a text, start and end included")
    embed_dim: int = Field(default=128, ge=4, le=384, description="of the space that both towers share")

    @model_validator(mode="after")
    def _whole_parts(self) -> ClipSize:
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch {self.patch}")
        for name, width in (("width", self.width), ("text_width", self.text_width)):
            if width % self.head_width:
                raise ValueError(f"{name} {width} is no multiple of head_width {self.head_width}")
        if self.embed_dim > self.width:
            raise ValueError(
                f"embed_dim {self.embed_dim} is larger than width {self.width}: its projection has no inverse"
            )
        return self

    def open_clip(self) -> dict[str, Any]:
        """``model_cfg`` of open_clip."""
        vision = {
            "image_size": self.image_size,
            "patch_size": self.patch,
            "width": self.width,
            "layers": self.layers,
            "head_width": self.head_width,
        }
        text = {
            "context_length": self.context_length,
            "vocab_size": VOCABULARY,
            "width": self.text_width,
            "heads": self.text_width // self.head_width,
            "layers": self.text_layers,
        }
        return {"embed_dim": self.embed_dim, "vision_cfg": vision, "text_cfg": text}


class Training(BaseModel):
    """How the network is trained: AdamW, a linear warm-up, then a cosine to zero."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(ge=1, le=10_000_000)
    batch: int = Field(default=256, ge=2, le=65_536, description="pictures in a step")
    text_batch: int = Field(default=256, ge=0, le=65_536, description="further texts in a step, for the teacher only")
    lr: float = Field(default=1e-3, gt=0, le=1)
    warmup: int = Field(default=50, ge=0)
    weight_decay: float = Field(default=0.1, ge=0, le=10)
    clip_norm: float = Field(default=1.0, gt=0)
    patch_dropout: float = Field(default=0.5, ge=0, lt=1, description="share of patches left out of a step (FLIP)")
    whole_share: float = Field(default=0.2, ge=0, le=1, description="share of the steps, the last ones, on all patches")
    paste: float = Field(
        default=0.0, ge=0, le=1, description="share of the cut-outs that are shown on a photograph of the same batch"
    )
    bf16: bool = Field(default=True, description="multiply matrices in bfloat16")
    contrastive_weight: float = Field(default=1.0, ge=0)
    text_weight: float = Field(default=2.0, ge=0, description="of 1 - cos with the sentence encoder")
    image_weight: float = Field(default=2.0, ge=0, description="of 1 - cos with the image backbone, seen as text")
    feature_weight: float = Field(default=1.0, ge=0, description="of 1 - cos of an extra linear map with the backbone")
    log_every: int = Field(default=10, ge=1)
    save_every: int = Field(default=100, ge=1, description="steps between two saved states; a killed run loses these")

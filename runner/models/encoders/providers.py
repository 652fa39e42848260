"""Providers of encoders in a spec: ``open_clip``, ``embedded_mini``, ``minilm``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from runner.models.base import ClipModel, ImageTextEncoder, SentenceEncoder
from runner.models.registry import ModelConfig, Services, provider, step_link
from runner.references import AssetRef, InputPath
from runner.steps import ModelHandle

TINYVIT = AssetRef("asset:tinyvit-5m")
MINILM = AssetRef("asset:minilm")


@provider("open_clip")
class OpenClip(ModelConfig):
    """A CLIP model of open_clip: ``weights`` is a published tag, ``checkpoint`` a local safetensors file or folder."""

    kind: ClassVar[type[ModelHandle]] = ClipModel
    provider: Literal["open_clip"] = "open_clip"
    name: str | None = Field(default=None, pattern=r"^[\w.\-]+$", description="model, such as ViT-B-32")
    weights: str | None = Field(default=None, description="published tag, such as laion2b_s34b_b79k")
    checkpoint: InputPath | None = Field(
        default=None, description="safetensors file, or folder with open_clip_config.json"
    )
    written: step_link("folder") | None = Field(  # type: ignore[valid-type]
        default=None, description="output `checkpoint` of a step that writes one: $edit.checkpoint"
    )
    device: str | None = Field(default=None, description="cpu, cuda, mps; none = the run's")
    precision: Literal["fp32", "fp16"] = "fp32"

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> OpenClip:
        if sum(source is not None for source in (self.weights, self.checkpoint, self.written)) != 1:
            raise ValueError("give weights (a published tag), checkpoint (a local path) or written (a step's output)")
        if self.weights is not None and self.name is None:
            raise ValueError("weights need the name of their model, such as ViT-B-32")
        return self

    def identity(self) -> dict[str, Any]:
        """Everything but the device."""
        return self.model_dump(mode="python", exclude={"device"})

    def load(self, services: Services) -> ClipModel:
        """Load. Raises ``ModelRefused`` or ``AssetError``."""
        from runner.models.encoders.clip import load_local, load_tag

        device, half = self.device or services.device, self.precision == "fp16"
        if self.written is not None:
            return load_local(services.linked["written"], None, device=device, half=half)
        if self.checkpoint is not None:
            return load_local(services.resolve(self.checkpoint), self.name, device=device, half=half)
        return load_tag(str(self.name), str(self.weights), device=device, half=half)


@provider("embedded_mini")
class EmbeddedMiniConfig(ModelConfig):
    """The small image-text encoder that is fitted on this machine (step encoder.fit_mini): modest, measured, offline."""

    kind: ClassVar[type[ModelHandle]] = ImageTextEncoder
    provider: Literal["embedded_mini"] = "embedded_mini"
    head: step_link("folder") = Field(description="output `head` of a step encoder.fit_mini: $name.head")  # type: ignore[valid-type]
    head_kind: Literal["ridge", "contrastive", "mean"] = Field(
        default="mean", description="ridge: best for naming classes; contrastive: best for retrieval; mean: both"
    )
    backbone: InputPath = TINYVIT
    sentences: InputPath = MINILM
    threads: int | None = Field(default=None, ge=1, le=256, description="threads of onnxruntime; none = all cores")

    def identity(self) -> dict[str, Any]:
        """Everything but the threads."""
        return self.model_dump(mode="python", exclude={"threads"})

    def load(self, services: Services) -> ImageTextEncoder:
        """Load both towers and the head. Raises ``ModelRefused`` or ``AssetError``."""
        from runner.models.encoders.mini import EmbeddedMini
        from runner.models.encoders.sentence import MeanPooled

        sentences = MeanPooled(services.resolve(self.sentences))
        return EmbeddedMini(
            services.linked["head"],
            services.resolve(self.backbone),
            sentences,
            kind=self.head_kind,
            threads=self.threads,
        )


@provider("minilm")
class MiniLM(ModelConfig):
    """A sentence encoder in a sentence-transformers folder with mean pooling (all-MiniLM-L6-v2)."""

    kind: ClassVar[type[ModelHandle]] = SentenceEncoder
    provider: Literal["minilm"] = "minilm"
    folder: InputPath = Field(default=MINILM, description="the model's folder, or asset:NAME")
    max_tokens: int = Field(
        default=256, ge=8, le=8192, description="longer texts are cut; open-world scores are published with 512"
    )

    def load(self, services: Services) -> SentenceEncoder:
        """Load. Raises ``ModelRefused`` or ``AssetError``."""
        from runner.models.encoders.sentence import MeanPooled

        return MeanPooled(services.resolve(self.folder), device=services.device, max_tokens=self.max_tokens)

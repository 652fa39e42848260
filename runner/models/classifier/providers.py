"""Providers of classifiers in a spec: ``huggingface``, ``file``, ``zero_shot``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from runner.models.base import Classifier, ImageTextEncoder
from runner.models.classifier.loader import load_classifier
from runner.models.classifier.preprocess import PreprocessSpec
from runner.models.registry import ModelConfig, Services, model_link, provider
from runner.references import InputPath
from runner.steps import ModelHandle

_SPEED_ONLY = {"batch_size", "threads"}


class _FromPath(ModelConfig):
    """What classifiers from a path share."""

    kind: ClassVar[type[ModelHandle]] = Classifier
    path: InputPath = Field(description="the model's file or folder, or asset:NAME")
    labels: list[str] | None = Field(default=None, description="one name for each output, in output order")
    labels_file: InputPath | None = Field(default=None, description="or a text file with one name a line")
    preprocess: Literal["auto"] | PreprocessSpec = Field(
        default="auto", description="auto reads the model's own files; else size, crop, mean, std, ..."
    )
    head: Literal["softmax", "multilabel"] = Field(default="softmax", description="one of many, or several at once")
    batch_size: int = Field(default=64, ge=1, le=4096, description="images in one forward pass; changes no result")

    @model_validator(mode="after")
    def _one_source_of_labels(self) -> _FromPath:
        if self.labels is not None and self.labels_file is not None:
            raise ValueError("give labels or labels_file, not both")
        return self

    def identity(self) -> dict[str, Any]:
        """Everything but the speed settings."""
        return self.model_dump(mode="python", exclude=_SPEED_ONLY)

    def _load(self, services: Services, **more: Any) -> Classifier:
        from runner.models.classifier.labels import read_labels

        named = self.labels if self.labels_file is None else read_labels(services.resolve(self.labels_file))
        return load_classifier(
            services.resolve(self.path),
            labels=named,
            preprocess=self.preprocess,
            head=self.head,
            device=services.device,
            batch_size=self.batch_size,
            **more,
        )


@provider("huggingface")
class HuggingFaceClassifier(_FromPath):
    """A local Hugging Face image-classification folder (safetensors only, no code of its own)."""

    provider: Literal["huggingface"] = "huggingface"

    def load(self, services: Services) -> Classifier:
        """Load and check. Raises ``ModelRefused``."""
        return self._load(services, format="huggingface")


@provider("file")
class FileClassifier(_FromPath):
    """A classifier in a file or folder of any supported format, recognised from its content."""

    provider: Literal["file"] = "file"
    format: Literal["auto", "huggingface", "timm", "safetensors", "state_dict", "onnx"] = Field(
        default="auto", description="refuse the file unless it is this; auto takes what it is"
    )
    architecture: str | None = Field(
        default=None,
        pattern=r"^(timm|torchvision|runner):[\w.\-]+$",
        description="network of bare weights: timm:resnet18, torchvision:resnet50, runner:cifar_resnet56",
    )
    threads: int | None = Field(default=None, ge=1, le=256, description="threads of onnxruntime; none = all cores")

    def load(self, services: Services) -> Classifier:
        """Load and check. Raises ``ModelRefused``."""
        return self._load(services, format=self.format, architecture=self.architecture, threads=self.threads)


@provider("zero_shot")
class ZeroShot(ModelConfig):
    """An image-text encoder used as a classifier: each label becomes a prompt."""

    kind: ClassVar[type[ModelHandle]] = Classifier
    provider: Literal["zero_shot"] = "zero_shot"
    encoder: model_link(ImageTextEncoder) = Field(description="an image-text encoder of this spec: $name")  # type: ignore[valid-type]
    labels: list[str] = Field(min_length=2, description="the classes")
    templates: list[str] = Field(default=["a photo of a {}"], min_length=1, description="prompts; {} is the label")

    def load(self, services: Services) -> Classifier:
        """Embed the prompts. Raises ``ModelRefused`` for labels or templates that cannot be used."""
        from runner.models.classifier.checks import check_classifier
        from runner.models.classifier.zero_shot import ZeroShotClassifier

        classifier = ZeroShotClassifier(services.linked["encoder"], self.labels, self.templates)
        check_classifier(classifier)
        return classifier

"""Providers of classifiers in a spec: ``huggingface``, ``file``, ``zero_shot``, ``concept_head``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from runner.models.base import Classifier, ImageTextEncoder, VisionBackbone
from runner.models.classifier.loader import load_classifier
from runner.models.classifier.preprocess import PreprocessSpec
from runner.models.registry import ModelConfig, Services, model_link, provider, step_link
from runner.references import InputPath
from runner.steps import ModelHandle

_NO_EFFECT = {"batch_size", "threads", "trust", "sha256"}
"""What changes no result: the file itself enters the key by what it contains."""


HubName = Annotated[str, Field(pattern=r"^hf-hub:[\w.\-]+/[\w.\-]+(@[\w.\-]+)?$")]


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
    trust: Literal["none", "code"] = Field(
        default="none", description="code: this one file, pinned by sha256, may run its code in a confined process"
    )
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="the file must have this SHA-256; folders: their weights"
    )

    @model_validator(mode="after")
    def _one_source_of_labels(self) -> _FromPath:
        if self.labels is not None and self.labels_file is not None:
            raise ValueError("give labels or labels_file, not both")
        return self

    def identity(self) -> dict[str, Any]:
        """Everything but what changes no result."""
        return self.model_dump(mode="python", exclude=_NO_EFFECT)

    def _load(self, services: Services, **more: Any) -> Classifier:
        from runner.models.classifier.hub import HUB, fetch
        from runner.models.classifier.labels import read_labels

        place = fetch(self.path) if self.path.startswith(HUB) else services.resolve(self.path)
        named = self.labels if self.labels_file is None else read_labels(services.resolve(self.labels_file))
        return load_classifier(
            place,
            labels=named,
            preprocess=self.preprocess,
            head=self.head,
            device=services.device,
            batch_size=self.batch_size,
            trust=self.trust,
            sha256=self.sha256,
            **more,
        )


@provider("huggingface")
class HuggingFaceClassifier(_FromPath):
    """A local Hugging Face image-classification folder (safetensors; pytorch_model.bin after opting in; no code)."""

    provider: Literal["huggingface"] = "huggingface"

    def load(self, services: Services) -> Classifier:
        """Load and check. Raises ``ModelRefused``."""
        return self._load(services, format="huggingface")


@provider("file")
class FileClassifier(_FromPath):
    """A classifier in a file or folder of any supported format, recognised from its content."""

    provider: Literal["file"] = "file"
    path: InputPath | HubName = Field(
        description="the model's file or folder, asset:NAME, or hf-hub:OWNER/NAME[@REVISION] of a timm model"
    )
    format: Literal[
        "auto", "huggingface", "timm", "safetensors", "state_dict", "onnx", "keras", "keras_h5", "runner_model",
        "torchscript", "pt2", "pickled_module", "pickle",
    ] = Field(default="auto", description="refuse the file unless it is this; auto takes what it is")  # fmt: skip
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
    """An image-text encoder used as a classifier: each label becomes a prompt, or a vector that a step debiased."""

    kind: ClassVar[type[ModelHandle]] = Classifier
    provider: Literal["zero_shot"] = "zero_shot"
    encoder: model_link(ImageTextEncoder) = Field(description="an image-text encoder of this spec: $name")  # type: ignore[valid-type]
    labels: list[str] = Field(min_length=2, description="the classes; with vectors, in the order of their queries")
    templates: list[str] | None = Field(
        default=None, min_length=1, description="prompts; {} is the label; default: a photo of a {}"
    )
    vectors: step_link("arrays") | None = Field(  # type: ignore[valid-type]
        default=None,
        description="class vectors in place of prompts: output `vectors` of debias.texts: $debiased.vectors",
    )
    method: str | None = Field(default=None, min_length=1, max_length=60, description="label of the method in vectors")

    @model_validator(mode="after")
    def _prompts_or_vectors(self) -> ZeroShot:
        if (self.vectors is None) != (self.method is None):
            raise ValueError("give vectors and method (a label of debias.texts), or neither")
        if self.vectors is not None and self.templates is not None:
            raise ValueError("templates would be ignored: the class vectors come from a step")
        return self

    def load(self, services: Services) -> Classifier:
        """Embed the prompts, or take the vectors. Raises ``ModelRefused`` for what cannot be used."""
        from runner.models.classifier.checks import check_classifier
        from runner.models.classifier.zero_shot import DEFAULT_TEMPLATES, ZeroShotClassifier, debiased

        encoder: ImageTextEncoder = services.linked["encoder"]
        if self.vectors is None:
            classifier = ZeroShotClassifier(encoder, self.labels, self.templates or DEFAULT_TEMPLATES)
        else:
            classifier = debiased(encoder, self.labels, services.linked["vectors"], str(self.method))
        check_classifier(classifier)
        return classifier


@provider("concept_head")
class ConceptHead(ModelConfig):
    """A vision backbone with a linear head of concepts that the step leakage.fit_concepts fitted; one sigmoid an attribute."""

    kind: ClassVar[type[ModelHandle]] = Classifier
    provider: Literal["concept_head"] = "concept_head"
    backbone: model_link(VisionBackbone) = Field(description="the vision backbone that it was fitted on: $name")  # type: ignore[valid-type]
    head: step_link("folder") = Field(description="output `head` of a step leakage.fit_concepts: $name.head")  # type: ignore[valid-type]
    labels: dict[str, str] | None = Field(
        default=None,
        min_length=1,
        description="labels of these concepts only: {red hair: 'hair: red'}; none = all, by attribute",
    )

    def load(self, services: Services) -> Classifier:
        """Read the head. Raises ``ModelRefused`` where it is of another backbone."""
        from runner.models.classifier.checks import check_classifier
        from runner.models.classifier.concept_head import ConceptHeadClassifier, read_head, relabelled

        head = read_head(services.linked["head"])
        classifier = ConceptHeadClassifier(services.linked["backbone"], relabelled(head, self.labels))
        check_classifier(classifier)
        return classifier

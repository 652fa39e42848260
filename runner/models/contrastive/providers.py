"""Providers ``contrastive`` and ``composed``: answers without a multimodal model. Light: imported to validate a spec."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from runner.models.base import ChatModel, Classifier, ImageTextEncoder
from runner.models.registry import ModelConfig, Services, model_link, provider, step_link
from runner.steps import ModelHandle


@provider("contrastive")
class Contrastive(ModelConfig):
    """Names pictures by embeddings, as a baseline where a multimodal model is asked. It is no language model.

    Of a question it reads only the structure: the last picture is named; a picture followed by a line ``label: ...`` or
    ``current labels: ...`` is an example; lines beginning with ``- `` are the classes. Without examples and classes the
    answer is the nearest text of the vocabulary.
    """

    kind: ClassVar[type[ModelHandle]] = ChatModel
    provider: Literal["contrastive"] = "contrastive"
    encoder: model_link(ImageTextEncoder) = Field(description="an image-text encoder of this spec: $name")  # type: ignore[valid-type]
    vocabulary: step_link("folder") = Field(description="output `index` of a step classify.vocabulary: $name.index")  # type: ignore[valid-type]
    template: str | None = Field(
        None,
        max_length=300,
        description="what is embedded of a label, such as `a photo of a {}`; none = the vocabulary's",
    )
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the texts; the rest is the vote of the examples")
    sharpness: float = Field(5.5, ge=0, le=1000, description="of the examples' vote: exp(sharpness x cosine)")
    shortlist: int = Field(64, ge=1, le=10_000, description="nearest texts of the vocabulary that are compared")
    further: int = Field(5, ge=0, le=1000, description="texts of the vocabulary beside the labels of the examples")
    label_pattern: str | None = Field(
        None, max_length=200, description="regular expression of a line of labels, which are its one group"
    )
    batch_size: int = Field(16, ge=1, le=1024, description="questions answered together")

    @field_validator("template")
    @classmethod
    def _one_place(cls, value: str | None) -> str | None:
        if value is not None and value.count("{}") != 1:
            raise ValueError("write {} once, where the label goes, such as 'a photo of a {}'")
        return value

    @field_validator("label_pattern")
    @classmethod
    def _one_group(cls, value: str | None) -> str | None:
        try:
            groups = 1 if value is None else re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if groups != 1:
            raise ValueError("write one group, around the labels, such as `label: (.*)`")
        return value

    def identity(self) -> dict[str, Any]:
        """Everything but the batch size."""
        return self.model_dump(mode="python", exclude={"batch_size"})

    def load(self, services: Services) -> ChatModel:
        """Read the vocabulary. Raises ``DataError``, or ``ModelRefused`` where another encoder embedded it."""
        from runner.models.chat.cache import ReplyCache
        from runner.models.chat.client import ClientSettings
        from runner.models.chat.sender import Patience
        from runner.models.contrastive.backend import ContrastiveBackend, ContrastiveClient, Options
        from runner.models.contrastive.reading import LABEL_PATTERN
        from runner.models.contrastive.vocabulary import read_vocabulary

        encoder: ImageTextEncoder = services.linked["encoder"]
        vocabulary = read_vocabulary(services.linked["vocabulary"], encoder.identity)
        options = Options(
            template=self.template or vocabulary.template, alpha=self.alpha, sharpness=self.sharpness, shortlist=self.shortlist,
            further=self.further, label_pattern=self.label_pattern or LABEL_PATTERN,
        )  # fmt: skip
        name = f"contrastive ({encoder.name})"
        backend = ContrastiveBackend(encoder, vocabulary, options, name=name, batch_size=self.batch_size)
        settings = ClientSettings(
            self.provider, name, backend.identity,
            concurrency=4 * self.batch_size, patience=Patience(timeout=None, deadline=None),
        )  # fmt: skip
        return ContrastiveClient(backend, ReplyCache(services.cache / "replies.sqlite"), settings)


@provider("composed")
class ComposedConfig(ModelConfig):
    """A language model that reads machine-made descriptions in place of pictures. It sees no picture.

    Each picture becomes one line: the nearest texts of the vocabulary, and what ``detector`` takes it for.
    """

    kind: ClassVar[type[ModelHandle]] = ChatModel
    provider: Literal["composed"] = "composed"
    llm: model_link(ChatModel) = Field(description="the language model: $name")  # type: ignore[valid-type]
    encoder: model_link(ImageTextEncoder) = Field(description="an image-text encoder of this spec: $name")  # type: ignore[valid-type]
    vocabulary: step_link("folder") = Field(description="output `index` of a step classify.vocabulary: $name.index")  # type: ignore[valid-type]
    detector: model_link(Classifier) | None = Field(None, description="a classifier of this spec: $name")  # type: ignore[valid-type]
    nearest: int = Field(5, ge=1, le=50, description="texts named for a picture")
    labels: int = Field(3, ge=1, le=50, description="most labels of the detector that are named")
    threshold: float = Field(0.2, ge=0, le=1, description="least probability of a label that is named")

    def load(self, services: Services) -> ChatModel:
        """Read the vocabulary. Raises ``DataError``, or ``ModelRefused`` where another encoder embedded it."""
        from runner.models.contrastive.composed import Composed, Describer, Wording
        from runner.models.contrastive.vocabulary import read_vocabulary

        llm: ChatModel = services.linked["llm"]
        encoder: ImageTextEncoder = services.linked["encoder"]
        detector: Classifier | None = services.linked.get("detector")
        vocabulary = read_vocabulary(services.linked["vocabulary"], encoder.identity)
        wording = Wording(nearest=self.nearest, labels=self.labels, threshold=self.threshold)
        parts = [llm.name, encoder.name, *([detector.name] if detector else [])]
        describer = Describer(encoder, vocabulary, detector, wording)
        return Composed(llm, describer, name=f"composed ({' + '.join(parts)})")

"""The provider ``composed``: a language model that is told, in words of a machine, what the pictures show.

Each picture of a question is replaced by one bracketed line: the nearest texts of a vocabulary, and what a classifier
says. The language model sees no picture, so the pair is no multimodal model, and its name says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from runner.context import StepContext
from runner.data.images import decode
from runner.errors import EndpointError
from runner.models.base import (
    ChatModel,
    ChatReply,
    ChatRequest,
    Classifier,
    ImagePart,
    ImageSupport,
    ImageTextEncoder,
    Message,
)
from runner.models.contrastive.pictures import Embedder, Memory, content_key
from runner.models.contrastive.scoring import softmax
from runner.models.contrastive.vocabulary import TextVectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

NOTICE = (
    "No picture itself can be shown to you. In place of each stands one line in square brackets that a machine wrote: "
    "the texts of a fixed list that are nearest to the picture, nearest first"
)
_DETECTED = ", and what a classifier takes it for, with its confidence"
_CAREFUL = ". Such lines can be wrong. Take them as all you know of the picture, and answer as if you saw it."
_MAX_TEXT = 80
_SHOWN = str.maketrans('[]"<>', "()'  ")


@dataclass(frozen=True)
class Wording:
    """``nearest``: texts named for a picture; ``labels``: most labels of the classifier, from ``threshold`` on."""

    nearest: int = 5
    labels: int = 3
    threshold: float = 0.2


class Describer:
    """One line for a picture, the same in every call. Thread-safe."""

    def __init__(
        self, encoder: ImageTextEncoder, vocabulary: TextVectors, detector: Classifier | None, wording: Wording
    ) -> None:
        self._vocabulary, self._detector, self._wording = vocabulary, detector, wording
        self._embed = Embedder(encoder, vocabulary.template, vocabulary)
        self._lines: Memory[str] = Memory()
        self._lock = threading.Lock()

    @property
    def notice(self) -> str:
        """What the language model must know of the lines."""
        return NOTICE + (_DETECTED if self._detector else "") + _CAREFUL

    def describe(self, pictures: Iterable[ImagePart]) -> dict[str, str]:
        """Lines by ``content_key``. Raises ``EndpointError`` (scope ``item``) for a picture that cannot be read."""
        by_key = {content_key(picture): picture for picture in pictures}
        with self._lock:
            return self._lines.many(by_key, lambda keys: self._described([by_key[key] for key in keys]))

    def _described(self, pictures: Sequence[ImagePart]) -> dict[str, str]:
        vectors, unreadable = self._embed.pictures(pictures)
        if unreadable:
            raise EndpointError(f"the picture cannot be read: {next(iter(unreadable.values()))}", scope="item")
        lines = {}
        for picture in pictures:
            key = content_key(picture)
            lines[key] = f"[picture: {self._nearest_texts(vectors[key])}{self._detected(picture)}]"
        return lines

    def _nearest_texts(self, vector: FloatArray) -> str:
        order = np.argsort(-(self._vocabulary.vectors @ vector), kind="stable")[: self._wording.nearest]
        texts = (shown(self._vocabulary.texts[place]) for place in order)
        return "nearest texts " + ", ".join(f'{rank}. "{text}"' for rank, text in enumerate(texts, 1))

    def _detected(self, picture: ImagePart) -> str:
        if self._detector is None:
            return ""
        logits = self._detector.logits(self._detector.prepare(decode(picture.data))[None])[0]
        p = softmax(logits) if self._detector.head == "softmax" else 1 / (1 + np.exp(-logits.astype(np.float64)))
        best = np.argsort(-p, kind="stable")[: self._wording.labels]
        said = [f'"{shown(self._detector.labels[i])}" {p[i]:.2f}' for i in best if p[i] >= self._wording.threshold]
        return "; classifier " + (", ".join(said) if said else "not sure of anything")


def shown(text: str) -> str:
    """A text of a stranger on one line, without the marks that the lines are made of."""
    return " ".join(text.translate(_SHOWN).split())[:_MAX_TEXT].rstrip()


class Composed(ChatModel):
    """Hands questions on with words in place of pictures; the language model accounts for every call."""

    def __init__(self, llm: ChatModel, describer: Describer, *, name: str) -> None:
        self.name = name
        self._llm, self._describer = llm, describer

    async def complete(self, request: ChatRequest, ctx: StepContext) -> ChatReply:
        """See ``ChatModel.complete``."""
        messages = await asyncio.to_thread(self.rewritten, request.messages)
        reply = await self._llm.complete(replace(request, messages=messages), ctx)
        return replace(reply, model=self.name)

    async def check_images(self, count: int, ctx: StepContext, *, interleaving: bool = False) -> ImageSupport:
        """Any number: each picture becomes a line where it stood."""
        return ImageSupport(count, True if interleaving else None)

    def rewritten(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Messages without pictures, and the notice in the system message where there were any."""
        pictures = [
            p for m in messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart)
        ]
        if not pictures:
            return tuple(messages)
        lines = self._describer.describe(pictures)
        told = [replace(message, content=_in_words(message, lines)) for message in messages]
        first, rest = (told[0], told[1:]) if told[0].role == "system" else (Message("system", ""), told)
        return (Message("system", f"{first.content}\n\n{self._describer.notice}".strip()), *rest)


def _in_words(message: Message, lines: dict[str, str]) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part if isinstance(part, str) else lines[content_key(part)] for part in message.content)

"""Questions of proactive episodes put to a model: every distinct one once, all that are ready at the same time.

A question names its pictures by where they stand. They are read a chunk ahead of the asking, and two questions are the same where texts,
options, draw and the bytes of all pictures are. A chat model's replies are in its client's cache before they are used, those of a model in
this process in the cache of items: a run that goes on after a kill asks only what was not answered.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from agents.asking import NotAnswered, reply_to
from agents.openworld_chunks import in_chunks
from agents.openworld_pictures import ahead
from runner.context import StepContext, item_key
from runner.data.images import UnreadableImage, decode, thumbnail
from runner.models.base import ChatModel, ChatReply, ChatRequest, ImagePart, Message
from runner.nodes.proactive.pictures import FramePictures, Shown
from runner.nodes.proactive.records import MAX_OPTION
from runner.nodes.proactive.rendering import LETTERS, as_data

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.models.lvlm.loading import LoadedLvlm

Form = Literal["letter", "text"]
Role = Literal["user", "assistant"]
Turn = tuple[Role, tuple[str | Shown, ...]]
Conversation = tuple[Turn, ...]
"""Messages with the places of their pictures."""

THUMBNAIL_SIDE = 96
_PICTURES_AT_ONCE, _LEAST_QUESTIONS = 128, 16


@dataclass(frozen=True)
class Question:
    """``conversation`` ends with the question; ``options``: texts in the order shown; ``sample``: draws of one question have different
    ones; ``item`` names it in records; ``keep``: whether a small picture of what it shows is wanted."""

    item: str
    conversation: Conversation
    options: tuple[str, ...]
    sample: int = 0
    keep: bool = False

    @property
    def text(self) -> str:
        """Text of the last message."""
        return "\n".join(part for part in self.conversation[-1][1] if isinstance(part, str))

    @property
    def shown(self) -> Shown:
        """The picture that is asked about: the last one."""
        return [part for _, parts in self.conversation for part in parts if isinstance(part, Shown)][-1]

    @property
    def places(self) -> set[Shown]:
        """All pictures."""
        return {part for _, parts in self.conversation for part in parts if isinstance(part, Shown)}

    @functools.cached_property
    def address(self) -> bytes:
        """The same for questions that show the same places with the same texts."""
        content = [self.conversation, self.options, self.sample]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).digest()


@dataclass(frozen=True)
class Said:
    """What came of a question: ``text`` as it came, or ``failure``. ``index``: option that was chosen, where only options could be;
    ``image_sha1`` and ``prompt_sha1`` (hex): of the picture asked about, and of all that was shown."""

    text: str | None = None
    failure: str | None = None
    index: int | None = None
    probabilities: tuple[float, ...] | None = None
    logprob: float | None = None
    image_sha1: str | None = None
    prompt_sha1: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def choice(self) -> str | int | None:
        """What the environment is told."""
        return self.text if self.index is None else self.index


@dataclass(frozen=True)
class Ready:
    """A question with its pictures."""

    question: Question
    messages: tuple[Message, ...]
    image_sha1: str
    prompt_sha1: str

    @property
    def key(self) -> tuple[str, int, tuple[str, ...]]:
        """Equal where the model is asked the same."""
        return self.prompt_sha1, self.question.sample, self.question.options

    @property
    def picture(self) -> ImagePart:
        """The picture asked about."""
        return [part for m in self.messages for part in m.content if isinstance(part, ImagePart)][-1]


class Asker(ABC):
    """Asks each distinct question once and knows its answer from then on."""

    def __init__(self, ctx: StepContext, pictures: FramePictures) -> None:
        self._ctx, self._pictures = ctx, pictures
        self._by_address: dict[bytes, Said] = {}
        self._by_content: dict[tuple[str, int, tuple[str, ...]], Said] = {}
        self.thumbnails: dict[Shown, bytes] = {}

    def known(self, question: Question) -> Said | None:
        """The answer to a question that was asked before, wherever it was."""
        return self._by_address.get(question.address)

    async def answers(self, questions: Sequence[Question]) -> list[Said]:
        """Answers in the order of ``questions``. Errors that would meet every question are raised, see ``agents.asking.reply_to``."""
        addresses = [question.address for question in questions]
        fresh: dict[bytes, Question] = {}
        for address, question in zip(addresses, questions, strict=True):
            if address not in self._by_address:
                first = fresh.get(address, question)
                fresh[address] = replace(first, keep=first.keep or question.keep)
        most = max((len(question.places) for question in fresh.values()), default=1)
        chunk = max(_LEAST_QUESTIONS, _PICTURES_AT_ONCE // most)
        async for some, made in ahead(list(fresh.items()), self._prepare, chunk=chunk):
            await self._settle(some, made)
        return [self._by_address[address] for address in addresses]

    @abstractmethod
    async def _ask(self, ready: Sequence[Ready]) -> list[Said]:
        """Answers to distinct questions, in their order."""

    async def _settle(self, some: Sequence[tuple[bytes, Question]], made: Sequence[Ready | Said]) -> None:
        distinct = {one.key: one for one in made if isinstance(one, Ready) and one.key not in self._by_content}
        told = await self._ask(list(distinct.values()))
        self._by_content |= dict(zip(distinct, told, strict=True))
        for (address, _), one in zip(some, made, strict=True):
            self._by_address[address] = self._by_content[one.key] if isinstance(one, Ready) else one

    async def _prepare(self, some: Sequence[tuple[bytes, Question]]) -> list[Ready | Said]:
        parts = await self._pictures.parts({place for _, question in some for place in question.places})
        return await asyncio.to_thread(self._made, [question for _, question in some], parts)

    def _made(
        self, questions: Iterable[Question], parts: Mapping[Shown, ImagePart | UnreadableImage]
    ) -> list[Ready | Said]:
        sha1 = {place: _sha1(part.data) for place, part in parts.items() if isinstance(part, ImagePart)}
        made: list[Ready | Said] = []
        for question in questions:
            lost = next((part for place in question.places if not isinstance(part := parts[place], ImagePart)), None)
            if lost is not None:
                made.append(Said(failure=f"a picture cannot be read: {lost.message}"))
                continue
            made.append(_ready(question, parts, sha1))
            if question.keep and question.shown not in self.thumbnails:
                self.thumbnails[question.shown] = thumbnail(decode(made[-1].picture.data), THUMBNAIL_SIDE)  # type: ignore[union-attr]
        return made


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _ready(question: Question, parts: Mapping[Shown, Any], sha1: Mapping[Shown, str]) -> Ready:
    """The question with its pictures in their places; all of them can be read."""
    messages, marks = [], []
    for role, said in question.conversation:
        filled = tuple(parts[part] if isinstance(part, Shown) else part for part in said)
        messages.append(Message(role, filled if role == "user" else "\n".join(map(str, filled))))
        marks.append([role, [{"image": sha1[part]} if isinstance(part, Shown) else part for part in said]])
    prompt = _sha1(json.dumps(marks, separators=(",", ":")).encode())
    return Ready(question, tuple(messages), sha1[question.shown], prompt)


def choices_of(options: Sequence[str], form: Form) -> tuple[str, ...]:
    """What may be answered, in the order of the options: their letters, or their texts."""
    return tuple(LETTERS[: len(options)]) if form == "letter" else tuple(as_data(text, MAX_OPTION) for text in options)


class ChatAsker(Asker):
    """Asks a chat model. As many questions are under way as its client allows; one that is given up costs itself alone."""

    def __init__(
        self, ctx: StepContext, pictures: FramePictures, llm: ChatModel, *, purpose: str, temperature: float = 0.0,
        max_new_tokens: int = 50, seed: int = 0, logprobs: bool = False, constrained: Form | None = None,
    ) -> None:  # fmt: skip
        """``constrained``: the reply is held to letters or texts of the options by a JSON Schema."""
        super().__init__(ctx, pictures)
        self._llm, self._form = llm, constrained
        self._settings: dict[str, Any] = {
            "purpose": purpose, "temperature": temperature, "max_tokens": max_new_tokens, "seed": seed, "logprobs": logprobs,
        }  # fmt: skip

    async def _ask(self, ready: Sequence[Ready]) -> list[Said]:
        return await in_chunks(ready, self._answer, self._ctx, unit="answers", total=False)

    async def _answer(self, ready: Ready) -> Said:
        said = Said(image_sha1=ready.image_sha1, prompt_sha1=ready.prompt_sha1)
        try:
            reply = await reply_to(self._llm, self._request(ready), self._ctx)
        except NotAnswered as error:
            return replace(said, failure=str(error))
        return replace(
            said, text=reply.text, index=self._index(ready, reply), logprob=reply.log_likelihood,
            prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens,
        )  # fmt: skip

    def _request(self, ready: Ready) -> ChatRequest:
        """A reply that is cut off, or empty, is an answer too, unless it is held to the options."""
        held = self._form is not None
        return ChatRequest(
            ready.messages, item=ready.question.item, sample=ready.question.sample, schema=self._schema(ready),
            schema_name="option", allow_cut=not held, allow_empty=not held, max_repairs=2 if held else 0, **self._settings,
        )  # fmt: skip

    def _schema(self, ready: Ready) -> dict[str, Any] | None:
        if self._form is None:
            return None
        answer = {"type": "string", "enum": list(choices_of(ready.question.options, self._form))}
        return {
            "type": "object",
            "properties": {"answer": answer},
            "required": ["answer"],
            "additionalProperties": False,
        }

    def _index(self, ready: Ready, reply: ChatReply) -> int | None:
        if self._form is None:
            return None
        return choices_of(ready.question.options, self._form).index(reply.data["answer"])


class LikelihoodAsker(Asker):
    """Scores the options with a model in this process and takes the likeliest, or draws one.

    ``temperature`` 0: the likeliest; else drawn from the probabilities to the power of its inverse, by ``seed`` and the question.
    """

    def __init__(
        self, ctx: StepContext, pictures: FramePictures, loaded: LoadedLvlm, *, identity: str, form: Form = "letter",
        temperature: float = 0.0, batch_size: int = 8, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(ctx, pictures)
        self._loaded, self._identity, self._form = loaded, identity, form
        self._temperature, self._batch_size, self._seed = temperature, batch_size, seed

    async def _ask(self, ready: Sequence[Ready]) -> list[Said]:
        said: list[Said] = []
        for start in range(0, len(ready), self._batch_size):
            self._ctx.check()
            part = ready[start : start + self._batch_size]
            found = await asyncio.to_thread(self._probabilities, part)
            said += [self._said(one, values) for one, values in zip(part, found, strict=True)]
            self._ctx.advance("answers", len(part))
        return said

    def _probabilities(self, ready: Sequence[Ready]) -> list[list[float]]:
        """Of the options of each question; those stored before are not computed again."""
        from runner.nodes.proactive.likelihood import option_probabilities

        keys = [self._key(one) for one in ready]
        stored = [self._ctx.items.get(key) for key in keys]
        missing = [i for i, value in enumerate(stored) if value is None]
        images: list[Image] = [decode(ready[i].picture.data) for i in missing]
        texts = [ready[i].question.text for i in missing]
        options = [choices_of(ready[i].question.options, "text") for i in missing]
        computed = option_probabilities(
            self._loaded, images, texts, options, form=self._form, batch_size=self._batch_size
        )
        fresh = {keys[i]: json.dumps(values.tolist()).encode() for i, values in zip(missing, computed, strict=True)}
        self._ctx.items.put_many(fresh)
        return [json.loads(fresh[key] if value is None else value) for key, value in zip(keys, stored, strict=True)]

    def _key(self, ready: Ready) -> str:
        return item_key(
            "proactive.options", 1, self._identity, self._form, ready.prompt_sha1, list(ready.question.options)
        )

    def _said(self, ready: Ready, probabilities: Sequence[float]) -> Said:
        import numpy as np

        values = np.asarray(probabilities, np.float64)
        index = int(values.argmax())
        if self._temperature > 0:
            digest = hashlib.sha256(f"{self._seed}\0{ready.prompt_sha1}\0{ready.question.sample}".encode()).digest()
            sharpened = values ** (1 / self._temperature)
            drawing = np.random.default_rng(np.frombuffer(digest, np.uint32))
            index = int(drawing.choice(len(values), p=sharpened / sharpened.sum()))
        text = choices_of(ready.question.options, self._form)[index]
        return Said(
            text=text, index=index, probabilities=tuple(values.tolist()), logprob=float(np.log(values[index])),
            image_sha1=ready.image_sha1, prompt_sha1=ready.prompt_sha1,
        )  # fmt: skip


__all__ = ["Asker", "ChatAsker", "Conversation", "Form", "LikelihoodAsker", "Question", "Said", "choices_of"]

"""The provider ``contrastive``: names the last picture of a message by embeddings. No language model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.context import StepContext
from runner.models.base import ImagePart, ImageSupport, ImageTextEncoder
from runner.models.chat.batching import Batcher
from runner.models.chat.client import Client
from runner.models.chat.wire import Payload, RawReply, SendFailed
from runner.models.contrastive.forms import Form, form_of
from runner.models.contrastive.pictures import Embedder, content_key
from runner.models.contrastive.reading import LABEL_PATTERN, Example, Question, read_question
from runner.models.contrastive.scoring import mixed, softmax, vote
from runner.models.contrastive.vocabulary import TextVectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """``template``: what is embedded of a label; ``alpha``: weight of the texts, the rest is the examples' vote;
    ``sharpness``: of the vote; ``shortlist``: texts of the vocabulary nearest to the picture that are candidates without
    examples; ``further``: those that are candidates beside the examples' labels; ``label_pattern``: see ``reading``."""

    template: str = "a photo of a {}"
    alpha: float = 0.5
    sharpness: float = 5.5
    shortlist: int = 64
    further: int = 5
    label_pattern: str = LABEL_PATTERN


@dataclass(frozen=True)
class _Asked:
    """One question with the form of its answer and the texts that may answer it."""

    question: Question
    form: Form
    candidates: tuple[str, ...] = ()


class ContrastiveBackend:
    """Answers questions in batches: their pictures are encoded together, each distinct one once."""

    def __init__(
        self, encoder: ImageTextEncoder, vocabulary: TextVectors, options: Options, *, name: str, batch_size: int = 16
    ) -> None:
        self.name = name
        self._vocabulary, self._options, self._scale = vocabulary, options, encoder.logit_scale
        self._embed = Embedder(encoder, options.template, vocabulary)
        self._batcher = Batcher(self._generate, batch_size, "contrastive-chat")

    def identity(self) -> dict[str, Any]:
        """What can change an answer."""
        encoder = {name: self._vocabulary.encoder[name] for name in ("identity", "logit_scale")}
        return {
            "provider": "contrastive",
            "encoder": encoder,
            "vocabulary": self._vocabulary.digest,
            **asdict(self._options),
        }

    async def send(self, payload: Payload) -> RawReply:
        """One answer, together with others asked for at the same time."""
        return await self._batcher.ask(payload)

    def reads_text_only(self) -> bool:
        """It takes pictures."""
        return False

    def close(self) -> None:
        """Answer what was asked for and end the thread."""
        self._batcher.close()

    def _generate(self, payloads: Sequence[Payload]) -> list[RawReply | SendFailed]:
        read = [self._read(payload) for payload in payloads]
        pictures, unreadable = self._embed.pictures(
            picture for asked in read if isinstance(asked, _Asked) for picture in _pictures(asked.question)
        )
        ready = [asked if isinstance(asked, SendFailed) else self._checked(asked, unreadable) for asked in read]
        asked = self._with_candidates([asked for asked in ready if isinstance(asked, _Asked)], pictures)
        texts = self._embed.texts(text for one in asked for text in one.candidates)
        answers = iter([self._answer(one, pictures, texts) for one in asked])
        return [next(answers) if isinstance(one, _Asked) else one for one in ready]

    def _read(self, payload: Payload) -> _Asked | SendFailed:
        question = read_question(payload.messages, self._options.label_pattern)
        if question is None:
            return self._refusal("the question holds no picture to name")
        try:
            return _Asked(question, form_of(payload.schema))
        except ValueError as error:
            return self._refusal(str(error))

    def _refusal(self, why: str) -> SendFailed:
        return SendFailed(
            f"{self.name} cannot answer: {why}",
            scope="item",
            hint="It is no language model: it names the last picture of a question by embeddings.",
        )

    def _checked(self, asked: _Asked, unreadable: Mapping[str, str]) -> _Asked | SendFailed:
        """The question without the examples that cannot be read; a failure where the target cannot."""
        key = content_key(asked.question.target)
        if key in unreadable:
            return SendFailed(f"the picture cannot be read: {unreadable[key]}", scope="item")
        examples = tuple(e for e in asked.question.examples if content_key(e.picture) not in unreadable)
        question = Question(asked.question.target, examples, asked.question.own, asked.question.classes)
        return _Asked(question, asked.form)

    def _with_candidates(self, asked: Sequence[_Asked], pictures: Mapping[str, FloatArray]) -> list[_Asked]:
        if not asked:
            return []
        targets = np.stack([pictures[content_key(one.question.target)] for one in asked])
        nearest = _nearest(targets @ self._vocabulary.vectors.T, self._options.shortlist)
        shortlists = [[self._vocabulary.texts[place] for place in row] for row in nearest]
        return [
            _Asked(one.question, one.form, candidates(one.question, one.form, shortlist, self._options.further))
            for one, shortlist in zip(asked, shortlists, strict=True)
        ]

    def _answer(self, asked: _Asked, pictures: Mapping[str, FloatArray], texts: Mapping[str, FloatArray]) -> RawReply:
        target = pictures[content_key(asked.question.target)]
        by_text = softmax(self._scale * (np.stack([texts[text] for text in asked.candidates]) @ target))
        examples = asked.question.examples
        voted = None
        if examples:
            similarities = np.stack([pictures[content_key(example.picture)] for example in examples]) @ target
            voted = vote(similarities, membership(examples, asked.candidates), self._options.sharpness)
        p = mixed(by_text, voted, self._options.alpha)
        best = int(p.argmax())
        text = asked.form.fill(asked.candidates[best])
        return RawReply(text, "stop", self.name, log_likelihood=math.log(p[best]))


def _pictures(question: Question) -> Iterable[ImagePart]:
    yield from (example.picture for example in question.examples)
    yield question.target


def _nearest(similarities: FloatArray, count: int) -> NDArray[np.intp]:
    """Places of the largest ``count`` values of each row, largest first; equal ones in order."""
    if count < similarities.shape[1]:
        least = np.partition(similarities, -count, axis=1)[:, -count, None]
        similarities = np.where(similarities < least, -np.inf, similarities)
    return np.argsort(-similarities, axis=1, kind="stable")[:, :count]


def candidates(question: Question, form: Form, shortlist: Sequence[str], further: int) -> tuple[str, ...]:
    """Texts that may answer: the schema's choices, else the listed classes, else labels of examples and of the picture
    itself with the ``further`` nearest texts of the vocabulary, else the whole shortlist."""
    closed = form.choices or question.classes
    if closed:
        return tuple(closed)
    labels = [label for example in question.examples for label in example.labels] + list(question.own)
    near = shortlist[:further] if labels else shortlist
    found: dict[str, str] = {}
    for text in (*labels, *near):
        found.setdefault(text.casefold(), text)
    return tuple(found.values())


def membership(examples: Sequence[Example], texts: Sequence[str]) -> NDArray[np.float64]:
    """[examples, texts]: 1 where an example bears the text as a label, whatever its case. A text that is the whole line
    of labels is the only one."""
    places = {text.casefold(): place for place, text in enumerate(texts)}
    table = np.zeros((len(examples), len(texts)))
    for row, example in enumerate(examples):
        labels = (example.line,) if example.line.casefold() in places else example.labels
        table[row, [places[label.casefold()] for label in labels if label.casefold() in places]] = 1
    return table


class ContrastiveClient(Client):
    """The chat client around the backend; what it does with pictures is known without a call."""

    async def check_images(self, count: int, ctx: StepContext, *, interleaving: bool = False) -> ImageSupport:
        """Any number of pictures, each with the text behind it."""
        return ImageSupport(count, True if interleaving else None)

"""The check of retrieved pictures by a vision-language model: is the target visible, and which value does the picture show?"""

from __future__ import annotations

import asyncio
import functools
import io
import json
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.artifacts import RetrievedImages
from runner.context import StepContext
from runner.data.images import UnreadableImage, decode, thumbnail
from runner.data.places import Place, read_pictures
from runner.data.sources import Source
from runner.errors import BudgetExceeded, EndpointError
from runner.models.base import ChatModel, ChatRequest, ImagePart, Message
from runner.nodes.bias.seeds import seed_of
from runner.nodes.bias.verification import quality_row
from runner.nodes.bias.verify import Calibration, Checked, VerifyOptions, retrieved_places, task_classes, usability

if TYPE_CHECKING:
    import jinja2

Row = dict[str, Any]
NONE = "none"
SHOWS: Mapping[str, bool | None] = {"yes": True, "no": False, "unsure": None}

# Longest side of what is sent. Small pictures are sent whole and without loss.
MAX_SIDE = 768
_LOSSLESS_SIDE = 256
# Pictures whose questions are under way together; the client holds back further.
_AT_ONCE = 64
_MAX_TOKENS = 256
_LLM_LIMITS = frozenset({"llm_calls", "tokens"})


@dataclass(frozen=True)
class Choice:
    """One attribute's values for a target, as asked about one picture: opaque keys to values, in the order shown."""

    attribute: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Question:
    """What is asked about one picture: the target (its name in captions, too) and the values of attributes."""

    target: str
    shown: str
    place: Place
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Answer:
    """``shows``: None = it cannot say; ``values``: chosen value by attribute, None = none of them; ``failure``: why neither."""

    shows: bool | None = None
    values: Mapping[str, str | None] = field(default_factory=dict)
    failure: str = ""


def choices_for(place: Place, values: Mapping[str, Sequence[str]], seed: int) -> tuple[Choice, ...]:
    """The choices about one picture: values in an order of its own, so that no place in the list is favoured."""
    made = []
    for attribute in sorted(values):
        names = sorted(values[attribute])
        order = np.random.default_rng(seed_of(seed, place, attribute)).permutation(len(names))
        made.append(Choice(attribute, {f"v{i}": names[j] for i, j in enumerate(order)}))
    return tuple(made)


def answer_schema(choices: Sequence[Choice]) -> dict[str, Any]:
    """``{"shows": yes | no | unsure, "q0": v0 | v1 | ... | none, ...}``, all required."""
    properties: dict[str, Any] = {"shows": {"enum": list(SHOWS)}}
    properties |= {f"q{i}": {"enum": [*choice.values, NONE]} for i, choice in enumerate(choices)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def messages_for(question: Question, picture: ImagePart) -> tuple[Message, ...]:
    """Instructions, then the picture and one JSON object with the names; what users wrote stands only in the latter."""
    data: dict[str, Any] = {"subject": question.shown}
    if question.choices:
        asked = {f"q{i}": {"circumstance": c.attribute, "answers": c.values} for i, c in enumerate(question.choices)}
        data["questions"] = asked
    system = _template().render(attributes=bool(question.choices)).strip()
    return (
        Message("system", system),
        Message("user", (picture, "Prompt:\n" + json.dumps(data, ensure_ascii=False))),
    )


@functools.cache
def _template() -> jinja2.Template:
    import jinja2

    # Plain text for a model, not HTML.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("runner.nodes.bias", "prompts"),
        autoescape=False,  # noqa: S701
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("verify.jinja")


def picture_part(data: bytes) -> ImagePart:
    """The picture as it is sent: upright RGB, at most ``MAX_SIDE`` pixels long. Raises ``UnreadableImage``."""
    image = decode(data)
    if max(image.size) > _LOSSLESS_SIDE:
        return ImagePart(thumbnail(image, MAX_SIDE), "image/jpeg")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png")


async def ask(model: ChatModel, question: Question, data: bytes, ctx: StepContext) -> Answer:
    """Ask about one picture. What concerns this picture alone ends as ``failure``, and so does a spent LLM budget.

    Errors that would meet every picture (bad key, unknown model), a time limit and Ctrl-C pass through.
    """
    try:
        picture = await asyncio.to_thread(picture_part, data)
        request = ChatRequest(
            messages_for(question, picture), "verify", item=f"{question.target}: {question.place.uri}",
            schema=answer_schema(question.choices), schema_name="check", max_tokens=_MAX_TOKENS,
        )  # fmt: skip
        reply = (await model.complete(request, ctx)).data
    except UnreadableImage as error:
        return Answer(failure=error.message)
    except EndpointError as error:
        if error.scope == "run":
            raise
        return Answer(failure=error.message)
    except BudgetExceeded as error:
        if error.kind not in _LLM_LIMITS:
            raise
        return Answer(failure=f"not asked any more: {error.message}")
    values = {c.attribute: c.values.get(reply[f"q{i}"]) for i, c in enumerate(question.choices)}
    return Answer(SHOWS[reply["shows"]], values)


class ChatVerifier:
    """A vision-language model asked about pictures one by one."""

    def __init__(self, ctx: StepContext, model: ChatModel, images: RetrievedImages, options: VerifyOptions) -> None:
        self.ctx, self.model, self.images, self.options = ctx, model, images, options
        self.shown = {name: names[-1] for name, names in task_classes(images.task).items()}

    async def check(self, sources: Sequence[Source], calibration: Calibration | None) -> Checked:
        """Calibrate, then ask about every retrieved picture; of targets that cannot be trusted only the values."""
        rows = {target: self._blank(target) for target in self.images.targets}
        if calibration is not None:
            asked = [q for target in rows for q in self._calibrating(target, calibration)]
            answers = await self._ask_all(calibration.sources, asked)
            for target, row in rows.items():
                row |= _quality(target, asked, answers, calibration.labels)
        values = values_asked(self.images)
        questions = list(self._questions(values))
        found = await self._ask_all(sources, questions)
        pairs = list(zip(questions, found, strict=True))
        shows = {(q.target, q.place): a.shows if rows[q.target]["usable"] else None for q, a in pairs}
        chosen = {(q.target, q.place, name): value for q, a in pairs for name, value in a.values.items()}
        return Checked(list(rows.values()), shows, values=chosen)

    def _blank(self, target: str) -> Row:
        return {
            "verifier": self.model.name, "target": target, "labels": None, **quality_row([], []),
            "usable": True, "reason": None,
        }  # fmt: skip

    def _questions(self, values: Mapping[tuple[str, Place], Mapping[str, Sequence[str]]]) -> Iterator[Question]:
        for target, places in retrieved_places(self.images).items():
            for place in places:
                choices = choices_for(place, values.get((target, place), {}), self.ctx.seed)
                yield Question(target, self.shown[target], place, choices)

    def _calibrating(self, target: str, calibration: Calibration) -> list[Question]:
        """As many pictures of other classes as of the target, drawn from all of them."""
        right = [place for place, label in calibration.labels.items() if label == target]
        others = sorted(place for place, label in calibration.labels.items() if label != target)
        order = np.random.default_rng(seed_of(self.ctx.seed, "negatives", target)).permutation(len(others))
        drawn = [*right, *(others[i] for i in order[: len(right)])]
        return [Question(target, self.shown[target], place) for place in drawn]

    async def _ask_all(self, sources: Sequence[Source], questions: Sequence[Question]) -> list[Answer]:
        """One answer a question, in order; a picture that cannot be had or judged has a failure."""
        found: dict[int, Answer] = {}
        by_place: dict[Place, list[int]] = {}
        for i, question in enumerate(questions):
            by_place.setdefault(question.place, []).append(i)
        self.ctx.advance("pictures", 0, len(questions))
        pictures = read_pictures(sources, by_place)
        while batch := await asyncio.to_thread(_some, pictures):
            self.ctx.check()
            numbers = [(i, data) for place, data in batch for i in by_place[place]]
            answers = await _together([self._one(questions[i], data) for i, data in numbers])
            found |= {i: answer for (i, _), answer in zip(numbers, answers, strict=True)}
        listed = [found.get(i, Answer(failure="the picture cannot be read")) for i in range(len(questions))]
        self._warn_of_failures(questions, listed)
        return listed

    async def _one(self, question: Question, data: bytes) -> Answer:
        answer = await ask(self.model, question, data, self.ctx)
        self.ctx.advance("pictures")
        return answer

    def _warn_of_failures(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        failed = [(q.place.uri, a.failure) for q, a in zip(questions, answers, strict=True) if a.failure]
        if failed:
            uri, reason = failed[0]
            self.ctx.warn(f"{len(failed)} of {len(answers)} questions have no answer, first: {reason}", item=uri)


async def _together(asked: Iterable[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """All answers in order; where one raises, the others are cancelled and not paid for."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise


def _some(pictures: Iterator[tuple[Place, bytes]]) -> list[tuple[Place, bytes]]:
    return [picture for _, picture in zip(range(_AT_ONCE), pictures, strict=False)]


def values_asked(images: RetrievedImages) -> dict[tuple[str, Place], dict[str, list[str]]]:
    """For each target and picture, the attributes it was retrieved for, with all values that captions were written for."""
    captions = {c["caption_id"]: c for c in images.captions.to_pylist() if c["attribute"] is not None}
    values: dict[tuple[str, str], set[str]] = {}
    for c in captions.values():
        values.setdefault((c["target"], c["attribute"]), set()).add(c["value"])
    asked: dict[tuple[str, Place], dict[str, list[str]]] = {}
    for row in images.retrieval.select(["caption_id", "source_id", "uri", "kept"]).to_pylist():
        caption = captions.get(row["caption_id"])
        if caption is not None and row["kept"]:
            name = caption["target"], caption["attribute"]
            asked.setdefault((name[0], Place(row["source_id"], row["uri"])), {})[name[1]] = sorted(values[name])
    return asked


def _quality(target: str, questions: Iterable[Question], answers: Iterable[Answer], labels: Mapping[Place, str]) -> Row:
    """Sensitivity and specificity among the calibration pictures that it gave an answer for; unsure counts for neither."""
    own = [
        (a.shows, labels[q.place] == target)
        for q, a in zip(questions, answers, strict=True)
        if q.target == target and a.shows is not None
    ]
    row = quality_row([said for said, _ in own], [truth for _, truth in own])
    if not row["positives"] or not row["negatives"]:
        return row | {
            "usable": False,
            "reason": "it gave no answer on calibration pictures with and without the target",
        }
    return row | usability(row)

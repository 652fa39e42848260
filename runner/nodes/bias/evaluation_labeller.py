"""A chat model that looks at pictures: free answers to one question each, and the agreement of an audit with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.context import StepContext
from runner.data.images import UnreadableImage, decode, thumbnail
from runner.data.places import Place
from runner.errors import BudgetExceeded, EndpointError
from runner.models.base import ChatModel, ChatRequest, ImagePart, Message
from runner.naming import normalised
from runner.nodes.bias.evaluation import agreement, mean_of, nearest_choice, vqa_phi
from runner.nodes.bias.seeds import seed_of

Row = dict[str, Any]
Encode = Callable[[Sequence[str]], NDArray[np.floating[Any]]]
Answers = dict[tuple[Place, str], str]

CHUNK = 32
"""Pictures held in memory at a time."""

_LLM_LIMITS = frozenset({"llm_calls", "tokens"})


@dataclass(frozen=True)
class Looking:
    """How pictures are shown: ``side`` pixels at most; ``max_tokens`` of a free answer; ``purpose`` names the calls."""

    purpose: str
    side: int = 336
    max_tokens: int = 32


async def ask_about_pictures(
    llm: ChatModel,
    pictures: Iterable[tuple[Place, bytes]],
    questions: Mapping[Place, Sequence[str]],
    ctx: StepContext,
    looking: Looking,
) -> Answers:
    """The first line of the answer to each question about each picture; those that got none are left out.

    One failed question costs itself alone; a spent LLM budget ends the asking. Answers are kept in the reply cache.
    """
    ctx.advance("questions", 0, sum(len(asked) for asked in questions.values()))
    answers: Answers = {}
    for chunk in _chunks(pictures):
        ctx.check()
        tasks = [_ask_all(llm, place, data, questions[place], ctx, looking) for place, data in chunk]
        for found in await asyncio.gather(*tasks):
            answers |= found
    return answers


def _chunks(pictures: Iterable[tuple[Place, bytes]]) -> Iterator[list[tuple[Place, bytes]]]:
    iterator = iter(pictures)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


async def _ask_all(
    llm: ChatModel, place: Place, data: bytes, questions: Sequence[str], ctx: StepContext, looking: Looking
) -> Answers:
    try:
        image = ImagePart(await asyncio.to_thread(_shown, data, looking.side))
    except UnreadableImage as error:
        ctx.failed(place.uri, str(error.message))
        return {}
    replies = await asyncio.gather(*(_ask(llm, place, image, question, ctx, looking) for question in questions))
    return {(place, q): reply for q, reply in zip(questions, replies, strict=True) if reply is not None}


def _shown(data: bytes, side: int) -> bytes:
    return thumbnail(decode(data), side)


async def _ask(
    llm: ChatModel, place: Place, image: ImagePart, question: str, ctx: StepContext, looking: Looking
) -> str | None:
    message = Message("user", (image, question))
    request = ChatRequest((message,), looking.purpose, place.uri, max_tokens=looking.max_tokens)
    try:
        text = (await llm.complete(request, ctx)).text
    except EndpointError as error:
        if error.scope == "run":
            raise
        ctx.failed(place.uri, error.message)
        return None
    except BudgetExceeded as error:
        if error.kind not in _LLM_LIMITS:
            raise
        ctx.failed(place.uri, f"not asked any more: {error.message}")
        return None
    finally:
        ctx.advance("questions")
    return next((line.strip() for line in text.splitlines() if line.strip()), None)


class Audited(NamedTuple):
    """One attribute of one target: its values in order, and phi of each (NaN where undefined)."""

    target: str
    attribute: str
    values: tuple[str, ...]
    phi: tuple[float, ...]

    def question(self, template: str) -> str:
        """The multiple-choice question: ``template`` with {attribute} and {choices}."""
        choices = ", ".join(normalised(value) for value in self.values)
        return template.replace("{attribute}", normalised(self.attribute)).replace("{choices}", choices)


def audited_attributes(groups: Iterable[Row]) -> list[Audited]:
    """The attributes of an audit in the order of its rows (``c2b_group``); a value that stands twice counts once."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in groups:
        phi = float("nan") if row["phi"] is None else row["phi"]
        found.setdefault((row["target"], row["attribute"]), {}).setdefault(row["value"], phi)
    return [Audited(t, a, tuple(phis), tuple(phis.values())) for (t, a), phis in found.items()]


def sampled(places: Sequence[Place], most: int | None, *seed: object) -> list[Place]:
    """At most ``most`` of the places, drawn without replacement; the draw depends on the names in ``seed`` alone."""
    ordered = sorted(places)
    if most is None or len(ordered) <= most:
        return ordered
    picks = np.random.default_rng(seed_of(*seed)).choice(len(ordered), most, replace=False)
    return [ordered[i] for i in np.sort(picks)]


def questions_by_place(
    audited: Iterable[Audited], shown: Mapping[str, Sequence[Place]], template: str
) -> dict[Place, list[str]]:
    """What to ask about each picture: the questions of all targets it shows, each once."""
    wanted: dict[Place, dict[str, None]] = {}
    for item in audited:
        for place in shown.get(item.target, ()):
            wanted.setdefault(place, {})[item.question(template)] = None
    return {place: list(asked) for place, asked in wanted.items()}


def agreement_rows(
    audited: Sequence[Audited],
    correct: Mapping[str, Mapping[Place, bool]],
    shown: Mapping[str, Sequence[Place]],
    answers: Answers,
    template: str,
    encode: Encode,
    t: float,
) -> list[Row]:
    """Rows of ``c2b_agreement``: each value, each attribute (value None), each target and all (attribute and target None).

    ``correct`` {target: {picture: right}} over the pictures ``shown`` that truly show the target. An attribute without any
    answer has no agreement and counts in no mean.
    """
    rows: list[Row] = []
    by_target: dict[str, list[float]] = {}
    for item in audited:
        question = item.question(template)
        asked = [place for place in shown.get(item.target, ()) if (place, question) in answers]
        chosen = snapped([answers[place, question] for place in asked], item, encode)
        gaps = vqa_phi([correct[item.target][place] for place in asked], chosen, len(item.values))
        found = agreement(item.phi, gaps.score, t) if asked else float("nan")
        by_target.setdefault(item.target, []).append(found)
        rows.append(_row(item.target, item.attribute, None, len(asked), found))
        for j, value in enumerate(item.values):
            score, phi = float(gaps.score[j]), item.phi[j]
            own = _row(item.target, item.attribute, value, int(gaps.n[j, 0]), float("nan"))
            rows.append(own | {"k": int(gaps.k[j, 0]), "phi": _known(phi), "vqa_phi": _known(score)})
    means = [_row(target, None, None, None, mean_of(found)) for target, found in by_target.items()]
    overall = mean_of([found for each in by_target.values() for found in each])
    return [_row(None, None, None, None, overall), *means, *rows]


def snapped(answers: Sequence[str], item: Audited, encode: Encode) -> NDArray[np.int64]:
    """Free answers as indices of the attribute's values: the nearest by embeddings of "attribute: answer"; [n]."""
    if not answers:
        return np.zeros(0, np.int64)
    unique = list(dict.fromkeys(normalised(answer) for answer in answers))
    name = normalised(item.attribute)
    vectors = encode([f"{name}: {text}" for text in (*unique, *map(normalised, item.values))])
    nearest = dict(zip(unique, nearest_choice(vectors[: len(unique)], vectors[len(unique) :]), strict=True))
    return np.array([nearest[normalised(answer)] for answer in answers], np.int64)


def _row(target: str | None, attribute: str | None, value: str | None, n: int | None, found: float) -> Row:
    return {"target": target, "attribute": attribute, "value": value, "n": n, "agreement": _known(found)}


def _known(x: float) -> float | None:
    return None if np.isnan(x) else float(x)

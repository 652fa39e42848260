"""A chat model as concept predictor: one question of yes or no about a picture and an attribute.

A reply without yes or no is no answer; it is not asked again. Pictures are read a chunk ahead; every reply stands in the reply
cache before it is used.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agents.asking import NotAnswered, reply_to
from agents.judging import quoted
from agents.openworld_chunks import Losses, in_chunks
from agents.openworld_pictures import Part, Pictures, ahead
from agents.prompting import one_line, render
from runner.context import StepContext
from runner.data.images import UnreadableImage
from runner.data.parts.answers import answers_of
from runner.data.places import Place
from runner.data.sampling import sampled
from runner.models.base import ChatModel, ChatRequest, ImagePart, Message

if TYPE_CHECKING:
    from runner.artifacts import ConceptAnswers, MaskedPictures

Row = dict[str, Any]

REPLY_TOKENS = 16
SLOT_CHARACTERS = 120
TEMPLATE_CHARACTERS = 1000
SOURCE = "masked"

_FIRST = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_SLOT = re.compile(r"\{(object|part|value)\}")


class Concept(NamedTuple):
    """What is asked about one attribute; ``part`` None: about the object as a whole."""

    attribute: str
    part: str | None
    value: str


def yes_or_no(text: str) -> float | None:
    """1 where the first of the words yes and no, in any letter case, is yes; 0 where it is no; None without either."""
    found = _FIRST.search(text)
    return None if found is None else float(found.group(1).lower() == "yes")


def default_concept(attribute: str, owner: str | Sequence[str]) -> Concept:
    """A question from names alone: the value is what stands behind the last ``::`` or ``=``, underscores as blanks."""
    value = re.split(r"::|=", attribute)[-1].replace("_", " ").strip() or attribute
    part = None if owner == "global" else owner if isinstance(owner, str) else " and ".join(owner)
    return Concept(attribute, part, value)


def question_text(object_: str, concept: Concept, template: str | None) -> str:
    """Our own question, or the user's with its slots {object}, {part}, {value} filled. What fills a slot is one bounded line, quoted in our
    question; braces in it are text, since slots are filled once."""
    if template is None:
        part = None if concept.part is None else quoted(concept.part, SLOT_CHARACTERS)
        value = quoted(concept.value, SLOT_CHARACTERS)
        return render("locality_question", object=quoted(object_, SLOT_CHARACTERS), part=part, value=value)
    words = {"object": object_, "part": concept.part or object_, "value": concept.value}
    filled = _SLOT.sub(lambda slot: one_line(words[slot.group(1)], SLOT_CHARACTERS), template)
    return one_line(filled, TEMPLATE_CHARACTERS + 10 * SLOT_CHARACTERS)


def chosen_pictures(pictures: MaskedPictures, concepts: int, limit: int | None, seed: int) -> dict[str, list[str]]:
    """Files by picture (sample_id): all pictures, or as many drawn with ``seed`` as ``limit`` questions allow, each with all its views."""
    files: dict[str, set[str]] = {}
    for row in pictures.views.select(["sample_id", "uri"]).to_pylist():
        files.setdefault(str(row["sample_id"]), set()).add(str(row["uri"]))

    def drawn(count: int) -> list[str]:
        return sampled(list(files), count, seed, str)

    def questions(count: int) -> int:
        return concepts * sum(len(files[name]) for name in drawn(count))

    count = len(files)
    if limit is not None:  # a draw of more pictures holds the smaller ones, so that questions only grow
        count = bisect.bisect_right(range(len(files) + 1), limit, key=questions) - 1
    return {name: sorted(files[name]) for name in drawn(count)}


# --- asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """``value``: 1 yes, 0 no, None without either, and then the ``reason``."""

    uri: str
    concept: int
    value: float | None
    reason: str | None


@dataclass(frozen=True)
class Interview:
    """The questions put to one model: ``texts`` by number of the concept."""

    llm: ChatModel
    ctx: StepContext
    concepts: Sequence[Concept]
    texts: Sequence[str]

    async def ask(self, parts: Mapping[Place, Part], job: tuple[str, int]) -> Answered:
        """One question about one picture; what is lost costs this answer alone."""
        uri, concept = job
        part = parts[Place(SOURCE, uri)]
        if isinstance(part, UnreadableImage):
            return Answered(uri, concept, None, f"the picture cannot be read: {part.message}")
        try:
            reply = await reply_to(self.llm, self.request(part, uri, concept), self.ctx)
        except NotAnswered as error:
            return Answered(uri, concept, None, str(error))
        value = yes_or_no(reply.text)
        return Answered(
            uri, concept, value, None if value is not None else f"neither yes nor no: {quoted(reply.text, 80)}"
        )

    def request(self, part: ImagePart, uri: str, concept: int) -> ChatRequest:
        """The picture first, so that all questions about it begin alike; greedy, without tools, nothing asked again."""
        item = one_line(f"{uri}: {self.concepts[concept].attribute}", 120)
        return ChatRequest(
            (Message("user", (part, self.texts[concept])),), "leakage.ask", item=item, max_tokens=REPLY_TOKENS,
            seed=self.ctx.seed, max_repairs=0, allow_cut=True, allow_empty=True,
        )  # fmt: skip


async def answers(
    talk: Interview, pictures: MaskedPictures, files: Mapping[str, Sequence[str]], label: str | None = None
) -> ConceptAnswers:
    """Ask every concept about every file once; views of several draws share their answers. ``label``: the predictor's name."""
    read = Pictures([{"folder": str(pictures.pictures), "name": SOURCE}], max_side=None, transport="png")
    uris = sorted(uri for named in files.values() for uri in named)
    count, losses = len(talk.concepts), Losses(talk.ctx, "answers")
    values = {uri: np.full(count, np.nan) for uri in uris}
    reasons: dict[tuple[str, int], str] = {}
    talk.ctx.advance("answers", 0, len(uris) * count)
    async for chunk, parts in ahead(uris, lambda some: read.parts([Place(SOURCE, uri) for uri in some])):
        jobs = [(uri, concept) for uri in chunk for concept in range(count)]
        work = functools.partial(talk.ask, parts)
        for one in await in_chunks(jobs, work, talk.ctx, unit="answers", total=False):
            if one.value is None:
                reasons[one.uri, one.concept] = one.reason or "no answer"
                losses.add(f"{one.uri}: {talk.concepts[one.concept].attribute}", str(one.reason))
            else:
                values[one.uri][one.concept] = one.value
    losses.close()
    who = {"name": label or talk.llm.name, "identity": talk.llm.name, "kind": "chat", "questions": list(talk.texts)}
    names = [concept.attribute for concept in talk.concepts]
    return answers_of(pictures, who, names, values, reasons, only=frozenset(files))

"""Judges of open-ended answers: a language model that is asked for one bit an idea, or rules.

Source: ProactiveBench (arXiv 2603.19466), in words of our own. A judge whose reply cannot be read is asked again (ours); where it still cannot, the
answer has no bits, and is counted as an error instead of as an answer without ideas.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from agents.asking import NotAnswered, reply_to
from agents.judge_pairs import Counts, cohens_kappa
from agents.judging import quoted
from agents.openworld_chunks import in_chunks
from agents.prompting import one_line, render
from runner.context import StepContext
from runner.models.base import ChatModel, ChatReply, ChatRequest, Message
from runner.nodes.proactive.judge import Aggregate, Bits, References, aggregate, parse_bits, rule_bits
from runner.nodes.proactive.matching import without_reasoning

if TYPE_CHECKING:
    from agents.proactive_open_specs import Judging

PURPOSE = "proactive.judge"
RULES = "rules"
QUESTION_CHARACTERS, IDEA_CHARACTERS, ANSWER_CHARACTERS, THOUGHT_CHARACTERS = 2000, 300, 4000, 600


class Asked(NamedTuple):
    """An answer to be judged. ``item`` names it in records; ``sample``: its draw."""

    item: str
    question: str
    ideas: References
    answer: str
    sample: int = 0


@dataclass(frozen=True)
class Judgement:
    """``bits``: None where the judge's reply could not be read, whose reason is ``failure``; ``raw``: the reply."""

    ideas: References
    judge: str
    bits: tuple[int, ...] | None
    parse_ok: bool
    raw: str | None = None
    failure: str | None = None

    @property
    def told(self) -> Aggregate | None:
        """Requests and category."""
        return None if self.bits is None else aggregate(self.bits, self.ideas.n_proactive)

    def row(self, label: str, episode_id: str, turn: int) -> dict[str, Any]:
        """Row of ``pb_judgements``."""
        told = self.told
        return {
            "model": label, "episode_id": episode_id, "turn": turn, "refs": list(self.ideas.texts),
            "n_proactive": self.ideas.n_proactive, "raw": self.raw, "bits": None if self.bits is None else list(self.bits),
            "parse_ok": self.parse_ok, "ps": told and told.ps, "cc": told and told.cc, "agg": told and told.agg, "judge": self.judge,
        }  # fmt: skip


class OpenJudge(ABC):
    """Gives answers their bits."""

    name: str

    async def judged(self, asked: Sequence[Asked]) -> list[Judgement]:
        """Judgements in order; equal answers are judged once, blank ones express nothing. Reasoning is no part of an answer."""
        plain = [one._replace(item="", answer=without_reasoning(one.answer).strip()) for one in asked]
        fresh = {key: one._replace(answer=key.answer) for key, one in zip(plain, asked, strict=True) if key.answer}
        told = dict(zip(fresh, await self._judge(list(fresh.values())), strict=True))
        return [told[key] if key in told else self._silent(key.ideas) for key in plain]

    def _silent(self, ideas: References) -> Judgement:
        return Judgement(ideas, self.name, (0,) * len(ideas.texts), True)

    @abstractmethod
    async def _judge(self, asked: Sequence[Asked]) -> list[Judgement]:
        """Judgements of distinct answers that are not blank."""


class RuleJudge(OpenJudge):
    """Judges by words, without a model."""

    name = RULES

    async def _judge(self, asked: Sequence[Asked]) -> list[Judgement]:
        return [Judgement(one.ideas, self.name, rule_bits(one.answer, one.ideas), True) for one in asked]


class ModelJudge(OpenJudge):
    """Asks a chat model; a question that is given up costs its own judgement."""

    def __init__(self, ctx: StepContext, llm: ChatModel, judging: Judging, *, seed: int = 0) -> None:
        self._ctx, self._llm, self._judging, self._seed = ctx, llm, judging, seed
        self.name = llm.name

    async def _judge(self, asked: Sequence[Asked]) -> list[Judgement]:
        return await in_chunks(asked, self._one, self._ctx, unit="judgements", total=False)

    async def _one(self, asked: Asked) -> Judgement:
        """Ask, and ask again while the reply cannot be read and retries are left."""
        request = self.request(asked)
        reply: ChatReply | None = None
        found = Bits((), False)
        for _ in range(1 + (self._judging.retries if self._judging.reading == "last_line" else 0)):
            try:
                reply = await reply_to(self._llm, request, self._ctx)
            except NotAnswered as error:
                raw = reply.text if reply else None
                return Judgement(asked.ideas, self.name, None, False, raw, f"the judge gave no reply: {error}")
            found = self._read(reply, len(asked.ideas.texts))
            if found.parse_ok:
                break
            request = self._again(request, reply, len(asked.ideas.texts))
        assert reply is not None
        return self._judgement(asked.ideas, found, reply.text)

    def _judgement(self, ideas: References, found: Bits, raw: str) -> Judgement:
        # The published code counts what it cannot read as an answer without ideas.
        if found.parse_ok or self._judging.reading == "reference":
            return Judgement(ideas, self.name, found.bits, found.parse_ok, raw)
        reason = f"the judge's reply cannot be read: {one_line(raw, 80)!r}"
        return Judgement(ideas, self.name, None, False, raw, reason)

    def _read(self, reply: ChatReply, n: int) -> Bits:
        if self._judging.reading == "constrained":
            return Bits(tuple(reply.data["verdicts"]), True)
        return parse_bits(reply.text, n, reading=self._judging.reading)

    def request(self, asked: Asked) -> ChatRequest:
        """The rules as system message; question, ideas and answer as quoted data in the user's."""
        count, constrained = len(asked.ideas.texts), self._judging.reading == "constrained"
        ideas = [one_line(text, IDEA_CHARACTERS) for text in asked.ideas.texts]
        user = render(
            "proactive_judge_user", question=quoted(asked.question, QUESTION_CHARACTERS),
            ideas=json.dumps(ideas, ensure_ascii=False), answer=quoted(asked.answer, ANSWER_CHARACTERS),
        )  # fmt: skip
        system = render("proactive_judge", count=count, constrained=constrained)
        return ChatRequest(
            (Message("system", system), Message("user", user)), PURPOSE, item=asked.item, schema=_schema(count) if constrained else None,
            schema_name="verdicts", temperature=self._judging.temperature, max_tokens=self._judging.max_tokens, seed=self._seed,
            sample=asked.sample, max_repairs=self._judging.retries if constrained else 0, allow_cut=not constrained,
            allow_empty=not constrained,
        )  # fmt: skip

    def _again(self, request: ChatRequest, reply: ChatReply, count: int) -> ChatRequest:
        said = Message("assistant", one_line(reply.text[-THOUGHT_CHARACTERS:], THOUGHT_CHARACTERS) or "-")
        again = Message("user", render("proactive_judge_again", count=count))
        return replace(request, messages=(*request.messages[:2], said, again))


def _schema(count: int) -> dict[str, Any]:
    verdicts = {"type": "array", "items": {"type": "integer", "enum": [0, 1]}, "minItems": count, "maxItems": count}
    properties = {"thoughts": {"type": "string", "maxLength": THOUGHT_CHARACTERS}, "verdicts": verdicts}
    return {
        "type": "object",
        "properties": properties,
        "required": ["thoughts", "verdicts"],
        "additionalProperties": False,
    }


def judge_agreement(
    first: Sequence[Judgement], second: Sequence[Judgement]
) -> dict[str, dict[str, float | int | None]]:
    """How far two judges of the same answers agree, on ``ps``, ``cc`` and ``agg``.

    For each: ``n`` answers that both read (for ``cc``: with a category among the ideas), share of ``agreement``, Cohen's ``kappa`` (None where
    it is not defined). Raises ValueError where they judged different numbers of answers.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a.told and b.told]
    labelled = [(a, b) for a, b in pairs if len(a.ideas.texts) > a.ideas.n_proactive]
    return {name: _agreement(labelled if name == "cc" else pairs, name) for name in Aggregate._fields}


def _agreement(pairs: Sequence[tuple[Judgement, Judgement]], name: str) -> dict[str, float | int | None]:
    cells = [(getattr(a.told, name), getattr(b.told, name)) for a, b in pairs]
    both, second, neither, first = (
        cells.count(c) for c in ((True, True), (False, True), (False, False), (True, False))
    )
    counts = Counts(both, second, neither, first, 0)
    agreed = counts.true_positive + counts.true_negative
    share = agreed / counts.n if counts.n else None
    return {"n": counts.n, "agreement": share, "kappa": cohens_kappa(counts)}

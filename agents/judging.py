"""A language model as judge of answers: is this a good reply, given the label? (LI of arXiv 2503.21851, in words of our own.)

The published protocol asks once and counts everything but exactly "0" or "1" as 0. Here an unparsable reply has no verdict,
so that a scoring step can count it both ways, and the judge may be asked again (``retries``; 0 for the published rule).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from agents.asking import NotAnswered, reply_to
from agents.openworld_chunks import Losses, in_chunks
from agents.openworld_prompts import base_question
from agents.prompting import one_line, render
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel, ChatReply, ChatRequest, Message
from runner.nodes.openworld.metrics import JudgeParse, parse_judge_reply

Row = dict[str, Any]
SlotOrder = Literal["prefix", "published"]

REPLY_TOKENS = 16
LABEL_CHARACTERS, ANSWER_CHARACTERS = 300, 2000
VERDICT_SCHEMA = {"type": "integer", "enum": [0, 1]}


class Pair(NamedTuple):
    """A label and an answer to judge against it."""

    reference: str
    answer: str


class Judgement(NamedTuple):
    """``verdict``: 1 good, 0 not, None without one; ``asked``: questions it took, retries included."""

    pair: Pair
    reply: str | None
    verdict: int | None
    asked: int
    failure: str | None

    def row(self, judge: str) -> Row:
        """The row of ``owc_judgement``."""
        return {
            "reference": self.pair.reference, "answer": self.pair.answer, "judge": judge, "reply": self.reply,
            "verdict": self.verdict, "attempts": self.asked, "failure": self.failure,
        }  # fmt: skip


def distinct_pairs(answers: Iterable[Mapping[str, Any]], *, first_items: bool) -> list[Pair]:
    """Each (target, judged text) of rows of ``owc_prediction`` once, sorted; with ``first_items`` also (target, first item)."""
    fields = ("judged", "first_item") if first_items else ("judged",)
    return sorted({Pair(row["target"], row[f]) for row in answers for f in fields if row[f] is not None})


def quoted(text: str, limit: int) -> str:
    """A stranger's text between quotation marks that it cannot close."""
    return json.dumps(one_line(text, limit), ensure_ascii=False)


@dataclass(frozen=True)
class Judge:
    """A chat model in the role of the judge.

    ``slot_order``: ``published`` puts question, answer and target before the rules; ``prefix`` (ours) puts all that is
    the same in every question first, so that a server's prefix cache reads it once, and answer and target last. The order matters: the packaged 1.5B
    model agreed with 57 of the 60 packaged pairs in the order ``prefix``, with 47 in ``published`` (13 good ones refused).
    """

    llm: ChatModel
    ctx: StepContext
    parse: JudgeParse = "strict"
    retries: int = 2
    slot_order: SlotOrder = "prefix"

    def request(self, pair: Pair) -> ChatRequest:
        """One user message without a system message, greedy, at most 16 new tokens."""
        text = render(
            "owc_judge", order=self.slot_order, question=base_question(),
            answer=quoted(pair.answer, ANSWER_CHARACTERS), target=quoted(pair.reference, LABEL_CHARACTERS),
        )  # fmt: skip
        return self._asking((Message("user", text),), pair, turn=0)

    def _asking(self, messages: tuple[Message, ...], pair: Pair, turn: int) -> ChatRequest:
        constrained = self.parse == "constrained"
        return ChatRequest(
            messages, "owc.judge", item=one_line(f"{pair.reference}: {pair.answer}", 120),
            schema=VERDICT_SCHEMA if constrained else None, schema_name="verdict",
            max_tokens=REPLY_TOKENS, seed=self.ctx.seed, sample=turn,
            max_repairs=self.retries if constrained else 0, allow_cut=not constrained,
        )  # fmt: skip

    async def verdict(self, pair: Pair) -> Judgement:
        """Ask, and ask again while the reply is no verdict and retries are left."""
        request = self.request(pair)
        reply: ChatReply | None = None
        for turn in range(1 + (0 if self.parse == "constrained" else self.retries)):
            try:
                reply = await reply_to(self.llm, request, self.ctx)
            except NotAnswered as error:
                return Judgement(pair, reply.text if reply else None, None, turn + 1, str(error))
            found = self._read(reply)
            if found is not None:
                return Judgement(pair, reply.text, found, turn + 1, None)
            request = self._again(request, reply, pair, turn + 1)
        assert reply is not None
        return Judgement(pair, reply.text, None, turn + 1, f"no verdict: {one_line(reply.text, 80)!r}")

    def _read(self, reply: ChatReply) -> int | None:
        verdict = parse_judge_reply(reply.text, self.parse)
        return reply.data if verdict is None and self.parse == "constrained" else verdict

    def _again(self, request: ChatRequest, reply: ChatReply, pair: Pair, turn: int) -> ChatRequest:
        said = Message("assistant", one_line(reply.text, 200) or "-")
        return self._asking((*request.messages[:1], said, Message("user", render("owc_judge_again"))), pair, turn)


async def judge_pairs(judge: Judge, pairs: Sequence[Pair], *, max_unparsable: float = 1.0) -> list[Judgement]:
    """Judgements in the order of ``pairs``. Raises ``StepError`` as soon as more than ``max_unparsable`` of all have none."""
    unscored: list[Judgement] = []

    async def work(pair: Pair) -> Judgement:
        judgement = await judge.verdict(pair)
        if judgement.verdict is None:
            unscored.append(judgement)
            if len(unscored) > max_unparsable * len(pairs):
                raise _useless(judge, unscored, len(pairs), max_unparsable)
        return judgement

    judgements = await in_chunks(pairs, work, judge.ctx, unit="judgements")
    losses = Losses(judge.ctx, "judgements")
    for judgement in unscored:
        losses.add(f"{judgement.pair.reference}: {judgement.pair.answer}", str(judgement.failure))
    losses.close()
    return judgements


def _useless(judge: Judge, unscored: Sequence[Judgement], pairs: int, most: float) -> StepError:
    examples = "; ".join(dict.fromkeys(one_line(str(j.failure), 120) for j in unscored[:3]))
    return StepError(
        f"the judge {judge.llm.name} gave no verdict for more than {most:.0%} of {pairs:,} pairs: {examples}",
        step=judge.ctx.step,
        hint=f"{'' if judge.parse == 'constrained' else 'use parse: constrained, '}take a larger judge, or raise max_unparsable",
    )

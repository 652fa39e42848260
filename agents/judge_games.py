"""Games between two answers, decided by a language model (criterion ``llama_score`` of arXiv 2503.21851)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agents.asking import NotAnswered, reply_to
from agents.judging import ANSWER_CHARACTERS, LABEL_CHARACTERS, REPLY_TOKENS, quoted
from agents.openworld_chunks import Losses, in_chunks
from agents.openworld_prompts import base_question
from agents.prompting import one_line, render
from runner.context import StepContext
from runner.models.base import ChatModel, ChatRequest, Message
from runner.nodes.openworld.metrics import parse_judge_reply

Row = dict[str, Any]

WIN, DRAW, LOSS = 1.0, 0.5, 0.0


class Triple(NamedTuple):
    """Two answers to one label, in the order they are shown."""

    answer_a: str
    answer_b: str
    target: str


def settled(answer_a: str | None, answer_b: str | None) -> float | None:
    """The score of a game that needs no judge (a rule of ours): a missing answer loses, equal ones draw; else None."""
    if answer_a == answer_b:
        return DRAW
    if answer_a is None or answer_b is None:
        return LOSS if answer_a is None else WIN
    return None


def score_of(reply: str) -> float:
    """``1``: the first answer fits better; ``0``: the second; anything else is a draw."""
    return {1: WIN, 0: LOSS}.get(parse_judge_reply(reply, "strict"), DRAW)  # type: ignore[arg-type]


@dataclass(frozen=True)
class GameJudge:
    """A chat model that says which of two answers fits the target better."""

    llm: ChatModel
    ctx: StepContext

    def request(self, triple: Triple) -> ChatRequest:
        """One user message, what all questions share first; greedy, at most 16 new tokens."""
        slots = (
            f"Answer A: {quoted(triple.answer_a, ANSWER_CHARACTERS)}",
            f"Answer B: {quoted(triple.answer_b, ANSWER_CHARACTERS)}",
            f"Target: {quoted(triple.target, LABEL_CHARACTERS)}",
        )
        text = "\n".join((render("owc_game", question=base_question()) + "\n", *slots))
        return ChatRequest(
            (Message("user", text),), "owc.game", item=one_line(triple.target, 120), max_tokens=REPLY_TOKENS,
            seed=self.ctx.seed, allow_cut=True,
        )  # fmt: skip

    async def scores(self, games: Sequence[Row]) -> list[float | None]:
        """Scores of rows of ``owc_elo_game`` for the first player; each distinct triple is asked once, None = not answered."""
        known = [settled(game["answer_a"], game["answer_b"]) for game in games]
        open_ = [_triple(game) for game, score in zip(games, known, strict=True) if score is None]
        triples = list(dict.fromkeys(open_))
        losses = Losses(self.ctx, "games")
        found = await in_chunks(triples, lambda triple: self._score(triple, losses), self.ctx, unit="games")
        losses.close()
        judged = dict(zip(triples, found, strict=True))
        return [judged[_triple(g)] if score is None else score for g, score in zip(games, known, strict=True)]

    async def _score(self, triple: Triple, losses: Losses) -> float | None:
        try:
            return score_of((await reply_to(self.llm, self.request(triple), self.ctx)).text)
        except NotAnswered as error:
            losses.add(triple.target, str(error))
            return None


def _triple(game: Row) -> Triple:
    return Triple(game["answer_a"], game["answer_b"], game["target"])

"""Six mutually exclusive categories of an answer, by a language model (the taxonomy of arXiv 2603.03197, in words of our own)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.asking import NotAnswered, reply_to
from agents.judging import ANSWER_CHARACTERS, LABEL_CHARACTERS, Pair
from agents.openworld_chunks import Losses, in_chunks
from agents.prompting import one_line, render
from runner.context import StepContext
from runner.models.base import ChatModel, ChatReply, ChatRequest, Message

Row = dict[str, Any]

CATEGORIES = ("specific", "less specific", "generic", "more specific", "wrong", "abstain")
_ONE: dict[str, Any] = {"type": "string", "enum": list(CATEGORIES)}
_TOKENS_OF_NAME = 16


def batch_schema(size: int) -> dict[str, Any]:
    """Exactly ``size`` cases, each with its category."""
    names = ("ground_truth", "prediction")
    case = {
        "type": "object", "additionalProperties": False, "required": [*names, "classification"],
        "properties": {**{name: {"type": "string"} for name in names}, "classification": _ONE},
    }  # fmt: skip
    cases = {"type": "array", "items": case, "minItems": size, "maxItems": size}
    return {"type": "object", "additionalProperties": False, "required": ["cases"], "properties": {"cases": cases}}


@dataclass(frozen=True)
class Taxonomist:
    """A chat model that sorts pairs, ``batch`` in one question. What a batch loses is asked pair by pair.

    It takes a capable model: the packaged 1.5B one called 12 of 15 packaged pairs specific, two siblings among them.
    """

    llm: ChatModel
    ctx: StepContext
    batch: int = 1

    async def categories(self, pairs: Sequence[Pair]) -> list[Row]:
        """Rows of ``owc_category`` in the order of ``pairs``; a pair that got no answer has no category."""
        batches = [pairs[start : start + self.batch] for start in range(0, len(pairs), self.batch)]
        losses = Losses(self.ctx, "categories")
        found = await in_chunks(batches, lambda batch: self._sorted(batch, losses), self.ctx, unit="categories")
        losses.close()
        return [row for rows in found for row in rows]

    async def _sorted(self, pairs: Sequence[Pair], losses: Losses) -> list[Row]:
        if len(pairs) == 1:
            return [await self._single(pairs[0], losses)]
        try:
            reply = await reply_to(self.llm, self.request(pairs), self.ctx)
        except NotAnswered:
            return [await self._single(pair, losses) for pair in pairs]
        cases = reply.data["cases"]
        return [self._row(pair, case["classification"], reply) for pair, case in zip(pairs, cases, strict=True)]

    async def _single(self, pair: Pair, losses: Losses) -> Row:
        try:
            reply = await reply_to(self.llm, self.request([pair]), self.ctx)
        except NotAnswered as error:
            losses.add(f"{pair.reference}: {pair.answer}", str(error))
            return self._row(pair, None, None)
        return self._row(pair, reply.data, reply)

    def request(self, pairs: Sequence[Pair]) -> ChatRequest:
        """The rules as system message, the cases as one JSON object."""
        cases = [
            {"ground_truth": one_line(pair.reference, LABEL_CHARACTERS), "prediction": one_line(pair.answer, ANSWER_CHARACTERS)}
            for pair in pairs
        ]  # fmt: skip
        batch = len(cases) > 1
        data: Any = {"cases": cases} if batch else cases[0]
        said = sum(len(text) for case in cases for text in case.values())
        return ChatRequest(
            (Message("system", render("owc_taxonomy", batch=batch)), Message("user", json.dumps(data, ensure_ascii=False))),
            "owc.taxonomy", item=one_line(f"{pairs[0].reference}: {pairs[0].answer}", 120),
            schema=batch_schema(len(cases)) if batch else _ONE, schema_name="categories",
            max_tokens=said + 64 * len(cases) if batch else _TOKENS_OF_NAME, seed=self.ctx.seed,
            accept=_same_cases(cases) if batch else None,
        )  # fmt: skip

    def _row(self, pair: Pair, category: str | None, reply: ChatReply | None) -> Row:
        return {
            "reference": pair.reference, "answer": pair.answer, "judge": self.llm.name, "category": category,
            "reply": None if reply is None else reply.text,
        }  # fmt: skip


def _same_cases(cases: Sequence[Row]) -> Any:
    """Refuses a reply whose cases come in another order: a category would land at the wrong pair."""

    def check(data: Any) -> None:
        for number, (case, found) in enumerate(zip(cases, data["cases"], strict=True), 1):
            if found["ground_truth"] != case["ground_truth"]:
                raise ValueError(f"case {number} must be the one of ground_truth {case['ground_truth']!r}")

    return check

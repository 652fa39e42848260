"""Queries of an in-context run: one context before them all, one request first, then as many as the client lets through."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.circle_calls import Row, Talk
from agents.circle_labels import Compat, clean_answer
from agents.circle_prompts import Prompts, Shown
from agents.openworld import answered
from agents.openworld_chunks import Losses, in_chunks
from agents.openworld_pictures import Part, Pictures, ahead, place_of
from runner.data.images import UnreadableImage
from runner.data.places import Place

_SMALL, _FEW, _MANY = 512, 64, 256


@dataclass(frozen=True)
class Answering:
    """How queries are asked and replies read.

    ``circle``: with CIRCLE's message, the reply cleaned to a comma list; otherwise the plain question, the reply untouched.
    ``wrap``: the sentence around the list that a judge reads, with one {}.
    """

    method: str
    circle: bool
    compat: Compat
    wrap: str

    def answer(self, reply: str) -> Row:
        """What is scored, what is judged, and the parts of the list."""
        if not self.circle:
            return answered(reply)
        found = answered(clean_answer(reply, self.compat))
        return found | {"judged": self.wrap.replace("{}", found["prediction"]) if found["prediction"] else ""}


@dataclass(frozen=True)
class Queries:
    """Asks about the pictures of ``rows`` (one dataset). ``pictures``: reads them."""

    talk: Talk
    prompts: Prompts
    answering: Answering
    pictures: Pictures
    rows: Sequence[Row]
    losses: Losses
    max_side: int | None = None

    async def ask_all(self, context: Sequence[Shown]) -> list[Row]:
        """``{"answer": row of owc_prediction, "call": row of circle_call or None}`` in the order of the rows."""
        said: list[Row] = []
        small = self.max_side is not None and self.max_side <= _SMALL
        async for chunk, parts in ahead(self.rows, self._read, chunk=_MANY if small else _FEW):
            work = functools.partial(self._ask, context, parts)
            rest = list(chunk)
            while rest and not any(one["call"] for one in said):
                self.talk.ctx.check()
                said.append(await work(rest.pop(0)))  # alone: the server reads the context once, then keeps it
                self.talk.ctx.advance("answers", 1)
            said += await in_chunks(rest, work, self.talk.ctx, unit="answers", chunk=_MANY, total=False)
        return said

    async def _read(self, rows: Sequence[Row]) -> Mapping[Place, Part]:
        return await self.pictures.parts(map(place_of, rows))

    async def _ask(self, context: Sequence[Shown], parts: Mapping[Place, Part], row: Row) -> Row:
        return await self.ask_one(context, parts[place_of(row)], row)

    async def ask_one(self, context: Sequence[Shown], picture: Part, row: Row) -> Row:
        """One query; a picture or question that is lost has a ``failure``."""
        circle = self.answering.circle
        answer: Row = {
            "method": self.answering.method, "prompt_key": "circle" if circle else "base", "model": self.talk.lmm.name,
            "seed": self.talk.draw, "n_images": 0, "failure": None,
            **{name: row[name] for name in ("dataset", "sample_id", "source_id", "uri", "target")},
        }  # fmt: skip
        if isinstance(picture, UnreadableImage):
            answer |= {"failure": f"the picture cannot be read: {picture.message}"}
            return self._told({"answer": answer, "call": None})
        messages = (self.prompts.query if circle else self.prompts.plain)(context, picture)
        said = await self.talk.say(messages, "query", sample_id=row["sample_id"])
        answer |= said.spent | {"n_images": len(context) + 1}
        if said.reply is not None:
            answer |= {"reply": said.reply.text} | self.answering.answer(said.reply.text)
        return self._told({"answer": answer, "call": said.call})

    def _told(self, said: dict[str, Any]) -> dict[str, Any]:
        answer = said["answer"]
        if answer["failure"]:
            self.losses.add(f"{answer['dataset']}/{answer['sample_id']}, seed {answer['seed']}", answer["failure"])
        return said

"""In-context open-world classification of a stream: the context is made of pictures that were asked about before.

Source: arXiv 2602.23229, streaming variant. For a picture of the stream, up to ``memory`` earlier ones are drawn; with the picture itself
they are labelled and refined as one set, and the query is shown the earlier ones with their final labels. Where the text is
silent the reading is ours: the picture is no example of its own query, and between rebuilds the last set is shown.

``reservoir`` (ours): at most ``memory`` pictures are kept, each with the labels it once got, so that a picture of the stream costs
T + 2 calls instead of (m + 1)(T + 1) + 1. Which are kept is a uniform draw over the stream so far (Algorithm R).
"""

from __future__ import annotations

import functools
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from agents.circle import Circle, CirclePlan, ContextPicture, Outcome
from agents.circle_calls import Row, Talk
from agents.circle_context import permuted, readable
from agents.circle_labels import final_label
from agents.circle_prompts import Prompts, Shown
from agents.circle_queries import Answering, Queries
from agents.openworld_chunks import Losses, in_chunks
from agents.openworld_pictures import Pictures, place_of
from runner.data.images import UnreadableImage

_AT_ONCE = 16
_SPARE = 4  # of so many times as many pictures as are shown, those that can be read are taken


@dataclass(frozen=True)
class StreamPlan:
    """``memory``: m; ``rebuild_every``: pictures that share one context, 1 with a ``reservoir``."""

    memory: int = 16
    rebuild_every: int = 1
    reservoir: bool = False


def earlier_places(row: Row, place: int, count: int, seed: int) -> list[int]:
    """Places before ``place``, at most ``count``, drawn without replacement with the seed and the picture's name alone."""
    chance = random.Random(f"{seed}\0{row['dataset']}\0{row['sample_id']}")  # noqa: S311
    return chance.sample(range(place), min(place, count))


@dataclass(frozen=True)
class Block:
    """What one rebuild gave: the graph's outcome, its pictures, and the queries answered with it."""

    outcome: Outcome
    context: tuple[ContextPicture, ...]


@dataclass(frozen=True)
class Stream:
    """The stream of one dataset and seed. ``context`` and ``pictures`` read examples and queries."""

    talk: Talk
    prompts: Prompts
    plan: CirclePlan
    stream: StreamPlan
    answering: Answering
    context: Pictures
    pictures: Pictures
    losses: Losses

    async def run(self, rows: Sequence[Row]) -> AsyncIterator[Block]:
        """The blocks in the order of the stream, which is drawn with the seed."""
        order = permuted(rows, self.talk.draw, self.talk.dataset, "stream")
        step = self.stream.rebuild_every
        starts = list(range(0, len(order), step))
        if self.stream.reservoir:
            kept = Reservoir(self.stream.memory, self.talk.draw)
            for start in starts:
                self.talk.ctx.check()
                block = await self._block(order, start, await self._drawn(order, start, kept))
                if block.context and block.context[-1].number == start:
                    kept.offer(block.context[-1], block.outcome.histories[-1])
                yield block
            return
        # Without a reservoir no context hangs on an earlier answer, so that blocks may be asked side by side.
        for first in range(0, len(starts), _AT_ONCE):
            work = functools.partial(self._fresh, order)
            for block in await in_chunks(
                starts[first : first + _AT_ONCE], work, self.talk.ctx, unit="contexts", total=False
            ):
                yield block

    async def _fresh(self, order: Sequence[Row], start: int) -> Block:
        return await self._block(order, start, await self._drawn(order, start, None))

    async def _drawn(self, order: Sequence[Row], start: int, kept: Reservoir | None) -> list[ContextPicture]:
        """The examples for the picture at ``start``, then that picture, which is left out where it cannot be read."""
        found = await readable(order[start : start + 1], 1, self.context, _unheard)
        own = [ContextPicture(start, row, picture) for row, picture in found]
        if kept is not None:
            return kept.pictures + own
        memory = self.stream.memory
        places = earlier_places(order[start], start, _SPARE * memory, self.talk.draw)
        by_place = {place_of(order[place]): place for place in places}
        drawn = await readable([order[place] for place in places], memory, self.context, _unheard)
        return [ContextPicture(by_place[place_of(row)], row, picture) for row, picture in drawn] + own

    async def _block(self, order: Sequence[Row], start: int, context: Sequence[ContextPicture]) -> Block:
        """Rebuild for the picture at ``start``, then answer it and those up to the next rebuild."""
        outcome = Outcome([list(c.history) for c in context], 0, [], [], [])
        if not all(outcome.histories):
            name = str(order[start]["sample_id"])
            circle = Circle(
                self.talk, self.prompts, self.plan, context, _none, self.losses, episode=name, required=False
            )
            outcome = await circle.run()
        rows = order[start : start + self.stream.rebuild_every]
        parts = await self.pictures.parts(map(place_of, rows))
        queries = Queries(self.talk, self.prompts, self.answering, self.pictures, rows, self.losses)

        async def ask(offset: int) -> Row:
            shown = self._shown(context, outcome.histories, without=start + offset)
            return await queries.ask_one(shown, parts[place_of(rows[offset])], rows[offset])

        answers = await in_chunks(range(len(rows)), ask, self.talk.ctx, unit="answers", total=False)
        return Block(replace(outcome, answers=answers), tuple(context))

    def _shown(
        self, context: Sequence[ContextPicture], histories: Sequence[Sequence[str]], *, without: int
    ) -> list[Shown]:
        pairs = zip(context, histories, strict=True)
        return [Shown(c.picture, final_label(h)) for c, h in pairs if h and c.number != without]


async def _none(context: list[Shown]) -> list[Row]:
    """The queries of a stream are asked outside the graph."""
    return []


def _unheard(row: Row, error: UnreadableImage) -> None:
    """A picture that cannot be read is told of where it is the query."""


class Reservoir:
    """At most ``size`` pictures with their labels, a uniform draw without replacement over all that were offered."""

    def __init__(self, size: int, seed: int) -> None:
        self.pictures: list[ContextPicture] = []
        self._size, self._offered, self._chance = size, 0, random.Random(f"reservoir\0{seed}")  # noqa: S311

    def offer(self, picture: ContextPicture, history: Sequence[str]) -> None:
        """A picture and the history of its labels; one without a label is not taken."""
        if not history:
            return
        kept = replace(picture, history=tuple(history))
        self._offered += 1
        if len(self.pictures) < self._size:
            self.pictures.append(kept)
        elif (place := self._chance.randrange(self._offered)) < self._size:
            self.pictures[place] = kept

"""Runs of in-context classification over datasets and seeds: drawing, checking, labelling, asking, gathering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.circle import Circle, CirclePlan, ContextPicture, final_label
from agents.circle_calls import Row, Talk
from agents.circle_context import Readable, draw, of_split, refuse_leakage, warn_of_equal_names
from agents.circle_prompts import Prompts, shown_label
from agents.circle_queries import Answering, Queries
from agents.circle_rows import Gathered, context_rows
from agents.circle_stream import Stream, StreamPlan
from agents.openworld import queries
from agents.openworld_chunks import Losses, in_chunks
from agents.openworld_pictures import Pictures
from runner.context import StepContext
from runner.models.base import ChatModel
from runner.models.pictures import Transport

if TYPE_CHECKING:
    from runner.artifacts import Datasets

_STREAMS = 8  # asked side by side


@dataclass(frozen=True)
class Asked:
    """Which pictures: ``limit`` queries a dataset, context from another split (nothing when streaming)."""

    images: Datasets
    split: str
    limit: int | None
    seeds: Sequence[int]


@dataclass(frozen=True)
class Run:
    """What all datasets and seeds of a step share. ``max_side``: of context pictures; ``query_max_side``: of queries."""

    lmm: ChatModel
    ctx: StepContext
    prompts: Prompts
    plan: CirclePlan
    answering: Answering
    asked: Asked
    max_side: int | None = 224
    query_max_side: int | None = 224
    transport: Transport = "jpeg75"
    max_tokens: int = 64
    logprobs: bool = False
    probe: bool = True

    async def classify(self, shots: int, context_split: str) -> tuple[Gathered, list[Row]]:
        """Rows, and what each dataset and seed ran. Nothing is asked before all that can be checked is."""
        asked = self._queries()
        drawn = await self._draw(shots, context_split)
        corpus = self.asked.images.corpus
        await refuse_leakage([[row for row, _ in found] for found in drawn.values()], asked, corpus, self.ctx)
        await self._check_model(shots + 1)
        random_labels = self.plan.method == "random_labels"
        build = 0 if random_labels else calls_of(shots, self.plan.refinements, 0)
        answers = len(self.asked.seeds) * len(asked)
        self.ctx.advance("calls", 0, len(drawn) * build + answers)
        self.ctx.advance("answers", 0, answers)
        gathered, losses, runs = Gathered(), Losses(self.ctx, "calls"), []
        for (name, seed), found in drawn.items():
            context = [
                ContextPicture(slot, row, picture, (shown_label(row["target"]),) if random_labels else ())
                for slot, (row, picture) in enumerate(found)
            ]
            own = [row for row in asked if row["dataset"] == name]
            runs.append(await self._one(self._talk(name, seed), context, own, gathered, losses))
        losses.close()
        return gathered, runs

    async def stream(self, plan: StreamPlan) -> Gathered:
        """Rows of all streams, dataset by dataset and seed by seed; several are asked side by side."""
        asked = self._queries()
        context, pictures = self._pictures(self.max_side), self._pictures(self.query_max_side)
        # Between rebuilds the picture that was labelled last is an example too.
        longest = max(Counter(row["dataset"] for row in asked).values())
        await self._check_model(min(plan.memory + (1 if plan.rebuild_every == 1 else 2), longest + 1))
        self.ctx.advance("answers", 0, len(asked) * len(self.asked.seeds))
        losses = Losses(self.ctx, "calls")

        async def one(named: tuple[str, int]) -> Gathered:
            parts = (self._talk(*named), self.prompts, self.plan, plan, self.answering, context, pictures, losses)
            return await _gathered(Stream(*parts), [row for row in asked if row["dataset"] == named[0]])

        streams = [(name, seed) for name in self._names() for seed in self.asked.seeds]
        gathered = Gathered()
        for found in await in_chunks(streams, one, self.ctx, unit="streams", chunk=_STREAMS):
            gathered.join(found)
        losses.close()
        return gathered

    async def _one(
        self, talk: Talk, context: Sequence[ContextPicture], rows: Sequence[Row], gathered: Gathered, losses: Losses
    ) -> Row:
        """One dataset and seed."""
        pictures = self._pictures(self.query_max_side)
        every = Queries(talk, self.prompts, self.answering, pictures, rows, losses, self.query_max_side)
        outcome = await Circle(talk, self.prompts, self.plan, context, every.ask_all, losses).run()
        gathered.add_outcome(outcome)
        finals = [final_label(history) if history else None for history in outcome.histories]
        gathered.add("circle_context", context_rows(context, talk.draw, finals))
        shown = sum(final is not None for final in finals)
        return {"dataset": talk.dataset, "seed": talk.draw, "rounds_run": outcome.rounds_run, "context": shown}

    async def _draw(self, shots: int, split: str) -> Mapping[tuple[str, int], Readable]:
        reads, images = self._pictures(self.max_side), self.asked.images
        return {
            (name, seed): await draw(of_split(images, name, split, self.ctx), shots, seed, reads, self.ctx)
            for name in self._names()
            for seed in self.asked.seeds
        }

    def _queries(self) -> list[Row]:
        warn_of_equal_names(self.asked.images.datasets, self.ctx)
        return queries(self.asked.images, self.asked.split, self.asked.limit, self.ctx)

    def _names(self) -> list[str]:
        return [dataset["dataset"] for dataset in self.asked.images.datasets]

    def _talk(self, dataset: str, seed: int) -> Talk:
        return Talk(self.lmm, self.ctx, dataset, seed, self.max_tokens, self.logprobs)

    def _pictures(self, max_side: int | None) -> Pictures:
        return Pictures(self.asked.images.corpus, max_side=max_side, transport=self.transport)

    async def _check_model(self, count: int) -> None:
        if not self.probe:
            return
        support = await self.lmm.check_images(count, self.ctx, interleaving=True)
        if support.interleaved is False:
            self.ctx.warn(
                f"{self.lmm.name} does not tell which text stands beside which picture: a context may teach it nothing"
            )


async def _gathered(one: Stream, rows: Sequence[Row]) -> Gathered:
    """Rows of one stream: each picture that was ever in a set has a row of ``circle_context``, its slot its place."""
    gathered, met = Gathered(), set[int]()
    async for block in one.run(rows):
        gathered.add_outcome(block.outcome)
        pairs = zip(block.context, block.outcome.histories, strict=True)
        new = [(c, history) for c, history in pairs if c.number not in met]
        met |= {c.number for c, _ in new}
        # With a reservoir a picture keeps its labels; without, they are made anew for each query.
        finals = [final_label(history) if history and one.stream.reservoir else None for _, history in new]
        gathered.add("circle_context", context_rows([c for c, _ in new], one.talk.draw, finals))
    return gathered


def calls_of(context: int, rounds: int, queries: int) -> int:
    """Calls of one run: m(1 + T) to make the context and one a query."""
    return context * (1 + rounds) + queries


def streaming_calls(memory: int, rounds: int, *, reservoir: bool = False) -> int:
    """Most calls for one picture of a stream: (m + 1)(T + 1) + 1; with a reservoir T + 2."""
    return (1 if reservoir else memory + 1) * (rounds + 1) + 1

"""Asking a model what a picture shows, without a list of classes: one conversation a picture.

    START -> turn -> turn ... -> END          as many turns as the question has rounds

The graph holds texts only; pictures stay outside its state. Every reply stands in the reply cache before it is used, so
that a run that goes on after a kill asks nothing again.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from agents.asking import NotAnswered, reply_to
from agents.openworld_chunks import Losses, in_chunks
from agents.openworld_pictures import Part, Pictures, ahead, place_of
from agents.openworld_prompts import Compat, Question, prediction_of
from runner.context import StepContext
from runner.data.images import UnreadableImage
from runner.data.places import Place
from runner.data.sampling import sampled
from runner.errors import StepError
from runner.models.base import ChatModel, ChatReply, ChatRequest, ImagePart, Message
from runner.naming import comma_items

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from runner.artifacts import Datasets

Row = dict[str, Any]


@dataclass(frozen=True)
class Asking:
    """How pictures are asked about.

    ``questions``: by dataset; ``method``: what results call the answers; ``max_tokens``: instead of the question's own.
    """

    questions: Mapping[str, Question]
    method: str = "zero_shot"
    system: str | None = None
    max_tokens: int | None = None
    compat: Compat = "sane"
    logprobs: bool = False


def queries(images: Datasets, split: str, limit: int | None, ctx: StepContext) -> list[Row]:
    """Rows of ``dataset_image`` of ``split``, at most ``limit`` a dataset (drawn with the run's seed), in their order.

    Raises ``StepError`` for a dataset without pictures in that split.
    """
    rows = images.images.drop_columns(["thumbnail"]).to_pylist()
    chosen: list[Row] = []
    for name in (dataset["dataset"] for dataset in images.datasets):
        own = [row for row in rows if row["dataset"] == name]
        wanted = [row for row in own if row["split"] == split]
        if not wanted:
            there = ", ".join(sorted({row["split"] for row in own})) or "none"
            raise StepError(
                f"{name} has no picture in the split {split!r}", step=ctx.step, hint=f"its splits are: {there}"
            )
        chosen += sampled(wanted, limit, ctx.seed, lambda row: str(row["sample_id"]))
    return chosen


class TurnState(TypedDict):
    """Replies so far; the question is outside."""

    replies: list[ChatReply]


@dataclass(frozen=True)
class Conversation:
    """One picture and the rounds of a question about it: the picture first, then the text; later rounds are text alone."""

    lmm: ChatModel
    ctx: StepContext
    asking: Asking
    question: Question
    picture: ImagePart
    item: str

    async def run(self) -> list[ChatReply]:
        """The reply of every round. Raises ``NotAnswered`` where one of them fails."""
        if len(self.question.rounds) == 1:
            return (await self.turn({"replies": []}))["replies"]
        run = self.graph().ainvoke({"replies": []}, {"recursion_limit": len(self.question.rounds) + 5})
        # In a context of its own: a graph without a saver fails where it inherits a run's durability (langgraph 1.2).
        state = await asyncio.create_task(run, context=contextvars.Context())
        return list(state["replies"])

    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """A loop over the rounds. It keeps no checkpoints: the reply cache holds all that was paid for."""
        from langgraph.graph import END, START, StateGraph

        builder = StateGraph(TurnState)
        builder.add_node("turn", self.turn)
        builder.add_edge(START, "turn")
        builder.add_conditional_edges("turn", self._more, {"more": "turn", "done": END})
        return builder.compile(checkpointer=False)

    def _more(self, state: TurnState) -> str:
        return "more" if len(state["replies"]) < len(self.question.rounds) else "done"

    async def turn(self, state: TurnState) -> TurnState:
        """Ask the next round."""
        replies = state["replies"]
        return {"replies": [*replies, await reply_to(self.lmm, self.request(replies), self.ctx)]}

    def request(self, replies: Sequence[ChatReply]) -> ChatRequest:
        """The conversation up to the round after ``replies``; greedy; a reply that is cut off or empty is an answer too."""
        rounds = self.question.rounds
        messages = [Message("system", self.asking.system)] if self.asking.system else []
        messages.append(Message("user", (self.picture, rounds[0])))
        for reply, text in zip(replies, rounds[1:], strict=False):
            messages += [Message("assistant", reply.text), Message("user", text)]
        return ChatRequest(
            tuple(messages), "owc.ask", item=self.item, max_tokens=self.asking.max_tokens or self.question.tokens,
            seed=self.ctx.seed, allow_cut=True, allow_empty=True, logprobs=self.asking.logprobs,
        )  # fmt: skip


async def ask_pictures(
    lmm: ChatModel, rows: Sequence[Row], pictures: Pictures, asking: Asking, ctx: StepContext
) -> list[Row]:
    """Rows of ``owc_prediction`` in the order of ``rows``; a picture or question that is lost has a ``failure``."""
    answers: list[Row] = []
    losses = Losses(ctx, "answers")
    ctx.advance("answers", 0, len(rows))
    async for chunk, parts in ahead(rows, lambda part: pictures.parts(map(place_of, part))):
        work = functools.partial(_answer, lmm, asking, ctx, parts)
        for answer in await in_chunks(chunk, work, ctx, unit="answers", total=False):
            if answer["failure"]:
                losses.add(f"{answer['dataset']}/{answer['sample_id']}", answer["failure"])
            answers.append(answer)
    losses.close()
    return answers


async def _answer(lmm: ChatModel, asking: Asking, ctx: StepContext, parts: Mapping[Place, Part], row: Row) -> Row:
    question = asking.questions[row["dataset"]]
    answer: Row = {
        "method": asking.method, "prompt_key": question.key, "model": lmm.name, "seed": ctx.seed, "n_images": 1,
        **{name: row[name] for name in ("dataset", "sample_id", "source_id", "uri", "target")}, "failure": None,
    }  # fmt: skip
    part = parts[place_of(row)]
    if isinstance(part, UnreadableImage):
        return answer | {"failure": f"the picture cannot be read: {part.message}", "n_images": 0}
    conversation = Conversation(lmm, ctx, asking, question, part, f"{row['dataset']}/{row['sample_id']}")
    start = time.monotonic()
    try:
        replies = await conversation.run()
    except NotAnswered as error:
        return answer | {"failure": str(error)}
    text = replies[-1].text
    spent = measured(replies) | {"ms": (time.monotonic() - start) * 1000}
    return answer | spent | {"reply": text} | answered(prediction_of(question.key, text, asking.compat))


def answered(prediction: str) -> Row:
    """What is scored and judged, and the parts of a comma list."""
    items = comma_items(prediction)
    return {
        "prediction": prediction, "judged": prediction, "n_items": len(items), "first_item": items[0] if items else None,
    }  # fmt: skip


def measured(replies: Sequence[ChatReply]) -> Row:
    """Tokens of all turns; end, log-likelihood (nats) and perplexity exp(-log-likelihood / tokens) of the last one."""
    last = replies[-1]
    cached = [reply.cached_tokens for reply in replies if reply.cached_tokens is not None]
    known = last.log_likelihood is not None and last.completion_tokens > 0
    return {
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "cached_tokens": sum(cached) if cached else None,
        "output_tokens": sum(reply.completion_tokens for reply in replies),
        "finish_reason": last.finish_reason, "cached": all(reply.cached for reply in replies),
        "log_likelihood": last.log_likelihood,
        "perplexity": perplexity(float(last.log_likelihood or 0.0), last.completion_tokens) if known else None,
    }  # fmt: skip


def perplexity(log_likelihood: float, tokens: int) -> float | None:
    """exp(-log_likelihood / tokens); None where that is no number of this machine."""
    try:
        return math.exp(-log_likelihood / tokens)
    except OverflowError:
        return None

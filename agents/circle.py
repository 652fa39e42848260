"""In-context open-world classification: unlabelled pictures get labels, the labels are refined, queries are shown both.

    START -> label (a branch a picture) -> settle -> label ... -> settle -> answer -> END
             pseudo-labels                 barrier   refinements, round by round

Source: "Large Multimodal Models as General In-Context Classifiers" (arXiv 2602.23229), CIRCLE. One graph works for one
dataset and one draw of the context, or for one query of a stream. Its state holds names and labels; pictures stay outside. It keeps no checkpoints: every reply
stands in the reply cache before it is used, so that a run that goes on after a kill asks only what was not answered.
"""

from __future__ import annotations

import asyncio
import contextvars
import operator
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from agents.circle_calls import Row, Talk
from agents.circle_labels import (
    Compat,
    blocks_to_prefill,
    clean_answer,
    clean_refinement,
    final_label,
    fixed_order,
    joined_labels,
    label_row,
    refinement_order,
)
from agents.circle_prompts import Prompts, Shown
from agents.openworld_chunks import Losses
from runner.errors import StepError
from runner.models.base import ImagePart

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

__all__ = [
    "Circle", "CirclePlan", "Compat", "ContextPicture", "Outcome", "blocks_to_prefill", "clean_answer", "clean_refinement",
    "final_label", "joined_labels", "refinement_order",
]  # fmt: skip

Method = Literal["random_labels", "pseudo", "circle"]
ContextOrder = Literal["fixed", "prefix_tree"]


@dataclass(frozen=True)
class CirclePlan:
    """How labels come about: ``rounds`` T of refinement (of ``circle`` alone), order of the examples, when to stop."""

    method: Method = "circle"
    rounds: int = 3
    order: ContextOrder = "fixed"
    early_stop: bool = False

    @property
    def refinements(self) -> int:
        """T, which is 0 for methods that do not refine."""
        return self.rounds if self.method == "circle" else 0


@dataclass(frozen=True)
class ContextPicture:
    """A picture of the context. ``number``: its slot in results; ``history``: labels that it has already."""

    number: int
    row: Row
    picture: ImagePart
    history: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a graph left: histories by picture ([] = left out of the context), rounds run, rows of ``circle_label`` and
    ``circle_call`` in planned order, and what ``answer`` returned."""

    histories: list[list[str]]
    rounds_run: int
    labels: list[Row]
    calls: list[Row]
    answers: list[Row]


class CircleState(TypedDict):
    """``round``: the one under way; ``said``: replies of all branches; ``still``: the last round changed no label."""

    round: int
    histories: list[list[str]]
    said: Annotated[list[Row], operator.add]
    labels: Annotated[list[Row], operator.add]
    answers: list[Row]
    still: bool


class Branch(TypedDict):
    """One picture in one round: its place, those of its examples, and all labels of earlier rounds."""

    round: int
    slot: int
    examples: list[int]
    histories: list[list[str]]


Answer = Callable[[list[Shown]], Awaitable[list[Row]]]
"""Answers the queries, given the context with its final labels."""


@dataclass(frozen=True)
class Circle:
    """The graph for one context. Pictures with a history are examples only; the others are labelled.

    ``answer`` runs when the labels stand; ``episode``: the query that all this is for, when streaming;
    ``required``: a context without any label ends the run.
    """

    talk: Talk
    prompts: Prompts
    plan: CirclePlan
    context: Sequence[ContextPicture]
    answer: Answer
    losses: Losses
    episode: str | None = None
    required: bool = True

    async def run(self) -> Outcome:
        """Label, refine, answer. Raises ``StepError`` where no picture got a label."""
        start: Row = {
            "round": 0, "histories": [list(c.history) for c in self.context], "said": [], "labels": [], "answers": [],
            "still": False,
        }  # fmt: skip
        going = self.graph().ainvoke(start, {"recursion_limit": 2 * self.plan.refinements + 10})
        # In a context of its own: a graph without a saver fails where it inherits a run's durability (langgraph 1.2).
        state = await asyncio.create_task(going, context=contextvars.Context())
        calls = [said["call"] for said in state["said"]]
        return Outcome(state["histories"], max(state["round"] - 1, 0), state["labels"], calls, state["answers"])

    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """One branch a picture; ``settle`` runs when all branches of a round are there."""
        from langgraph.graph import END, START, StateGraph

        builder = StateGraph(CircleState)
        builder.add_node("label", self._label, input_schema=Branch)
        builder.add_node("settle", self._settle)
        builder.add_node("answer", self._answer)
        builder.add_conditional_edges(START, self._next, ["label", "answer"])
        builder.add_edge("label", "settle")
        builder.add_conditional_edges("settle", self._next, ["label", "answer"])
        builder.add_edge("answer", END)
        return builder.compile(checkpointer=False)

    # --- rounds -------------------------------------------------------------------------------------------------------

    @property
    def _targets(self) -> list[int]:
        """Places of the pictures that are to be labelled."""
        return [place for place, picture in enumerate(self.context) if not picture.history]

    async def _next(self, state: CircleState) -> Any:
        """A branch for each picture of the next round, in the order of sending; or the answers."""
        from langgraph.types import Send

        round_ = state["round"]
        if not self._targets or round_ > self.plan.refinements or (self.plan.early_stop and state["still"]):
            return "answer"
        return [
            Send("label", Branch(round=round_, slot=target, examples=examples, histories=state["histories"]))
            for target, examples in (self._first() if round_ == 0 else self._orders(state["histories"]))
        ] or "answer"

    def _first(self) -> list[tuple[int, list[int]]]:
        return [(target, []) for target in self._targets]

    def _orders(self, histories: Sequence[Sequence[str]]) -> list[tuple[int, list[int]]]:
        """Targets with their examples, among the pictures that have a label."""
        live = [place for place, history in enumerate(histories) if history]
        if not live:
            return []
        order = refinement_order if self.plan.order == "prefix_tree" else fixed_order
        listed = [(live[target], [live[i] for i in examples]) for target, examples in order(len(live))]
        return [(target, examples) for target, examples in listed if target in self._targets]

    async def _label(self, state: Branch) -> Row:
        """One picture in one round. It sees labels of earlier rounds only."""
        round_, place = state["round"], state["slot"]
        target = self.context[place]
        if round_ == 0:
            ask = self.prompts.pseudo if self.plan.method == "circle" else self._plainly
            messages = ask(target.picture)
        else:
            shown = [self._shown(i, state["histories"][i]) for i in state["examples"]]
            messages = self.prompts.refine(shown, self._shown(place, state["histories"][place]))
        said = await self.talk.say(
            messages,
            "refine" if round_ else "pseudo",
            round_=round_ or None,
            slot=target.number,
            sample_id=self.episode,
        )
        reply = said.reply
        cut = reply is not None and reply.finish_reason == "length"
        text = None if reply is None else reply.text
        return {"said": [{"round": round_, "slot": place, "reply": text, "cut": cut, "call": said.call}]}

    def _plainly(self, picture: ImagePart) -> Any:
        return self.prompts.plain((), picture)

    def _shown(self, place: int, history: Sequence[str]) -> Shown:
        return Shown(self.context[place].picture, joined_labels(history))

    async def _settle(self, state: CircleState) -> Row:
        """The barrier: all labels of a round change at once."""
        round_, histories = state["round"], [list(history) for history in state["histories"]]
        said = sorted((s for s in state["said"] if s["round"] == round_), key=lambda s: s["slot"])
        rows = []
        for one in said:
            row = label_row(round_, one["slot"], one["reply"], one["cut"], histories[one["slot"]])
            if row["flag"] == "failed":
                self._lost(one, round_)
            if row["label"] is not None:
                histories[one["slot"]].append(row["label"])
            rows.append(self._named(row))
        if self.required and not any(histories):
            raise StepError(
                f"no picture of the context of {self.talk.dataset} got a label: {said[0]['call']['failure'] or 'blank replies'}",
                step=self.talk.ctx.step, hint="see that the model answers questions about single pictures",
            )  # fmt: skip
        still = not any(row["changed"] or row["flag"] == "failed" for row in rows)
        return {"round": round_ + 1, "histories": histories, "labels": rows, "still": still}

    def _named(self, row: Row) -> Row:
        number = self.context[row["slot"]].number
        return row | {"dataset": self.talk.dataset, "seed": self.talk.draw, "slot": number, "episode": self.episode}

    def _lost(self, said: Row, round_: int) -> None:
        what = "it is left out of the context" if round_ == 0 else "its label stays as it was"
        picture = self.context[said["slot"]].row["sample_id"]
        item = f"{self.talk.dataset}/{picture}, seed {self.talk.draw}, round {round_}"
        self.losses.add(item, f"{said['call']['failure'] or 'a blank reply'}; {what}")

    async def _answer(self, state: CircleState) -> Row:
        return {"answers": await self.answer(self.shown(state["histories"]))}

    def shown(self, histories: Sequence[Sequence[str]]) -> list[Shown]:
        """The context as queries see it: pictures with their final labels, those without left out."""
        pairs = zip(self.context, histories, strict=True)
        return [Shown(c.picture, final_label(history)) for c, history in pairs if history]

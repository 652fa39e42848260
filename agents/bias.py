"""The agent that proposes biases: for each class it asks, judges, and asks again with the reasons, within bounds.

    START -> (one branch a target and resample) -> finish -> [review] -> END
                     ask -> judge -> ask ...

State holds names and reasons only. Whatever is paid for stands in the reply cache before it is used, so a branch that runs
again after a kill asks nothing again.
"""

from __future__ import annotations

import asyncio
import functools
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from agents.asking import NotAnswered, ask, asking_loop, sample_of, temperature_of
from agents.brief import Brief
from agents.prompting import prompt
from agents.proposals import Judged, Proposal, ProposalRules, Similar, judge
from agents.replies import biases_schema
from agents.review import REVIEW, approved_rows
from runner.context import StepContext
from runner.models.base import ChatModel, ChatRequest
from runner.naming import normalised

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

Row = dict[str, Any]

_TOKENS_PER_NAME = 8


class TargetState(TypedDict):
    """One branch: the proposals so far (``source`` and draw order kept) and their rows after judging."""

    target: str
    resample: int
    round: int
    proposals: list[Row]
    judged: list[Row]
    failure: str
    rows: Annotated[list[Row], operator.add]


class ProposalState(TypedDict):
    """All branches together: rows of ``c2b_attribute``."""

    rows: Annotated[list[Row], operator.add]
    final: list[Row]


@dataclass(frozen=True)
class ProposalPlan:
    """What to ask for.

    ``include`` are the user's own attributes; ``dimensions`` are hints (names of dimensions, never values); ``best_of``
    draws are merged under the rules; ``repair_rounds`` bounds how often a target with fewer than half of
    ``max_attributes`` is asked again; ``shared``: one set of attributes for all targets.
    """

    max_attributes: int = 8
    min_values: int = 2
    max_values: int = 6
    include: tuple[Proposal, ...] = ()
    exclude: tuple[str, ...] = ()
    dimensions: tuple[str, ...] | None = None
    shared: bool = False
    resamples: int = 1
    best_of: int = 1
    repair_rounds: int = 1
    review: bool = False


@functools.cache
def packaged_dimensions() -> tuple[str, ...]:
    """Names of dimensions along which pictures differ, offered to the model as hints."""
    return tuple(json.loads(resources.files("agents").joinpath("prompts/dimensions.json").read_text("utf8")))


async def propose(
    llm: ChatModel, brief: Brief, plan: ProposalPlan, ctx: StepContext, similar: Similar | None = None
) -> list[Row]:
    """Rows of ``c2b_attribute``: kept, dropped and failed proposals of every target and resample, with reasons."""
    graph = ProposalAgent(llm, brief, plan, ctx, similar).graph()
    state = await graph.ainvoke({"rows": [], "final": []}, {"recursion_limit": 50})
    return list(state["final"])


@dataclass(frozen=True)
class ProposalAgent:
    """The proposal graph around one model; ``graph()`` compiles it."""

    llm: ChatModel
    brief: Brief
    plan: ProposalPlan
    ctx: StepContext
    similar: Similar | None = None

    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """Compiled without a saver of its own: inside a run it uses the run's."""
        from langgraph.graph import END, START, StateGraph

        builder = StateGraph(ProposalState)
        builder.add_node("target", self._branch())
        builder.add_node("finish", self._finish)
        builder.add_conditional_edges(START, self._fan_out, ["target"])
        builder.add_edge("target", "finish")
        if self.plan.review:
            builder.add_node("review", self._review)
            builder.add_edge("finish", "review")
            builder.add_edge("review", END)
        else:
            builder.add_edge("finish", END)
        return builder.compile()

    def _branch(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        return asking_loop(
            TargetState, _BranchOutput, ask=self._ask, judge=self._judge, close=self._close, enough=self._enough
        )

    def _fan_out(self, state: ProposalState) -> list[Any]:
        from langgraph.types import Send

        targets = ("",) if self.plan.shared else self.brief.targets
        start: Row = {"round": 0, "proposals": [], "judged": [], "failure": "", "rows": []}
        self.ctx.advance("targets", 0, len(targets) * self.plan.resamples)
        return [
            Send("target", {"target": target, "resample": resample, **start})
            for resample in range(self.plan.resamples)
            for target in targets
        ]

    # --- one target -------------------------------------------------------------------------------------------------

    async def _ask(self, state: TargetState) -> Row:
        draws = self.plan.best_of if state["round"] == 0 else 1
        wanted = self.plan.max_attributes
        if wanted == 0:
            return {"round": 1}
        requests = [self._request(state, draw) for draw in range(draws)]
        answers = await asyncio.gather(*(ask(self.llm, r, self.ctx) for r in requests), return_exceptions=True)
        found: list[Row] = []
        failure = ""
        for answer in answers:
            if isinstance(answer, NotAnswered):
                failure = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found += [{"attribute": b["bias attribute"], "values": b["bias classes"]} for b in answer["biases"]]
        return {"round": state["round"] + 1, "proposals": state["proposals"] + found, "failure": failure}

    def _request(self, state: TargetState, draw: int) -> ChatRequest:
        plan, resample = self.plan, state["resample"]
        again = [j for j in state["judged"] if j["reason"] and not j["kept"]]
        data = self._data(state["target"], draw + resample)
        if state["round"]:
            data["already proposed"] = [j["attribute"] for j in state["judged"] if j["kept"]]
            data["rejected"] = [{"bias attribute": j["attribute"], "reason": j["reason"]} for j in again[-8:]]
        size = plan.max_attributes * (plan.max_values + 2) * _TOKENS_PER_NAME + 64
        return ChatRequest(
            messages=prompt(
                "biases", data, min_values=plan.min_values, max_values=plan.max_values, again=bool(state["round"])
            ),
            purpose="c2b.biases",
            item=state["target"] or "all targets",
            schema=biases_schema(plan.max_attributes, plan.min_values, plan.max_values, self._free_hints(state)),
            schema_name="biases",
            temperature=temperature_of(resample, draw),
            max_tokens=min(size, 4096),
            seed=self.ctx.seed,
            sample=sample_of(resample, draw, state["round"]),
        )

    def _free_hints(self, state: TargetState) -> tuple[str, ...]:
        """On a second try a model must fill in dimensions it was offered: inventing their names was too much for it."""
        taken = {normalised(j["attribute"]) for j in state["judged"] if j["kept"]}
        return tuple(h for h in self._hints if normalised(h) not in taken) if state["round"] else ()

    def _data(self, target: str, turn: int) -> Row:
        """What the model is told; ``turn`` rotates the hints, so that further draws start elsewhere."""
        brief = self.brief
        data: Row = {"task name": brief.name, "task description": brief.description}
        if not target:
            data["target class"] = "each of: " + ", ".join(brief.caption_name(t) for t in brief.targets)
        elif brief.kind == "multi":
            data |= {"target attribute": brief.name, "target class": brief.caption_name(target)}
        else:
            data["target attribute"] = brief.caption_name(target)
        data["number of biases"] = self.plan.max_attributes
        if hints := self._hints:
            start = turn * self.plan.max_attributes % len(hints)
            data["dimensions"] = [*hints[start:], *hints[:start]]
        return data

    @property
    def _hints(self) -> tuple[str, ...]:
        return packaged_dimensions() if self.plan.dimensions is None else self.plan.dimensions

    def _judge(self, state: TargetState) -> Row:
        proposals = [*self.plan.include, *(Proposal(p["attribute"], tuple(p["values"])) for p in state["proposals"])]
        judged = judge(proposals, self._rules(state["target"]), self.similar)
        return {"judged": [_as_state(j) for j in judged]}

    def _rules(self, target: str) -> ProposalRules:
        targets = (target,) if target else self.brief.targets
        return ProposalRules(
            target_names=tuple(name for t in targets for name in self.brief.names_of(t)),
            classes=tuple(name for c in self.brief.classes for name in self.brief.names_of(c)),
            exclude=self.plan.exclude,
            min_values=self.plan.min_values,
            max_values=self.plan.max_values,
            max_attributes=self.plan.max_attributes,
            hints=self._hints,
        )

    def _enough(self, state: TargetState) -> str:
        proposed = sum(j["kept"] and j["source"] == "llm" for j in state["judged"])
        if 2 * proposed >= self.plan.max_attributes or state["round"] > self.plan.repair_rounds:
            return "enough"
        return "again"

    def _close(self, state: TargetState) -> Row:
        self.ctx.advance("targets", 1)
        targets = (state["target"],) if state["target"] else self.brief.targets
        rows = [_row(target, state["resample"], j) for target in targets for j in state["judged"]]
        for refused in (j for j in state["judged"] if j["source"] == "include" and not j["kept"]):
            self.ctx.warn(f"include: {refused['reason']}", item=f"{state['target']} / {refused['attribute']}")
        proposed = any(j["source"] == "llm" for j in state["judged"])
        if not proposed and state["failure"]:
            self.ctx.failed(state["target"] or "all targets", state["failure"])
            rows += [_failed_row(target, state["resample"], state["failure"]) for target in targets]
        return {"rows": rows}

    # --- all targets ------------------------------------------------------------------------------------------------

    def _finish(self, state: ProposalState) -> Row:
        order = {target: i for i, target in enumerate(self.brief.targets)}
        return {"final": sorted(state["rows"], key=lambda r: (r["resample"], order[r["target"]]))}

    def _review(self, state: ProposalState) -> Row:
        """Ask a person until the answer can be used; nothing here is paid for, so running again at resume is free."""
        from langgraph.types import interrupt

        question: Row = {"kind": REVIEW, "task": self.brief.description, "attributes": state["final"], "problem": None}
        while True:
            answer = interrupt(question)
            try:
                return {"final": approved_rows(answer, state["final"], self.brief, self._rules)}
            except ValueError as error:
                question = {**question, "problem": str(error)}


class _BranchOutput(TypedDict):
    rows: Annotated[list[Row], operator.add]


def _as_state(judged: Judged) -> Row:
    p = judged.proposal
    return {
        "attribute": p.attribute, "values": list(p.values), "source": p.source,
        "kept": judged.kept, "reason": judged.reason,
    }  # fmt: skip


def _row(target: str, resample: int, judged: Mapping[str, Any]) -> Row:
    return {
        "resample": resample,
        "target": target,
        "attribute": judged["attribute"],
        "attribute_norm": normalised(judged["attribute"]),
        "bias_values": judged["values"],
        "source": judged["source"],
        "status": "kept" if judged["kept"] else "dropped",
        "drop_reason": judged["reason"],
    }


def _failed_row(target: str, resample: int, reason: str) -> Row:
    failed = {"attribute": "", "values": [], "source": "llm", "kept": False, "reason": reason}
    return _row(target, resample, failed) | {"status": "failed"}

"""The agent that writes texts for debiasing: for each list it asks, checks, and asks again for what is missing, within bounds.

    START -> (one branch a job) -> END
                 ask -> judge -> ask ...

Whatever is paid for stands in the reply cache before it is used, so a branch that runs again after a kill asks nothing again.
"""

from __future__ import annotations

import asyncio
import contextvars
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypedDict

from agents.asking import NotAnswered, ask, asking_loop, sample_of, temperature_of
from agents.captioning import tidy
from agents.debias_jobs import TEXT_LENGTH, Item, Job, items_schema
from agents.prompting import one_line, prompt
from runner.context import StepContext
from runner.models.base import ChatModel, ChatRequest

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

Row = dict[str, Any]

_TOKENS_PER_TEXT = 48
_SHOWN = 8


class Written(NamedTuple):
    """What came of a job: kept items, replies of which something was refused, and the last reasons."""

    items: list[Item]
    refused: int
    reasons: list[str]


class JobState(TypedDict):
    """One branch: the place of its job, items kept so far, what the last reply held, what was refused and why."""

    job: int
    round: int
    kept: list[Item]
    answer: list[Item]
    rejected: list[Row]
    refused: int
    failure: str
    results: Annotated[list[Row], operator.add]


class WritingState(TypedDict):
    """All branches together."""

    results: Annotated[list[Row], operator.add]


@dataclass(frozen=True)
class Writer:
    """The writing graph around one model. Each batch of a job may be asked for ``1 + retries`` times."""

    llm: ChatModel
    jobs: tuple[Job, ...]
    ctx: StepContext
    retries: int = 3

    async def write(self) -> list[Written]:
        """What came of each job, in their order."""
        going = self.graph().ainvoke({"results": []}, {"recursion_limit": 4 * self._most_rounds() + 20})
        # In a context of its own, without a saver: replies are cached.
        state = await asyncio.create_task(going, context=contextvars.Context())
        results = sorted(state["results"], key=lambda result: int(result["job"]))
        return [Written(result["kept"], result["refused"], result["reasons"]) for result in results]

    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """One branch a job."""
        from langgraph.graph import END, START, StateGraph

        builder = StateGraph(WritingState)
        branch = asking_loop(
            JobState, WritingState, ask=self._ask, judge=self._judge, close=self._close, enough=self._enough
        )
        builder.add_node("job", branch)
        builder.add_conditional_edges(START, self._fan_out, ["job"])
        builder.add_edge("job", END)
        return builder.compile()

    def _fan_out(self, state: WritingState) -> list[Any]:
        from langgraph.types import Send

        self.ctx.advance("lists", 0, len(self.jobs))
        start: Row = {
            "round": 0, "kept": [], "answer": [], "rejected": [], "refused": 0, "failure": "", "results": [],
        }  # fmt: skip
        return [Send("job", {"job": place, **start}) for place in range(len(self.jobs))]

    def _rounds(self, job: Job) -> int:
        return (1 + self.retries) * -(-job.wanted // job.batch)

    def _most_rounds(self) -> int:
        return max((self._rounds(job) for job in self.jobs), default=0)

    async def _ask(self, state: JobState) -> Row:
        job = self.jobs[state["job"]]
        missing = min(job.batch, job.wanted - len(state["kept"]))
        if missing <= 0:
            return {"answer": [], "round": self._rounds(job)}
        try:
            reply = await ask(self.llm, self.request(job, state, missing), self.ctx)
        except NotAnswered as error:
            return {"answer": [], "failure": str(error), "round": state["round"] + 1}
        items = [{slot: tidy(one_line(item[slot], TEXT_LENGTH)) for slot in job.slots} for item in reply["items"]]
        return {"answer": items, "failure": "", "round": state["round"] + 1}

    def request(self, job: Job, state: JobState, missing: int) -> ChatRequest:
        """The question of one round: what is wanted, what is there already, what was refused and why."""
        data: Row = job.data | {"number": missing}
        if job.topics:
            data["topic"] = job.topics[state["round"] % len(job.topics)]
        if state["kept"]:
            data["already written"] = [_texts(item) for item in state["kept"][-_SHOWN:]]
        if state["rejected"]:
            data["rejected"] = state["rejected"][-_SHOWN:]
        return ChatRequest(
            messages=prompt(job.prompt, data, again=bool(state["rejected"]), slots=job.slots, **job.settings),
            purpose=f"sem.prompts.{job.kind}", item=one_line(job.about, 120),
            schema=items_schema(job.slots, missing), schema_name="texts",
            temperature=temperature_of(0, state["round"]), max_tokens=min(64 + _TOKENS_PER_TEXT * missing * len(job.slots), 4096),
            seed=self.ctx.seed, sample=sample_of(0, round_=state["round"]), max_repairs=1,
        )  # fmt: skip

    def _judge(self, state: JobState) -> Row:
        job = self.jobs[state["job"]]
        reasons = job.refusals(state["answer"], state["kept"])
        fit = [item for item, reason in zip(state["answer"], reasons, strict=True) if reason is None]
        unfit = [
            {"text": _texts(item), "reason": reason}
            for item, reason in zip(state["answer"], reasons, strict=True)
            if reason is not None
        ]
        kept = (state["kept"] + fit)[: job.wanted]
        return {
            "kept": kept, "rejected": state["rejected"] + unfit,
            "refused": state["refused"] + bool(unfit or state["failure"]),
        }  # fmt: skip

    def _enough(self, state: JobState) -> str:
        job = self.jobs[state["job"]]
        return "enough" if len(state["kept"]) >= job.wanted or state["round"] >= self._rounds(job) else "again"

    def _close(self, state: JobState) -> Row:
        self.ctx.advance("lists")
        reasons = [one_line(f"{r['reason']}: {r['text']!r}", 160) for r in state["rejected"]]
        said = [*reasons, *([state["failure"]] if state["failure"] else [])]
        result = {"job": state["job"], "kept": state["kept"], "refused": state["refused"], "reasons": said[-3:]}
        return {"results": [result]}


def _texts(item: Item) -> str | Item:
    """An item as it is shown: its text, or its texts by slot."""
    return next(iter(item.values())) if len(item) == 1 else item


async def write(llm: ChatModel, jobs: Sequence[Job], ctx: StepContext, *, retries: int) -> list[Written]:
    """What the model wrote for each job, in their order."""
    return await Writer(llm, tuple(jobs), ctx, retries).write() if jobs else []

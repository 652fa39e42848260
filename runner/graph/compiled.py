"""The plan as a LangGraph graph: one node a plan node, edges along the data, checkpoints in the run's folder.

The state holds only what each node came to (status and key); results travel as artifacts. There is no
``max_concurrency``: with one, finished branches would be run again after a kill. Limits live in the engine and in the
clients of language models.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import aiosqlite
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command

from runner.graph.executor import FINISHED, Executor
from runner.graph.nodes import PlanNode
from runner.graph.plan import Plan

Ends = dict[str, dict[str, Any]]
_ROUNDS_OF_AGENTS = 10_000


def _joined(left: Ends, right: Ends) -> Ends:
    return {**left, **right}


class RunState(TypedDict):
    """``steps``: for each finished node its ``status`` and ``key``."""

    steps: Annotated[Ends, _joined]


def build(plan: Plan, executor: Executor) -> StateGraph[RunState]:
    """The graph. A node waits for all nodes it depends on; failed ones count, and the node then says ``not run``."""
    graph = StateGraph(RunState)
    for node in plan.nodes:
        graph.add_node(node.id, _as_graph_node(node, executor))
        before = [plan.by_key[key].id for key in node.depends_on]
        if before:
            graph.add_edge(before, node.id)
        else:
            graph.add_edge(START, node.id)
    return graph


def _as_graph_node(node: PlanNode, executor: Executor) -> Any:
    async def run_node(state: RunState) -> RunState:
        return {"steps": {node.id: await executor.visit(node, state["steps"])}}

    return run_node


@asynccontextmanager
async def checkpoints(path: Path) -> AsyncIterator[AsyncSqliteSaver]:
    """The saver of a run. A damaged file is moved aside: artifacts, not checkpoints, say what is done."""
    connection = await aiosqlite.connect(path)
    try:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=NORMAL")
        saver = AsyncSqliteSaver(connection)
        await saver.setup()
    except sqlite3.DatabaseError:
        await connection.close()
        path.rename(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
        connection = await aiosqlite.connect(path)
        saver = AsyncSqliteSaver(connection)
    try:
        yield saver
    finally:
        await connection.close()


async def run_graph(executor: Executor, path: Path, answers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run the plan to its end, or on from where this run's checkpoints stand.

    ``answers``: replies to questions by their ids. Returns the questions now open: ``id``, ``step``, ``variant``,
    ``question``. Raises what ended the run early (``Interrupted``, with ``fail_fast`` a ``StepError``).
    """
    state = executor.record.state
    async with checkpoints(path) as saver:
        graph: Any = build(executor.plan, executor).compile(checkpointer=saver)
        config = _config(state["thread"])
        snapshot = await graph.aget_state(config)
        start: Any = {"steps": {}}
        if _can_go_on(snapshot, executor):
            start = Command(resume=dict(answers)) if answers else None
        elif snapshot.created_at is not None:
            state["thread"] += 1
            config = _config(state["thread"])
        await graph.ainvoke(start, config, durability="sync")
        return _questions(await graph.aget_state(config), executor.plan)


def _config(thread: int) -> dict[str, Any]:
    return {"configurable": {"thread_id": str(thread)}, "recursion_limit": _ROUNDS_OF_AGENTS}


def _can_go_on(snapshot: Any, executor: Executor) -> bool:
    """Whether a thread was left in the middle and all it counts as finished is still there."""
    if not snapshot.next:
        return False
    ends: Ends = dict(snapshot.values.get("steps", {}))
    for task in snapshot.tasks:
        ends |= (task.result or {}).get("steps", {}) if isinstance(task.result, dict) else {}
    return all(end["status"] in FINISHED and end["key"] in executor.settled for end in ends.values())


def _questions(snapshot: Any, plan: Plan) -> list[dict[str, Any]]:
    nodes = {node.id: node for node in plan.nodes}
    found = []
    for task in snapshot.tasks:
        place = nodes[task.name].first
        for interrupt in task.interrupts:
            row = {"id": interrupt.id, "step": place.step, "variant": place.variant, "question": interrupt.value}
            found.append(row)
    return found

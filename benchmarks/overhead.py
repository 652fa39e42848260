"""What the runner adds to a step and to an item, beside the work itself.

    python benchmarks/overhead.py

A chain of steps that do nothing is run through the whole machine: spec, plan, LangGraph with checkpoints, artifacts with
fsync, rows into DuckDB. The cost of a step is the difference between a long and a short chain, divided by the number of
steps between them, so that start-up falls out. Beside it: the same chain through bare LangGraph with the same saver, and
the cost of an item that a step tracks and saves.
"""

from __future__ import annotations

import asyncio
import operator
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

from results.store import ResultsStore
from results.tables import arrow_table
from runner.context import StepContext, item_key
from runner.graph import Workspace, execute
from runner.spec import compile_text
from runner.steps import Artifact, Rows, Table, define

SHORT, LONG = 5, 55
ITEMS = 5_000


@dataclass(frozen=True)
class Number(Artifact):
    """One row."""

    value: int
    rows: Annotated[Table, Rows("encoder_score")]


def _number(value: int) -> Number:
    row = {"head": "h", "dataset": "d", "metric": "m", "value": float(value), "n": 1}
    return Number(value, arrow_table("encoder_score", [row]))


def first(ctx: StepContext, *, start: int = 0) -> Number:
    """Begin a chain."""
    return _number(start)


def following(ctx: StepContext, *, before: Number) -> Number:
    """Add one."""
    return _number(before.value + 1)


def with_items(ctx: StepContext, *, items: int) -> Number:
    """Track and save items."""
    for i in ctx.track(range(items)):
        key = item_key("bench", i)
        if ctx.items.get(key) is None:
            ctx.items.put(key, b"x" * 100)
    return _number(items)


STEPS = {f.__name__: define(f.__name__, f, version="1") for f in (first, following, with_items)}


def chain(length: int) -> str:
    """A spec with ``length`` steps, each waiting for the one before."""
    lines = ["name: bench", "steps:", "  s0: {uses: first}"]
    lines += [f"  s{i}: {{uses: following, before: $s{i - 1}}}" for i in range(1, length)]
    return "\n".join(lines)


def run(text: str, folder: Path) -> float:
    """Seconds of one run in ``folder``."""
    spec = compile_text(text, "bench.yaml", folder, steps=STEPS, providers={})
    workspace = Workspace(spec.results.parent).create()
    start = time.perf_counter()
    outcome = execute(spec, workspace, ResultsStore(spec.results), device="cpu")
    seconds = time.perf_counter() - start
    workspace.close()
    assert outcome.status == "finished", outcome
    return seconds


def bare_langgraph(length: int, folder: Path) -> float:
    """Seconds of the same chain in LangGraph alone, with its SQLite saver."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    from langgraph.graph import END, START, StateGraph

    class State(TypedDict):
        values: Annotated[list[int], operator.add]

    async def go() -> float:
        graph = StateGraph(State)
        names = [f"s{i}" for i in range(length)]
        for name in names:
            graph.add_node(name, lambda state: {"values": [1]})
        for before, after in zip([START, *names], [*names, END], strict=True):
            graph.add_edge(before, after)
        async with AsyncSqliteSaver.from_conn_string(str(folder / "bare.sqlite")) as saver:
            compiled = graph.compile(checkpointer=saver)
            start = time.perf_counter()
            config: Any = {"configurable": {"thread_id": "1"}, "recursion_limit": length + 5}
            await compiled.ainvoke({"values": []}, config, durability="sync")
            return time.perf_counter() - start

    return asyncio.run(go())


def per_step(measure: Callable[[int, Path], float]) -> float:
    """Milliseconds a step, from a short and a long chain in fresh folders."""
    seconds = []
    for length in (SHORT, LONG):
        with tempfile.TemporaryDirectory() as folder:
            seconds.append(measure(length, Path(folder)))
    return 1000 * (seconds[1] - seconds[0]) / (LONG - SHORT)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        run(chain(2), Path(folder))  # imports
    steps = [per_step(lambda n, folder: run(chain(n), folder)) for _ in range(3)]
    bare = [per_step(bare_langgraph) for _ in range(3)]
    print(f"a step, first run          {sorted(steps)[1]:7.2f} ms")
    print(f"  of which bare LangGraph  {sorted(bare)[1]:7.2f} ms")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(chain(LONG), folder)
        print(
            f"a step found in the cache  {1000 * run(chain(LONG), folder) / LONG:7.2f} ms (start-up of the run included)"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty = run("name: i\nsteps: {a: {uses: with_items, items: 1}}", folder / "a")
        full = run(f"name: i\nsteps: {{a: {{uses: with_items, items: {ITEMS}}}}}", folder / "b")
        print(f"an item, tracked and saved {1000 * (full - empty) / ITEMS:7.3f} ms")


if __name__ == "__main__":
    main()

"""Steps and specs to run the executor with, and what the child processes of the kill tests do (``child``)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from results.tables import arrow_table
from runner.context import StepContext, item_key
from runner.errors import DataError, Position
from runner.models.registry import ModelConfig, Services, model_link, provider, step_link
from runner.references import InputPath, ResolvedPath
from runner.spec.model import CompiledSpec, Reference, StepNode, Variant
from runner.steps import Arrays, Artifact, Folder, ModelHandle, Rows, Table, define

LOG = "SAMPLE_LOG"
PAUSE = "SAMPLE_PAUSE"
FAIL = "SAMPLE_FAIL"


def log(text: str) -> None:
    """One line for one piece of work done; a single append, so that several processes may write."""
    if os.environ.get(LOG):
        descriptor = os.open(os.environ[LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{text}\n".encode())
        os.close(descriptor)


def pause() -> float:
    return float(os.environ.get(PAUSE, "0"))


def scores(values: list[float]) -> Any:
    rows = [{"head": "h", "dataset": "d", "metric": f"m{i}", "value": v, "n": i} for i, v in enumerate(values)]
    return arrow_table("encoder_score", rows)


@dataclass(frozen=True)
class Numbers(Artifact):
    values: list[float]
    scores: Annotated[Table, Rows("encoder_score")]


@dataclass(frozen=True)
class Everything(Artifact):
    scores: Annotated[Table, Rows("encoder_score")]
    extra: Table
    weights: Arrays
    files: Folder
    count: int


class Scale(ModelHandle):
    kind = "scale"

    def __init__(self, factor: float) -> None:
        log("load")
        self.factor = factor

    def close(self) -> None:
        log("unload")


@provider("sample_scale")
class ScaleConfig(ModelConfig):
    kind = Scale
    factor: float
    port: int = 0
    base: model_link(Scale) | None = None
    head: step_link("arrays") | None = None
    path: InputPath | None = None

    def identity(self) -> dict[str, Any]:
        return self.model_dump(exclude={"port"})

    def load(self, services: Services) -> Scale:
        base = services.linked["base"].factor if "base" in services.linked else 1.0
        extra = float(services.linked["head"]["w"].sum()) if "head" in services.linked else 0.0
        return Scale(self.factor * base + extra)


def numbers(ctx: StepContext, *, count: int = 3, start: float = 0.0) -> Numbers:
    """Count up, item by item."""
    log(f"run {ctx.step}")
    values = []
    for i in ctx.track(range(count)):
        values.append(float(item(ctx, ["numbers", start, i], start + i)))
    return Numbers(values, scores(values))


def item(ctx: StepContext, key: list[Any], value: float) -> float:
    known = ctx.items.get(item_key(*key))
    if known is None:
        time.sleep(pause())
        known = json.dumps(value).encode()
        ctx.items.put(item_key(*key), known)
        log(f"item {json.dumps(key)}")
    return json.loads(known)


def seeded(ctx: StepContext, *, numbers: Numbers) -> Numbers:
    """Noise that only the seed decides."""
    log(f"run {ctx.step}")
    noise = np.random.default_rng(ctx.seed).normal(size=len(numbers.values))
    values = [a + float(b) for a, b in zip(numbers.values, noise, strict=True)]
    return Numbers(values, scores(values))


def scaled(ctx: StepContext, *, numbers: Numbers, by: float | Scale = 2.0) -> Numbers:
    """Multiply."""
    log(f"run {ctx.step}")
    time.sleep(pause())
    factor = by.factor if isinstance(by, Scale) else by
    values = [factor * v for v in numbers.values]
    return Numbers(values, scores(values))


def total(ctx: StepContext, *, parts: list[Numbers], named: dict[str, Numbers] | None = None) -> Numbers:
    """Add up, elementwise."""
    log(f"run {ctx.step}")
    several = [*parts, *(named or {}).values()]
    values = [float(sum(vs)) for vs in zip(*(p.values for p in several), strict=True)]
    if os.environ.get(FAIL) == ctx.step:
        raise ValueError("told to fail")
    for i, value in enumerate(values):
        if value == float(os.environ.get("SAMPLE_FAILED_ITEM", "nan")):
            ctx.failed(f"item {i}", "told to fail")
    return Numbers(values, scores(values))


def everything(ctx: StepContext, *, numbers: Numbers, path: InputPath | None = None) -> Everything:
    """One output of every kind."""
    import pyarrow as pa

    log(f"run {ctx.step}")
    folder = ctx.folder("files")
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "a.txt").write_text("a")
    (folder / "b.bin").write_bytes(bytes(1000))
    weights = {"w": np.asarray(numbers.values, np.float32).reshape(-1, 1), "i": np.arange(3)}
    return Everything(scores(numbers.values), pa.table({"x": [1, 2]}), weights, folder, len(numbers.values))


def picked(ctx: StepContext, *, scores: Annotated[Table, Rows("encoder_score")], weights: Arrays, files: Folder,
           count: int) -> Numbers:  # fmt: skip
    """Take single outputs of a step."""
    log(f"run {ctx.step}")
    from graph_sample import scores as table

    assert (files / "sub" / "a.txt").read_text() == "a"
    values = [float(scores["value"][0].as_py()), float(weights["w"].sum()), float(count)]
    return Numbers(values, table(values))


class AgentState(TypedDict):
    done: Annotated[list[float], lambda a, b: a + b]
    values: list[float]
    answer: Any


async def agent(ctx: StepContext, *, numbers: Numbers, review: bool = False) -> Numbers:
    """A LangGraph subgraph that fans out over the numbers, each saved as an item; with review it asks a person."""
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Send, interrupt

    log(f"run {ctx.step}")

    async def branch(task: dict[str, Any]) -> dict[str, Any]:
        ctx.check()
        await asyncio.sleep(pause())
        return {"done": [item(ctx, ["agent", task["value"]], task["value"] + 100)]}

    async def ask(state: AgentState) -> dict[str, Any]:
        return {"answer": interrupt({"proposals": sorted(state["done"])}) if review else 0}

    graph = StateGraph(AgentState)
    graph.add_node("branch", branch)
    graph.add_node("ask", ask)
    graph.add_conditional_edges(START, lambda s: [Send("branch", {"value": v}) for v in s["values"]], ["branch"])
    graph.add_edge("branch", "ask")
    graph.add_edge("ask", END)
    end = await graph.compile().ainvoke({"done": [], "values": numbers.values, "answer": None})
    ctx.warn("agents may be wrong")
    values = [v + float(end["answer"]) for v in end["done"]]
    return Numbers(values, scores(values))


def wrong(ctx: StepContext, *, how: str) -> Numbers:
    """Return something that is not what was promised."""
    good = scores([1.0])
    if how == "class":
        return 5  # type: ignore[return-value]
    if how == "column":
        return Numbers([1.0], good.drop_columns(["value"]))
    if how == "extra":
        return Numbers([1.0], good.append_column("valeu", [[1.0]]))
    if how == "type":
        return Numbers([1.0], good.set_column(good.schema.get_field_index("value"), "value", [["1.0"]]))
    if how == "null":
        return Numbers([1.0], good.set_column(good.schema.get_field_index("head"), "head", [[None]]))
    if how == "value":
        return Numbers(["x"], good)  # type: ignore[list-item]
    if how == "table":
        return Numbers([1.0], [1.0])
    raise DataError("the data is bad", hint="bring better data")


STEPS = {
    f"sample.{f.__name__}": define(f"sample.{f.__name__}", f, version="1", estimate=None)
    for f in (numbers, scaled, total, everything, picked, agent, wrong, seeded)
}

MATRIX = {
    "name": "matrix",
    "sweep": {"by": [2.0, 3.0]},
    "models": {"scale": {"provider": "sample_scale", "factor": 1.5}},
    "steps": {
        "base": {"uses": "sample.numbers", "count": 6},
        "left": {"uses": "sample.scaled", "numbers": "$base", "by": "$params.by"},
        "right": {"uses": "sample.scaled", "numbers": "$base", "by": "$scale"},
        "noise": {"uses": "sample.seeded", "numbers": "$base"},
        "think": {"uses": "sample.agent", "numbers": "$base"},
        "join": {"uses": "sample.total", "parts": ["$left", "$right"], "named": {"a": "$think", "n": "$noise"}},
        "all": {"uses": "sample.everything", "numbers": "$join"},
        "pick": {"uses": "sample.picked", "scores": "$all.scores", "weights": "$all.weights", "files": "$all.files",
                 "count": "$all.count"},
    },
}  # fmt: skip


def compile_sample(text: str, file: str, base: Path, overrides: Any = ()) -> CompiledSpec:
    """A compiled spec from JSON in the shape of the spec language, with no more checking than the tests need."""
    spec = json.loads(text)
    params = spec.get("params", {}) | {k: json.loads(v) for k, v in (o.split("=", 1) for o in overrides)}
    sweep = spec.get("sweep", {})
    variants = []
    for combination in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, combination, strict=True))
        name = ",".join(f"{k}={v}" for k, v in chosen.items())
        variants.append(_variant(spec, name, {"seed": spec.get("seed", 0), **params, **chosen}, file, base))
    return CompiledSpec(
        spec["name"], "", None, spec.get("seed", 0), base / "out" / "results.duckdb", spec.get("budget", {}),
        text, Path(file), tuple(overrides), {k: tuple(v) for k, v in sweep.items()}, tuple(variants),
    )  # fmt: skip


def _variant(spec: dict[str, Any], name: str, params: dict[str, Any], file: str, base: Path) -> Variant:
    models = {
        n: ScaleConfig.model_validate(m, context={"base": base}) for n, m in spec.get("models", {}).items()
    }  # fmt: skip
    steps = {n: _step(n, line, s, models, params, file, base) for line, (n, s) in enumerate(spec["steps"].items(), 1)}
    return Variant(name, params, models, steps)


def _step(name: str, line: int, written: dict[str, Any], models: Any, params: Any, file: str, base: Path) -> StepNode:
    definition = STEPS[written["uses"]]
    position = Position(line, 1, Path(file).name)
    values = {p.name: p.default for p in definition.params.values() if not p.required}
    references: dict[str, Any] = {}

    def refer(text: str) -> Reference:
        target, _, field = text[1:].partition(".")
        return Reference("model" if target in models else "step", target, field or None, position)

    for key, value in written.items():
        if isinstance(value, str) and value.startswith("$params."):
            values[key] = params[value.removeprefix("$params.")]
        elif isinstance(value, str) and value.startswith("$"):
            references[key] = refer(value)
        elif isinstance(value, list) and value and str(value[0]).startswith("$"):
            references[key] = tuple(map(refer, value))
        elif isinstance(value, dict):
            references[key] = {k: refer(v) for k, v in value.items()}
        elif key == "path":
            values[key] = ResolvedPath(base / value)
        elif key != "uses":
            values[key] = value
    values = {k: v for k, v in values.items() if k not in references}
    return StepNode(name, definition, values, references, position)


def sample_spec(folder: Path, spec: dict[str, Any], overrides: Any = ()) -> CompiledSpec:
    """``spec`` as if it were written in ``folder``."""
    return compile_sample(json.dumps(spec), str(folder / "spec.json"), folder, overrides)


def kill_at(number: int, signal_number: int) -> None:
    """Send this process a signal at its ``number``-th fsync or rename."""
    count = itertools.count(1)

    def counting(function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if next(count) == number:
                os.kill(os.getpid(), signal_number)
            return function(*args, **kwargs)

        return counted

    os.fsync = counting(os.fsync)
    os.rename = counting(os.rename)
    Path.rename = counting(Path.rename)  # type: ignore[method-assign]


def child(path: str, kill_number: int | None, signal_number: int, environment: dict[str, str]) -> None:
    """Execute the spec in ``path`` with the real results database and exit with the outcome's code."""
    from results.store import ResultsStore
    from runner.graph import Workspace, execute

    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if kill_number is not None:
        kill_at(kill_number, signal_number)
    spec = compile_sample(Path(path).read_text(), path, Path(path).parent)
    outcome = execute(spec, Workspace(spec.results.parent), ResultsStore(spec.results), device="cpu")
    print("\n".join(outcome.lines()), flush=True)
    sys.exit(outcome.exit_code)

"""Running a spec: which run it is, one attempt of it, and what came of it.

The same spec with the same overrides and contents goes on with its unfinished run; anything else begins a new one.
Nothing is planned again under way: what a run does is fixed when it begins (``plan.json``).
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.engines.base import Engine
from runner.errors import (
    EXIT_BROKE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_PARTIAL,
    EXIT_WAITING,
    BudgetExceeded,
    Interrupted,
    RunnerError,
    StepError,
    UsageError,
)
from runner.graph import atomic, provenance
from runner.graph.journal import RunJournal
from runner.graph.nodes import Placement
from runner.graph.plan import AssetSource, Plan, make_plan
from runner.graph.progress import Quiet, RunSink, default_sink
from runner.graph.record import UNFINISHED, RunRecord, is_same_spec, now, overrides
from runner.graph.sink import Recorder, ResultsSink
from runner.graph.stop import RunBudget, StopSwitch, signals_turn
from runner.graph.store import ArtifactStore, DamagedArtifact
from runner.graph.workspace import RunFolder, Workspace

if TYPE_CHECKING:
    from runner.graph.executor import Executor
    from runner.spec.model import CompiledSpec

Compile = Callable[[str, str, Path, list[str]], "CompiledSpec"]
_EXIT_CODES = {
    "finished": EXIT_OK,
    "failed": EXIT_BROKE,
    "partial": EXIT_PARTIAL,
    "waiting": EXIT_WAITING,
    "interrupted": EXIT_INTERRUPTED,
}


@dataclass(frozen=True)
class RunOutcome:
    """How an attempt ended. ``counts``: steps by status, ``failed_items`` and ``not_run``; ``command`` goes on.

    ``fail_on``: the spec's bars, numbers of verdicts from which the command fails.
    """

    run_id: str
    status: str
    folder: Path
    counts: Mapping[str, int]
    seconds: float
    errors: tuple[RunnerError, ...] = ()
    questions: tuple[Mapping[str, Any], ...] = ()
    command: str = ""
    fail_on: Mapping[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """Of the command line."""
        return _EXIT_CODES[self.status]

    def lines(self) -> list[str]:
        """What to tell the user at the end."""
        parts = [f"{number} {name.replace('_', ' ')}" for name, number in self.counts.items() if number]
        lines = [f"run      {self.run_id}  {self.status}: {', '.join(parts)}; {self.seconds:.1f} s"]
        lines += [f"error: {error}" for error in self.errors]
        for question in self.questions:
            lines.append(f"waits for a person: step {question['step']}, see `runner status {self.run_id}`")
        if self.questions:
            lines.append(f"answer with: runner resume {self.run_id} --approve FILE")
        elif self.status in UNFINISHED:
            lines.append(f"to go on: {self.command}")
        elif self.status == "partial":
            lines.append(f"to try the failed items again: {self.command} --retry-failed")
        return lines


@dataclass(frozen=True)
class Options:
    """How to run. ``engine``, ``assets`` and ``device`` default to this process, the packaged ones, what is found."""

    sink: RunSink = field(default_factory=Quiet)
    stop: StopSwitch = field(default_factory=StopSwitch)
    fail_fast: bool = False
    engine: Callable[[], Engine] | None = None
    device: str | None = None


def run_spec(
    spec: CompiledSpec, workspace: Workspace, *, fail_fast: bool = False, retry_failed: bool = False
) -> RunOutcome:
    """``execute`` with the results file of the spec and progress on standard error."""
    from results.store import ResultsStore

    results = ResultsStore(spec.results)
    return execute(spec, workspace, results, sink=default_sink(), fail_fast=fail_fast, retry_failed=retry_failed)


def execute(
    spec: CompiledSpec,
    workspace: Workspace,
    results: ResultsSink,
    *,
    sink: RunSink | None = None,
    stop: StopSwitch | None = None,
    assets: AssetSource | None = None,
    engine: Callable[[], Engine] | None = None,
    device: str | None = None,
    fail_fast: bool = False,
    retry_failed: bool = False,
) -> RunOutcome:
    """Run ``spec``, or go on with its unfinished run; rows go to ``results``.

    Errors of steps do not raise: they are in the outcome. Raises ``ResultsBusy`` where another process works on the
    same run, ``AssetError`` and ``DataError`` where inputs are missing before anything ran.
    """
    options = Options(sink or Quiet(), stop or StopSwitch(), fail_fast, engine, device)
    plan = make_plan(
        spec, workspace.create(), assets=assets, fetch=True, say=options.sink.say, retry_failed=retry_failed
    )
    folder = _unfinished_run(plan, workspace)
    if folder is None:
        folder = workspace.new_run(spec.name)
        folder.lock.acquire()
    try:
        return _attempt(plan, workspace, results, folder, options, {})
    finally:
        folder.lock.release()


def resume_run(
    workspace: Workspace,
    run_id: str,
    answer: Any,
    *,
    results: ResultsSink | None = None,
    sink: RunSink | None = None,
    stop: StopSwitch | None = None,
    assets: AssetSource | None = None,
    engine: Callable[[], Engine] | None = None,
    device: str | None = None,
    compile: Compile | None = None,
) -> RunOutcome:
    """Answer what a waiting run asks, and go on.

    ``answer``: the reply; where several steps ask, a dict of replies by step (``step`` or ``step [variant]``).
    ``results`` defaults to the results file that the run began with. Raises ``UsageError`` where the run does not wait,
    or what it depends on has changed.
    """
    folder = workspace.run(run_id)
    with folder.lock:
        record = folder.record()
        replies = _replies(record, answer, run_id)
        spec = (compile or _compiled)(*_stored_spec(folder, record))
        options = Options(
            sink or (default_sink() if results is None else Quiet()), stop or StopSwitch(), False, engine, device
        )
        plan = make_plan(spec, workspace.create(), assets=assets, fetch=True, say=options.sink.say)
        if plan.key != record["state"]["plan_key"]:
            raise UsageError(
                f"run {run_id} cannot go on: files, models or steps it depends on have changed since",
                hint=f"begin a new run: {_command(spec)}",
            )
        return _attempt(plan, workspace, results or _results_of(record), folder, options, replies)


def _results_of(record: Mapping[str, Any]) -> ResultsSink:
    from results.store import ResultsStore

    return ResultsStore(Path(record["state"]["results"]))


def _stored_spec(folder: RunFolder, record: Mapping[str, Any]) -> tuple[str, str, Path, list[str]]:
    path = Path(record["run"]["spec_path"] or folder.spec_path)
    return folder.spec_path.read_text("utf8"), str(path), path.parent, list(record["run"]["overrides"])


def _compiled(text: str, file: str, base: Path, overrides: list[str]) -> CompiledSpec:
    from runner.spec import compile_text

    return compile_text(text, file, base, overrides)


def _replies(record: Mapping[str, Any], answer: Any, run_id: str) -> dict[str, Any]:
    questions = record.get("questions", [])
    if record["run"]["status"] != "waiting" or not questions:
        raise UsageError(f"run {run_id} does not wait for an answer; it is {record['run']['status']}")
    if len(questions) == 1:
        return {questions[0]["id"]: answer}
    labels = {str(Placement(q["variant"], q["step"])): q["id"] for q in questions}
    if not isinstance(answer, dict) or not set(answer) <= set(labels) or not answer:
        raise UsageError(
            f"run {run_id} asks {len(questions)} questions", hint=f"answer by step: {', '.join(sorted(labels))}"
        )
    return {labels[label]: reply for label, reply in answer.items()}


def _unfinished_run(plan: Plan, workspace: Workspace) -> RunFolder | None:
    """The newest unfinished run of the same spec, overrides and contents, locked; None where there is none."""
    for folder in workspace.runs():
        record = _record_or_none(folder)
        if record is None or not is_same_spec(record, plan.spec):
            continue
        if record["run"]["status"] not in UNFINISHED or record.get("state", {}).get("plan_key") != plan.key:
            return None
        folder.lock.acquire()
        if folder.record()["run"]["status"] in UNFINISHED:
            return folder
        folder.lock.release()
        return None
    return None


def _record_or_none(folder: RunFolder) -> dict[str, Any] | None:
    try:
        record = folder.record()
    except RunnerError:
        return None
    return record if isinstance(record.get("run"), dict) else None


def _command(spec: CompiledSpec) -> str:
    settings = [word for one in overrides(spec) for word in ("--set", one)]
    return shlex.join(["runner", "exec", str(spec.path), *settings])


def _attempt(
    plan: Plan,
    workspace: Workspace,
    results: ResultsSink,
    folder: RunFolder,
    options: Options,
    answers: Mapping[str, Any],
) -> RunOutcome:
    with signals_turn(options.stop, options.sink.say):
        return _Attempt(plan, workspace, results, folder, options).run(answers)


class _Attempt:
    """One attempt of a run, from its lock to its last row."""

    def __init__(
        self, plan: Plan, workspace: Workspace, results: ResultsSink, folder: RunFolder, options: Options
    ) -> None:
        self.plan, self.workspace, self.folder, self.options = plan, workspace, folder, options
        before = folder.record() if folder.record_path.exists() else None
        self.device = options.device or provenance.device()
        atomic.remove_leftovers(folder.path)
        self._store_spec()
        self.store = ArtifactStore(workspace)
        self.journal = RunJournal(folder, self._is_valid)
        self.record = RunRecord(folder, plan, before, self._environment())
        spent = self.record.state["spent"] | self.journal.spent()
        self.budget = RunBudget(plan.spec.budget, spent, self.record.run["seconds"], options.stop)
        self.recorder = Recorder(self.record, self.journal, results)
        self.error: RunnerError | None = None

    def _store_spec(self) -> None:
        import json

        if not self.folder.plan_path.exists():
            atomic.write_text(self.folder.spec_path, self.plan.spec.text)
            atomic.write_text(self.folder.plan_path, json.dumps(self.plan.to_json(), ensure_ascii=False))

    def _environment(self) -> dict[str, Any]:
        commit = provenance.git_commit(Path(self.plan.spec.path).parent)
        return {"device": self.device, "versions": provenance.versions(), "git_commit": commit}

    def _is_valid(self, place: Placement) -> bool:
        """Whether messages of a step stand: its artifact is there and this run made it."""
        node = next((n for n in self.plan.nodes if place in n.placements), None)
        try:
            manifest = self.store.manifest(node.key) if node and node.done else None
        except DamagedArtifact:
            return False
        return manifest is not None and manifest.meta.run == self.folder.run_id

    def run(self, answers: Mapping[str, Any]) -> RunOutcome:
        """Run to the end and tell what came of it. Errors of the results database raise."""
        sink = self.options.sink
        self.folder.write_record(self.record.to_json())
        sink.plan([node.label for node in self.plan.nodes])
        try:
            return self._concluded(self._status(self._executed(answers)))
        finally:
            with contextlib.suppress(Exception):
                self.recorder.close()
            sink.close()

    def _executed(self, answers: Mapping[str, Any]) -> Executor:
        from runner.engines.local import LocalEngine
        from runner.engines.models import ModelPool
        from runner.graph.executor import Executor
        from runner.graph.inputs import Inputs

        pool = ModelPool()
        engine = (self.options.engine or LocalEngine)()
        self.options.stop.listen(engine.stop)
        inputs = Inputs(self.plan, self.store, pool, self.device)
        executor = Executor(
            self.plan, self.workspace, self.record, self.journal, self.recorder, engine,
            inputs, self.options.sink, self.budget, self.device,
            self.options.fail_fast,
        )  # fmt: skip
        try:
            self.recorder.publish()
            self._tell_of_cached_items()
            executor.settle()
            asyncio.run(self._graph(executor, answers))
        except (Interrupted, StepError, BudgetExceeded) as error:
            self.error = error
        finally:
            self.record.noted(inputs.notes())
            pool.close()
        return executor

    async def _graph(self, executor: Executor, answers: Mapping[str, Any]) -> None:
        from runner.graph.compiled import run_graph

        try:
            self.record.questions = await run_graph(executor, self.folder.checkpoints_path, answers)
        finally:
            await executor.engine.close()

    def _tell_of_cached_items(self) -> None:
        """Warnings and given-up items of steps that other runs made belong to this run's messages too."""
        from runner.graph.journal import StepJournal

        for node in self.plan.nodes:
            manifest = self.store.manifest(node.key) if node.done and self.store.exists(node.key) else None
            if manifest is not None and manifest.meta.run != self.folder.run_id:
                journal = StepJournal(self.journal, node.first)
                for level, pairs in (("warning", manifest.meta.warnings), ("failed", manifest.meta.failures)):
                    for item, text in pairs:
                        journal.message({"level": level, "item": item, "text": text})

    def _status(self, executor: Executor) -> str:
        rows = self.record.steps()
        if isinstance(self.error, Interrupted):
            return "interrupted"
        if self.record.questions:
            return "waiting"
        if executor.failures or self.error is not None:
            self.error = self.error or next(iter(executor.failures.values()))
            self.errors = tuple(executor.failures.values()) or (self.error,)
            return "failed"
        return "partial" if any(row["failed_items"] for row in rows) else "finished"

    errors: tuple[RunnerError, ...] = ()

    def _concluded(self, status: str) -> RunOutcome:
        run = self.record.run
        run |= {"status": status, "finished": now(), "seconds": round(self.budget.seconds, 3)}
        run["error"] = self.error.message if self.error and status == "failed" else None
        self.record.state["spent"] = dict(self.budget.spent)
        self.recorder.publish()
        return RunOutcome(
            self.folder.run_id, status, self.folder.path, self._counts(), run["seconds"],
            self.errors, tuple(self.record.questions), _command(self.plan.spec), self.plan.spec.fail_on,
        )  # fmt: skip

    def _counts(self) -> dict[str, int]:
        rows = self.record.steps()
        names = ("done", "cached", "failed", "interrupted", "waiting")
        counts = {name: sum(row["status"] == name for row in rows) for name in names}
        counts["not_run"] = sum(len(node.placements) for node in self.plan.nodes) - len(rows)
        counts["failed_items"] = sum(row["failed_items"] or 0 for row in rows)
        return counts

"""What a node of the graph does: find its artifact or make it, and say what became of it.

Invariants: a step whose artifact is sound is not run; a step runs in one process at a time; rows are handed on only
when the artifact is in place; a failed step stops nothing but what depends on it.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from langgraph.errors import GraphBubbleUp

from runner.context import StepContext
from runner.engines.base import Engine, StepCall
from runner.errors import Interrupted, RunnerError, StepError
from runner.graph.inputs import Inputs
from runner.graph.journal import RunJournal, StepJournal
from runner.graph.nodes import PlanNode
from runner.graph.plan import Plan
from runner.graph.progress import LabelledSink, RunSink
from runner.graph.record import RunRecord
from runner.graph.sink import Recorder
from runner.graph.stop import RunBudget
from runner.graph.store import ArtifactStore, DamagedArtifact, Manifest, Meta
from runner.graph.workspace import Workspace
from runner.steps import Artifact

FINISHED = ("done", "cached")
_LOCK_POLL_SECONDS = 0.05
_REPAIRS = 3


@dataclass
class Executor:
    """Runs the nodes of one plan for one attempt of a run. ``failures`` holds the error of each failed node by id."""

    plan: Plan
    workspace: Workspace
    record: RunRecord
    journal: RunJournal
    recorder: Recorder
    engine: Engine
    inputs: Inputs
    sink: RunSink
    budget: RunBudget
    device: str
    fail_fast: bool = False
    failures: dict[str, StepError] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)

    @property
    def store(self) -> ArtifactStore:
        """The artifacts."""
        return self.inputs.store

    def settle(self) -> None:
        """Take over what is finished already: check its bytes, store its rows for this run. Damaged ones are dropped."""
        for node in self.plan.nodes:
            self.budget.check()
            if node.done:
                self._settle(node)

    def _settle(self, node: PlanNode) -> None:
        try:
            manifest = self.store.manifest(node.key)
            self.store.check_small(node.key)
            if manifest is not None:
                self.store.forget_scratch(node.key)
                self._finished(node, manifest, self.store.tables(node.key))
        except DamagedArtifact as damage:
            self.sink.message(node.label, "warning", f"{damage.message}; the step runs again", None)
            with self.workspace.step_lock(node.key):
                self.store.discard(node.key)

    async def visit(self, node: PlanNode, earlier: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Bring one node to its end; returns its small JSON for the graph's state."""
        by_key = self.plan.by_key
        if any(earlier.get(by_key[key].id, {}).get("status") not in FINISHED for key in node.depends_on):
            self.sink.state(node.label, "not run", None)
            return {"status": "not run", "key": node.key}
        if node.key in self.settled:
            return {"status": "done", "key": node.key}
        started = time.monotonic()
        try:
            return await self._attempt(node)
        except GraphBubbleUp:
            self._unfinished(node, "waiting", None, started)
            raise
        except (Interrupted, asyncio.CancelledError):
            self._unfinished(node, "interrupted", None, started)
            raise
        except Exception as error:  # noqa: BLE001  whatever a step raises must not stop its neighbours
            return self._failed(node, error, started)

    async def _attempt(self, node: PlanNode) -> dict[str, Any]:
        self.recorder.check()
        self.budget.check()
        manifest = await self.produce(node)
        tables = await asyncio.to_thread(self.store.tables, node.key)
        await asyncio.to_thread(self._finished, node, manifest, tables)
        return {"status": "done", "key": node.key}

    def _finished(self, node: PlanNode, manifest: Manifest, tables: Mapping[str, Any]) -> None:
        self.settled.add(node.key)
        self.record.finished(node, manifest)
        self.recorder.step(node, tables)
        self.recorder.progress()
        ran = manifest.meta.run == self.record.folder.run_id
        self.sink.state(node.label, "done" if ran else "cached", manifest.meta.seconds if ran else None)

    def _unfinished(self, node: PlanNode, status: str, error: str | None, started: float) -> None:
        seconds = time.monotonic() - started
        self.record.unfinished(node, status, error, seconds)
        self.recorder.progress()
        self.sink.state(node.label, status, seconds)

    def _failed(self, node: PlanNode, error: Exception, started: float) -> dict[str, Any]:
        failure = as_step_error(error, node)
        self.failures[node.id] = failure
        self._unfinished(node, "failed", failure.message, started)
        with self.record.folder.errors_path.open("a", encoding="utf8") as log:
            log.write(f"--- {node.label}\n{''.join(traceback.format_exception(error))}\n")
        self.sink.message(node.label, "failed", failure.message, failure.item)
        if self.fail_fast:
            raise failure from error
        return {"status": "failed", "key": node.key}

    async def produce(self, node: PlanNode) -> Manifest:
        """The node's manifest, after running it where there is no sound artifact.

        An input that turns out damaged is made again first.
        """
        for _ in range(_REPAIRS):
            try:
                return await self._make(node)
            except DamagedArtifact as damage:
                source = self.plan.by_key.get(damage.key)
                if source is None or source.key == node.key:
                    raise
                self.sink.message(source.label, "warning", f"{damage.message}; the step runs again", None)
                await self._mend(source)
        return await self._make(node)

    async def _mend(self, node: PlanNode) -> None:
        async with self._held(node):
            if await asyncio.to_thread(self.store.verify, node.key):
                self.store.discard(node.key)
        await self.produce(node)

    async def _make(self, node: PlanNode) -> Manifest:
        async with self._held(node):
            manifest = self._existing(node)
            if manifest is not None:
                shutil.rmtree(self.workspace.partial / node.key, ignore_errors=True)
                return manifest
            self.sink.state(node.label, "running", None)
            made: Manifest = await self.engine.run(self._call(node))
            return made

    def _existing(self, node: PlanNode) -> Manifest | None:
        try:
            manifest = self.store.manifest(node.key)
            if manifest is not None:
                self.store.check_small(node.key)
        except DamagedArtifact:
            self.store.discard(node.key)
            return None
        return None if node.anew and node.key not in self.settled else manifest

    @asynccontextmanager
    async def _held(self, node: PlanNode) -> AsyncIterator[None]:
        """The node's lock: another run in the workspace may be making the same thing, then its result is used."""
        lock = self.workspace.step_lock(node.key)
        told = False
        while not lock.try_acquire():
            if not told:
                text = f"process {lock.holder() or '?'} is running the same step; waiting for its result"
                self.sink.message(node.label, "warning", text, None)
                told = True
            self.budget.check()
            await asyncio.sleep(_LOCK_POLL_SECONDS)
        try:
            yield
        finally:
            lock.release(remove=True)

    def _call(self, node: PlanNode) -> StepCall:
        started = time.monotonic()
        context = self._context(node)
        journal: Any = context.journal

        def keep(artifact: Artifact) -> Manifest:
            definition = node.definition
            meta = Meta(
                definition.name,
                definition.version,
                run=self.record.folder.run_id,
                seconds=round(time.monotonic() - started, 6),
                failures=tuple(context.failures),
                warnings=tuple(journal.warnings),
            )
            return self.store.save(artifact, node.key, meta, output=definition.output, step=node.label)

        return StepCall(node.definition, context, lambda: self.inputs.gather(node), keep)

    def _context(self, node: PlanNode) -> StepContext:
        scratch, staging = self.workspace.scratch(node.key), self.workspace.staging(node.key)
        shutil.rmtree(staging, ignore_errors=True)
        for folder in (scratch, staging):
            folder.mkdir(parents=True, exist_ok=True)
        return StepContext(
            step=node.first.step,
            seed=node.seed,
            device=self.device,
            scratch=scratch,
            staging=staging,
            shared=self.workspace.shared,
            items=self.workspace.items,
            journal=StepJournal(self.journal, node.first),
            sink=LabelledSink(self.sink, node.label),
            stop=self.budget,
            budget=self.budget,
        )


def as_step_error(error: Exception, node: PlanNode) -> StepError:
    """Any error of a step, with the step's name, its item and its place in the spec."""
    where = f"step {node.label!r} ({node.position})"
    item = getattr(error, "item", None)
    about = f", item {item!r}" if item else ""
    if isinstance(error, RunnerError):
        text, hint = error.message, error.hint
    else:
        text, hint = f"{type(error).__name__}: {error}", "the traceback is in errors.log of the run's folder"
    return StepError(f"{where}{about}: {text}", step=node.first.step, item=item, position=node.position, hint=hint)

"""Where rows go: the results database behind a small protocol, fed by one thread so that steps do not wait for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from runner.graph.journal import RunJournal
from runner.graph.nodes import PlanNode
from runner.graph.record import RunRecord

_WAITING = 32
_BATCH_BYTES = 256 * 2**20
_SECONDS_BETWEEN = 2.0

StepRows = tuple[str, str, Mapping[str, Any]]
"""Variant, step, and its rows by results table."""


class ResultsSink(Protocol):
    """What the executor needs of ``results.store.ResultsStore``. Both calls replace, so that they may be repeated."""

    def replace_run(self, run_json: Mapping[str, Any]) -> None:
        """Rewrite what is known of a run."""

    def replace_steps(self, run_id: str, steps: Sequence[StepRows]) -> None:
        """Replace the rows of several (variant, step, tables) in one transaction."""


class Recorder:
    """Writes rows and ``run.json`` in the order in which things happened, in one thread.

    Opening the database costs more than writing the rows of a step, so steps that end while it is busy share the next
    transaction. The first error is kept, stops further writing, and is raised by ``check`` and ``close``: rows that did not arrive
    are made again from the artifacts by the next attempt.
    """

    def __init__(self, record: RunRecord, journal: RunJournal, results: ResultsSink) -> None:
        self.record, self.journal, self.results = record, journal, results
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="results")
        self._ahead: deque[list[StepRows]] = deque()
        self._room = threading.Semaphore(_WAITING)
        self._error: BaseException | None = None
        self._written = 0.0
        self._pending: Future[None] | None = None

    def step(self, node: PlanNode, tables: Mapping[str, Any]) -> None:
        """Store the rows of a node under all its places, soon. Waits while many steps are ahead."""
        self._room.acquire()
        self._ahead.append([(place.variant, place.step, tables) for place in node.placements])
        self._pool.submit(self._guarded, self._steps)

    def _steps(self) -> None:
        """Write what is ahead, as much as one transaction should hold."""
        batch: list[StepRows] = []
        size = 0
        while self._ahead and size < _BATCH_BYTES:
            rows = self._ahead.popleft()
            self._room.release()
            batch += rows
            size += sum(table.nbytes for _, _, tables in rows for table in tables.values())
        if batch:
            self.results.replace_steps(self.record.folder.run_id, batch)

    def progress(self) -> None:
        """Bring ``run.json`` and the run's own rows up to date, at most every other second."""
        if self._pending is None or self._pending.done():
            self._pending = self._pool.submit(self._guarded, self._run_if_due)

    def _run_if_due(self) -> None:
        if time.monotonic() - self._written >= _SECONDS_BETWEEN:
            self._run()

    def publish(self) -> None:
        """Write ``run.json`` and the run's own rows now; returns when they are there."""
        self._pool.submit(self._guarded, self._run).result()
        self.check()

    def _run(self) -> None:
        content = self.record.to_json()
        self.record.folder.write_record(content)
        lists = {"messages": self.journal.messages(), "llm_calls": self.journal.calls()}
        self.results.replace_run(content | lists)
        self._written = time.monotonic()

    def _guarded(self, work: Any) -> None:
        if self._error is None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  raised again by check()
                self._error = error
                self._room.release(_WAITING)  # nobody waits for a writer that has stopped

    def check(self) -> None:
        """Raise what went wrong in the writing thread."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until everything is written; raise what went wrong."""
        self._pool.shutdown(wait=True)
        self.check()

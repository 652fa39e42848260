"""Where rows go: the results database behind a small protocol, fed by one thread so that steps do not wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from runner.graph.journal import RunJournal
from runner.graph.nodes import PlanNode
from runner.graph.record import RunRecord

if TYPE_CHECKING:
    import pyarrow as pa

_WAITING = 8
_SECONDS_BETWEEN = 2.0


class ResultsSink(Protocol):
    """What the executor needs of ``results.store.ResultsStore``. Both calls replace, so that they may be repeated."""

    def replace_run(self, run_json: Mapping[str, Any]) -> None:
        """Rewrite what is known of a run."""

    def replace_step(self, run_id: str, variant: str, step: str, tables: Mapping[str, pa.Table]) -> None:
        """Replace the rows of one step."""


class Recorder:
    """Writes rows and ``run.json`` in the order in which things happened, in one thread.

    The first error is kept, stops further writing, and is raised by ``check`` and ``close``: rows that did not arrive
    are made again from the artifacts by the next attempt.
    """

    def __init__(self, record: RunRecord, journal: RunJournal, results: ResultsSink) -> None:
        self.record, self.journal, self.results = record, journal, results
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="results")
        self._room = threading.Semaphore(_WAITING)
        self._error: BaseException | None = None
        self._written = 0.0
        self._pending: Future[None] | None = None

    def step(self, node: PlanNode, tables: Mapping[str, Any]) -> None:
        """Store the rows of a node under all its places, soon. Waits while many steps are ahead."""
        self._room.acquire()
        self._pool.submit(self._guarded, lambda: self._step(node, tables)).add_done_callback(
            lambda _: self._room.release()
        )

    def _step(self, node: PlanNode, tables: Mapping[str, Any]) -> None:
        for place in node.placements:
            self.results.replace_step(self.record.folder.run_id, place.variant, place.step, tables)

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

    def check(self) -> None:
        """Raise what went wrong in the writing thread."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until everything is written; raise what went wrong."""
        self._pool.shutdown(wait=True)
        self.check()

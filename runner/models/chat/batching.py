"""Gathers questions asked at the same time into batches for a model that runs in one thread of this process."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from runner.models.chat.wire import Payload, RawReply, SendFailed

_GATHER_SECONDS = 0.01

Job = tuple[Payload, "Future[RawReply]"]
Generate = Callable[[Sequence[Payload]], "Sequence[RawReply | SendFailed]"]


class Batcher:
    """Runs ``generate`` on up to ``size`` questions at a time, always in the same thread, started when first needed."""

    def __init__(self, generate: Generate, size: int, name: str) -> None:
        self._generate, self._size, self._name = generate, size, name
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    async def ask(self, payload: Payload) -> RawReply:
        """The reply to one question, generated together with others."""
        future: Future[RawReply] = Future()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._jobs.put((payload, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish the batches already asked for and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._jobs.put(None)
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            jobs, last = self._gather()
            live = [(payload, future) for payload, future in jobs if future.set_running_or_notify_cancel()]
            if live:
                self._answer(live)
            if last:
                return

    def _gather(self) -> tuple[list[Job], bool]:
        """The next batch, and whether the thread should end after it."""
        jobs: list[Job] = []
        while len(jobs) < self._size:
            try:
                job = self._jobs.get(timeout=_GATHER_SECONDS if jobs else None)
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _answer(self, jobs: Sequence[Job]) -> None:
        try:
            answers = self._generate([payload for payload, _ in jobs])
        except BaseException as error:  # noqa: BLE001 - the thread's edge: whoever waits must hear of it
            for _, future in jobs:
                future.set_exception(error)
            return
        for (_, future), answer in zip(jobs, answers, strict=True):
            if isinstance(answer, SendFailed):
                future.set_exception(answer)
            else:
                future.set_result(answer)

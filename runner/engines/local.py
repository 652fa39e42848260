"""Steps in this process: asynchronous ones (agents) on the event loop, the others in threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from runner.engines.base import StepCall
from runner.errors import Interrupted

T = TypeVar("T")


class LocalEngine:
    """The engine of one process.

    ``jobs``: how many numeric steps run side by side (each may use several cores itself). Agents do not count: they
    wait for language models, whose limits live in the chat client. Reading and writing for agents has threads of its
    own, so that long numeric steps cannot hold them up.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs or min(4, os.cpu_count() or 1)
        self._steps = ThreadPoolExecutor(self.jobs, thread_name_prefix="step")
        self._files = ThreadPoolExecutor(4, thread_name_prefix="files")
        self._running: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    async def run(self, call: StepCall) -> Any:
        """Run one step. Raises ``Interrupted`` when ``stop`` cancelled it."""
        self._loop = asyncio.get_running_loop()
        if not call.definition.is_async:
            return await _in_thread(self._steps, lambda: _whole(call))
        arguments = await _in_thread(self._files, call.gather)
        artifact = await self._cancellable(call.definition.function(call.context, **arguments))
        return await _in_thread(self._files, lambda: call.keep(artifact))

    async def _cancellable(self, coroutine: Any) -> Any:
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)
        if self._stopped:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            if self._stopped:
                raise Interrupted("stopped on request") from None
            raise
        finally:
            self._running.discard(task)

    def stop(self) -> None:
        """Cancel the agents."""
        self._stopped = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel_all)

    def _cancel_all(self) -> None:
        for task in self._running:
            task.cancel()

    async def close(self) -> None:
        """Wait for threads that still run a step."""
        await asyncio.to_thread(self._steps.shutdown, wait=True, cancel_futures=True)
        await asyncio.to_thread(self._files.shutdown, wait=True)


def _whole(call: StepCall) -> Any:
    arguments = call.gather()
    return call.keep(call.definition.function(call.context, **arguments))


async def _in_thread(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """``work`` in a thread with the caller's context variables; when cancelled, wait for it before going on.

    A thread cannot be cancelled. Who hears that a step was cancelled may rely on it that the step no longer writes.
    """
    thread = pool.submit(contextvars.copy_context().run, work)
    future = asyncio.wrap_future(thread)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not (thread.done() or thread.cancel()):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        raise

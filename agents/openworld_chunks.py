"""Many questions of one kind: in chunks, with progress, and with a bounded number of messages about what is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from runner.context import StepContext

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 128
_SHOWN = 20


async def in_chunks(
    items: Sequence[T],
    work: Callable[[T], Awaitable[R]],
    ctx: StepContext,
    *,
    unit: str,
    chunk: int = CHUNK,
    total: bool = True,
) -> list[R]:
    """Results of ``work`` in the order of ``items``; at most ``chunk`` are under way, and between chunks the run may end.

    ``total``: these are all the items there are, so progress is shown out of their number.
    """
    results: list[R] = []
    if total:
        ctx.advance(unit, 0, len(items))
    for start in range(0, len(items), chunk):
        ctx.check()
        part = items[start : start + chunk]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_counted(work(item), ctx, unit)) for item in part]
        except BaseExceptionGroup as failed:
            raise _first(failed) from failed
        results += [task.result() for task in tasks]
    return results


def _first(failed: BaseException) -> BaseException:
    """The error itself, as everybody outside knows it."""
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return failed


async def _counted(work: Awaitable[R], ctx: StepContext, unit: str) -> R:
    result = await work
    ctx.advance(unit, 1)
    return result


@dataclass
class Losses:
    """Says which items are given up: the first one by one, the others as one number, so that no flood of messages comes."""

    ctx: StepContext
    what: str
    count: int = 0

    def add(self, item: str, reason: str) -> None:
        """Give up one item."""
        self.count += 1
        if self.count <= _SHOWN:
            self.ctx.failed(item[:200], reason[:500])

    def close(self) -> None:
        """Say how many were not named."""
        if self.count > _SHOWN:
            self.ctx.failed(self.what, f"{self.count - _SHOWN:,} more without an answer, for which see the results")

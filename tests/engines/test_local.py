"""The engine of one process: agents on the loop, numbers in threads, stopping both, models once."""

import asyncio
import threading
import time
from dataclasses import dataclass

import pytest

from runner.context import StepContext, local_context
from runner.engines.base import StepCall
from runner.engines.local import LocalEngine
from runner.engines.models import ModelPool
from runner.errors import Interrupted
from runner.steps import Artifact, ModelHandle, define


@dataclass(frozen=True)
class Word(Artifact):
    text: str


def in_thread(ctx: StepContext, *, text: str) -> Word:
    """Say where it ran."""
    return Word(f"{text} {threading.current_thread().name.split('_')[0]}")


async def on_loop(ctx: StepContext, *, text: str) -> Word:
    """Say where it ran."""
    await asyncio.sleep(0)
    return Word(f"{text} {threading.current_thread().name}")


async def waits(ctx: StepContext, *, text: str) -> Word:
    """Never ends by itself."""
    await asyncio.Event().wait()
    return Word(text)


def call(tmp_path, function, kept):
    def keep(artifact):
        kept.append(artifact.text)
        return len(kept)

    definition = define("test.step", function, version="1")
    return StepCall(definition, local_context(tmp_path), lambda: {"text": "ran in"}, keep)


@pytest.mark.parametrize(("function", "where"), [(in_thread, "ran in step"), (on_loop, "ran in MainThread")])
async def test_steps_run_where_they_belong(tmp_path, function, where):
    engine, kept = LocalEngine(), []
    assert await engine.run(call(tmp_path, function, kept)) == 1
    assert kept == [where]
    await engine.close()


async def test_stopping_cancels_agents(tmp_path):
    engine, kept = LocalEngine(), []
    running = asyncio.ensure_future(engine.run(call(tmp_path, waits, kept)))
    await asyncio.sleep(0.05)
    await asyncio.to_thread(engine.stop)
    with pytest.raises(Interrupted):
        await running
    with pytest.raises(Interrupted):
        await engine.run(call(tmp_path, waits, kept))
    assert kept == []
    await engine.close()


async def test_a_cancelled_step_in_a_thread_is_waited_for(tmp_path):
    """Its artifact is either not begun or in place when the cancelling is over."""
    engine, kept, begun = LocalEngine(), [], threading.Event()

    def slow(ctx: StepContext, *, text: str) -> Word:
        begun.set()
        time.sleep(0.2)
        return Word(text)

    running = asyncio.ensure_future(engine.run(call(tmp_path, slow, kept)))
    await asyncio.to_thread(begun.wait)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert kept == ["ran in"]
    await engine.close()


class Handle(ModelHandle):
    def __init__(self, name, closed):
        self.name, self.closed = name, closed

    def close(self):
        self.closed.append(self.name)
        if self.name == "bad":
            raise OSError("will not close")


def test_a_model_is_loaded_once_by_many_threads():
    pool, loads = ModelPool(), []

    def load():
        loads.append(1)
        time.sleep(0.05)
        return Handle("m", [])

    threads = [threading.Thread(target=pool.get, args=("k", load)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [1]


def test_all_models_are_closed_the_last_first_even_if_one_fails():
    pool, closed = ModelPool(), []
    for name in ("first", "bad", "last"):
        pool.get(name, lambda name=name: Handle(name, closed))
    with pytest.raises(OSError, match="will not close"):
        pool.close()
    assert closed == ["last", "bad", "first"]
    pool.close()


def test_a_model_that_does_not_load_can_be_tried_again():
    pool = ModelPool()
    with pytest.raises(ValueError, match="no"):
        pool.get("k", lambda: (_ for _ in ()).throw(ValueError("no")))
    assert isinstance(pool.get("k", lambda: Handle("m", [])), Handle)

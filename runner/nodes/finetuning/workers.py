"""A training in several processes of this machine, as the step that started them sees it: it reads how far they are, asks them to stop,
and ends all of them when one fails. They die with it: each one watches the pipe that it holds."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from runner import errors
from runner.context import ProgressSink, StepContext
from runner.errors import RunnerError, StepError

if TYPE_CHECKING:
    from runner.nodes.finetuning.running import Job

JOB, RENDEZVOUS = "job.pickle", "rendezvous"
STOP = b"stop\n"
POLL, STOPPING = 0.2, 600.0
"""Seconds between looks at the workers, and given to them to save when they shall stop."""
MODULE = "runner.nodes.finetuning.worker"
Reports = queue.SimpleQueue[dict[str, Any]]


@dataclass(frozen=True)
class Worker:
    """One process; what it says on standard error stands in ``log``."""

    rank: int
    process: subprocess.Popen[bytes]
    log: Path
    reader: threading.Thread


class MessagesOnly:
    """A sink that passes warnings and failures on, and no progress."""

    def __init__(self, sink: ProgressSink) -> None:
        self._sink = sink
        self.message, self.usage = sink.message, sink.usage

    def progress(self, step: str, unit: str, advance: int, total: int | None) -> None:
        """Nothing."""


def train_apart(ctx: StepContext, job: Job) -> None:
    """Train ``job`` by ``optim.processes`` workers until its state says that all is done.

    Raises what a worker reports, ``StepError`` for one that died, or what ``ctx.check`` raises, once the workers have saved.
    """
    check_devices(str(job.model.device), job.recipe.optim.processes)
    around = job.state / "workers"
    shutil.rmtree(around, ignore_errors=True)
    around.mkdir(parents=True)
    folder = Path(tempfile.mkdtemp(dir=around))
    (folder / JOB).write_bytes(pickle.dumps(job))
    reports: Reports = queue.SimpleQueue()
    with _started(folder, job.recipe.optim.processes, reports) as workers:
        _watch(ctx, workers, reports)
    shutil.rmtree(around, ignore_errors=True)


def check_devices(device: str, processes: int) -> None:
    """Raises ``StepError`` where there are fewer GPUs than processes, or the model is bound to one of them."""
    if ":" in device:
        raise StepError(
            f"optim.processes is {processes}, but the model's device is {device}",
            hint="Give device: cuda, so that each process takes a GPU of its own.",
        )
    if device not in ("cpu", "cuda"):
        raise StepError(
            f"optim.processes: several processes share work on cpu and cuda, not on {device}", hint="Take processes: 1."
        )
    if device == "cuda" and processes > (have := torch.cuda.device_count()):
        raise StepError(
            f"optim.processes is {processes}, but this machine has {have} GPUs",
            hint=f"Take processes: {have}, and more accumulation.",
        )


# --- their lives -----------------------------------------------------------------------------------------------------


@contextmanager
def _started(folder: Path, size: int, reports: Reports) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    try:
        for rank in range(size):
            workers.append(_start(folder, rank, size, reports))
        yield workers
    finally:
        _end(workers)


def _start(folder: Path, rank: int, size: int, reports: Reports) -> Worker:
    threads = str(max(1, (os.cpu_count() or 1) // size))
    log = folder / f"{rank}.log"
    with log.open("wb") as errors_to:
        process = subprocess.Popen(  # noqa: S603  our own interpreter, our own code
            [sys.executable, "-m", MODULE, str(folder), str(rank), str(size)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors_to,
            env={"OMP_NUM_THREADS": threads, **os.environ},
            start_new_session=True,  # Ctrl-C is for the step, which lets them save
        )  # fmt: skip
    reader = threading.Thread(target=_read, args=(process.stdout, reports), daemon=True)
    reader.start()
    return Worker(rank, process, log, reader)


def _read(lines: Any, reports: Reports) -> None:
    for line in lines:
        with contextlib.suppress(ValueError):
            reports.put(json.loads(line))


def _end(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.process.kill()
        worker.process.wait()
    for worker in workers:
        worker.reader.join()
        for pipe in (worker.process.stdin, worker.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


# --- watching --------------------------------------------------------------------------------------------------------


def _watch(ctx: StepContext, workers: Sequence[Worker], reports: Reports) -> None:
    while any(worker.process.poll() is None for worker in workers):
        _pass_on(ctx, reports, POLL)
        if any(worker.process.poll() for worker in workers):
            break
        try:
            ctx.check()
        except RunnerError:
            _let_stop(ctx, workers, reports)
            raise
    _settle(ctx, workers, reports)


def _let_stop(ctx: StepContext, workers: Sequence[Worker], reports: Reports) -> None:
    """Ask all of them, and wait until the one that saves is gone."""
    for worker in workers:
        with contextlib.suppress(OSError):
            assert worker.process.stdin is not None
            worker.process.stdin.write(STOP)
            worker.process.stdin.flush()
    until = time.monotonic() + STOPPING
    while workers[0].process.poll() is None and time.monotonic() < until:
        _pass_on(ctx, reports, POLL, errors_too=False)
        if any(w.process.poll() not in (None, 0, errors.EXIT_INTERRUPTED) for w in workers):
            return


def _settle(ctx: StepContext, workers: Sequence[Worker], reports: Reports) -> None:
    """Once one has ended badly, or all are done: what they still had to say, then the failure if there is one."""
    failed = [worker for worker in workers if worker.process.poll()]
    if failed:
        _end(workers)
    else:
        for worker in workers:
            worker.reader.join()
    while not reports.empty():
        _pass_on(ctx, reports, POLL)
    if failed:
        # A process that was killed makes the others fail, too.
        raise _death(min(failed, key=lambda worker: worker.process.returncode), len(workers))


def _pass_on(ctx: StepContext, reports: Reports, wait: float, *, errors_too: bool = True) -> None:
    """One report, if one comes in time: progress to the sink; an error is raised."""
    try:
        told = reports.get(timeout=wait)
    except queue.Empty:
        return
    if "unit" in told:
        ctx.advance(told["unit"], told["advance"], told["total"])
    elif errors_too and "error" in told:
        raise _error(told)


def _error(told: dict[str, Any]) -> RunnerError:
    kind = getattr(errors, str(told["error"]), StepError)
    if kind is StepError or kind not in (errors.DataError, errors.ModelRefused):
        return StepError(told["message"], item=told.get("item"), hint=told.get("hint"))
    found: RunnerError = kind(told["message"], hint=told.get("hint"))
    return found


def _death(worker: Worker, size: int) -> StepError:
    code = worker.process.returncode
    how = f"was killed by {_signal(-code)}" if code < 0 else f"ended with code {code}"
    said = worker.log.read_text("utf8", "replace").strip().splitlines()[-1:] if worker.log.is_file() else []
    last = f": {said[0][:500]}" if said and code > 0 else ""
    return StepError(
        f"process {worker.rank + 1} of the training's {size} {how}{last}",
        hint="Run the same command again: it goes on from the last saved step. If it was killed for memory, raise optim.accumulation "
        "or take fewer optim.processes.",
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""One process of a training in several: ``python -m runner.nodes.finetuning.worker FOLDER RANK SIZE``, started by ``workers``.

Standard input: ``stop`` asks to save and end; its end means that the step is gone, and this process goes at once, so that no other one
that takes up the training meets it. Standard output: a line of JSON for each report.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from runner.context import StepContext, local_context
from runner.errors import EXIT_BROKE, EXIT_INTERRUPTED, EXIT_OK, Interrupted, RunnerError, StepError
from runner.nodes.finetuning.workers import JOB, RENDEZVOUS, STOP

PATIENCE = timedelta(days=30)
"""Reading pictures may take long, and the step ends this process when another one fails."""


class Reporter:
    """Writes reports; also the sink and the stop of the training's context. ``speaks``: whether progress is reported."""

    def __init__(self, out: BinaryIO, *, speaks: bool) -> None:
        self._out, self._speaks = out, speaks
        self._stopped = threading.Event()

    def tell(self, **report: Any) -> None:
        """One line."""
        self._out.write(json.dumps(report).encode() + b"\n")
        self._out.flush()

    def progress(self, step: str, unit: str, advance: int, total: int | None) -> None:
        """See ``ProgressSink``."""
        if self._speaks:
            self.tell(unit=unit, advance=advance, total=total)

    def usage(self, *_: Any) -> None:
        """No language model is called."""

    def message(self, *_: Any) -> None:
        """The step says it again, once, from what was saved."""

    def check(self) -> None:
        """Raises ``Interrupted`` when the step asked to stop."""
        if self._stopped.is_set():
            raise Interrupted("stopped on request")

    def listen(self, source: BinaryIO) -> None:
        """Follow standard input until it ends, and with it this process."""
        for line in iter(source.readline, b""):
            if line == STOP:
                self._stopped.set()
        os._exit(EXIT_BROKE)


def main(folder: Path, rank: int, size: int) -> int:
    """Take part; gives the exit code."""
    reporter = Reporter(_own_output(), speaks=rank == 0)
    threading.Thread(target=reporter.listen, args=(sys.stdin.buffer,), daemon=True).start()
    try:
        _train(folder, rank, size, reporter)
    except Interrupted:
        return EXIT_INTERRUPTED
    except RunnerError as error:
        item = error.item if isinstance(error, StepError) else None
        reporter.tell(error=type(error).__name__, message=error.message, hint=error.hint, item=item)
        return EXIT_BROKE
    except Exception:  # noqa: BLE001 - the step shows the last line of it
        traceback.print_exc()
        return EXIT_BROKE
    return EXIT_OK


def _train(folder: Path, rank: int, size: int, reporter: Reporter) -> None:
    import torch
    import torch.distributed as dist

    from runner.nodes.finetuning.group import Processes
    from runner.nodes.finetuning.running import Job, train

    job: Job = pickle.loads((folder / JOB).read_bytes())  # noqa: S301  written by the step that started this process
    on_gpu = job.model.device == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
    else:
        # All are on this machine, whose name need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{folder / RENDEZVOUS}",
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    train(_context(folder / str(rank), reporter), job, Processes("cuda" if on_gpu else "cpu"), job.teacher)


def _context(folder: Path, reporter: Reporter) -> StepContext:
    ctx = local_context(folder)
    ctx.sink, ctx.stop = reporter, reporter
    return ctx


def _own_output() -> BinaryIO:
    """Standard output for reports alone; whatever else is printed goes to standard error."""
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return own


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stderr.flush()
    os._exit(code)  # threads of the communication need not be waited for

"""One lock for one results file: a ``flock`` on the file beside it.

DuckDB's own lock is taken after the file's headers were read, so a process that is slow between the two works from old
headers and wipes out what others committed. Whoever opens a results file therefore holds this lock from before the
open until after the close: exclusively to write, shared to read. The kernel frees it when the holder dies, so it is
never stale, and its file may stay for ever.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.errors import ResultsBusy, ResultsError

Say = Callable[[str], None]

PATIENCE = 2.0
"""Seconds of waiting after which it is said who is waited for."""


@contextmanager
def held(path: Path, *, exclusive: bool, timeout: float, say: Say) -> Iterator[None]:
    """Hold the lock file ``path``; waits up to ``timeout`` seconds, then raises ``ResultsBusy`` naming the holders."""
    descriptor = _open(path)
    try:
        _acquire(descriptor, path, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, timeout, say)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open for locking; on a read-only file system an existing file is opened to read (``flock`` does not mind)."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        with suppress(OSError):
            return os.open(path, os.O_RDONLY)
        raise ResultsError(
            f"cannot open the lock file {path}: {error.strerror}",
            hint="the folder of the results file must be writable",
        ) from error


def _acquire(descriptor: int, path: Path, mode: int, timeout: float, say: Say) -> None:
    start = time.monotonic()
    said = False
    while True:
        try:
            return fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - start
        if waited >= timeout:
            raise ResultsBusy(
                f"{path.with_suffix('')} is in use by {_names(path)} (waited {waited:.0f} s)",
                hint="wait until it has finished, or stop it, and run the same command again",
            )
        if waited >= PATIENCE and not said:
            said = True
            say(f"waiting for {path.with_suffix('')}: in use by {_names(path)}")
        time.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - spreads the waiters, guards nothing


def _names(path: Path) -> str:
    pids = holders(path)
    return " and ".join(f"process {pid}" for pid in pids) if pids else "another process"


def holders(path: Path) -> list[int]:
    """Pids that hold a ``flock`` on ``path``, from the kernel's table; empty where that cannot be read."""
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    found = set()
    for line in lines:
        fields = line.split()
        if "->" not in fields and fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
            found.add(int(fields[4]))
    return sorted(pid for pid in found if pid > 0)

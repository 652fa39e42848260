"""Locks that the kernel frees when their holder dies: ``flock`` on a file whose existence means nothing."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from runner.errors import ResultsBusy

# ``is_held`` takes a lock for an instant; an honest holder keeps it longer than these seconds.
_PAUSES = (0.0, 0.02, 0.05, 0.1)


class FileLock:
    """An exclusive ``flock``. The holder writes its pid into the file, only so that others can name it."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; False where another holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            if self._still_named(descriptor):
                break
            os.close(descriptor)  # another holder removed the name between our open and our lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor
        return True

    def _still_named(self, descriptor: int) -> bool:
        try:
            return self.path.stat().st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            return False

    def acquire(self) -> None:
        """Take the lock or raise ``ResultsBusy`` naming the process that holds it."""
        if not any(self._try_after(pause) for pause in _PAUSES):
            raise ResultsBusy(
                f"{self.what} is in use by process {self.holder() or 'unknown'} ({self.path})",
                hint="wait until it ends or stop it; the same command then goes on from there",
            )

    def _try_after(self, pause: float) -> bool:
        time.sleep(pause)
        return self.try_acquire()

    def holder(self) -> int | None:
        """The pid that the last holder wrote, or None."""
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return None

    def release(self, *, remove: bool = False) -> None:
        """Free the lock; with ``remove`` also the file's name, for locks on things that will not be locked again."""
        if self._descriptor is None:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether some process holds the lock right now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

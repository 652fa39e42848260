"""A process gives up what it does not need, and then tries whether that is so.

Only the standard library, and nothing with threads: filters hold for the thread that sets them and those it starts.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
from collections.abc import Callable, Sequence

from runner.models.sandbox import landlock, seccomp

REQUIRED = ("no network", "no files but its own", "no writing", "no programs or processes")
"""What must hold, found by trying, before a stranger's code is run."""

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NO_NEW_PRIVS = 1, 4, 38
_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_CAPABILITY_VERSION = 0x20080522


def confine(parent: int, readable: Sequence[str], *, files: int, cpu_seconds: int) -> list[str]:
    """Confine this process for good; returns the layers that were put on, in words.

    ``parent``: process whose death ends this one; ``readable``: files and folders that stay readable; ``files``: open
    files at most; ``cpu_seconds``: processor time at most, over all threads.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    layers = []
    libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
    if _new_namespaces(libc):
        layers.append("network namespace")
    _drop_capabilities(libc)
    for limit, value in ((resource.RLIMIT_NOFILE, files), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, cpu_seconds)):  # fmt: skip
        resource.setrlimit(limit, (value, value))
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return layers
    version = landlock.install(libc, readable)
    if version:
        layers.append(f"landlock {version}")
    libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    machine = seccomp.MACHINES.get(platform.machine())
    if machine is not None and seccomp.install(libc, machine, os.getpid()):
        layers.append("seccomp")
    return layers


def _new_namespaces(libc: ctypes.CDLL) -> bool:
    """A network of its own with nothing in it; not permitted everywhere."""
    return bool(libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC) == 0)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Without capabilities root is nobody special."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


def proven() -> list[str]:
    """Which of ``REQUIRED`` hold, by trying: each attempt must be refused by the system."""
    attempts: dict[str, tuple[Callable[[], object], ...]] = {
        "no network": (_connect, _open_local_socket),
        "no files but its own": (lambda: next(os.scandir("/")), lambda: os.close(os.open("/etc/passwd", os.O_RDONLY))),
        "no writing": (lambda: os.close(os.open("/dev/null", os.O_WRONLY)),),
        "no programs or processes": (_start_process,),
    }
    return [what for what, tries in attempts.items() if all(_refused(attempt) for attempt in tries)]


def _refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return True
    return False


def _connect() -> None:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.connect(("192.0.2.1", 9))  # an address of the documentation range: nothing is sent


def _open_local_socket() -> None:
    import socket

    socket.socket(socket.AF_UNIX).close()


def _start_process() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

"""The parent's side: start the child, insist on its confinement, ask with a deadline, believe nothing, leave no zombie."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ModelRefused
from runner.models.sandbox.confine import REQUIRED
from runner.models.sandbox.wire import Channel, SandboxFailure

_START = "import sys, json; sys.path += json.loads(sys.argv[2]); from runner.models.sandbox.child import main; main()"
_SYSTEM = (
    "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/proc/cpuinfo", "/proc/meminfo",
    "/sys/devices/system/cpu", "/dev/urandom",
)  # fmt: skip

_ENVIRONMENT = {
    "LANG": "C.UTF-8", "HOME": "/nonexistent", "PATH": "/nonexistent", "HF_HUB_OFFLINE": "1",
    "TORCHINDUCTOR_CACHE_DIR": "/",  # must exist; nothing can be written there
}  # fmt: skip
"""All of it: no secret of the parent's environment reaches the child."""

# A child dies with the *thread* that started it (PR_SET_PDEATHSIG), so one thread that lasts starts them all.
_starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox")


@dataclass(frozen=True)
class Limits:
    """What the child may use.

    ``memory``: bytes over what its libraries take; ``start``: seconds until it is ready; ``request``: seconds for one
    request; ``cpu_seconds``: processor time over its whole life, a backstop; ``files``: open files; ``threads``.
    """

    memory: int = 4 << 30
    start: float = 180.0
    request: float = 300.0
    cpu_seconds: int = 7 * 24 * 3600
    files: int = 256
    threads: int = 0


class Sandbox:
    """One confined child that runs ``service`` (``module:function``, see ``child``).

    ``file``: passed open for reading; ``readable``: files and folders it may also read, folders for import too.
    ``layers``: what confines it, as found when it started. Raises ``ModelRefused`` where it cannot be confined.
    """

    def __init__(
        self,
        service: str,
        *,
        file: Path | None = None,
        readable: Sequence[str | Path] = (),
        limits: Limits | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise ModelRefused(
                "a model's process can only be confined on Linux",
                hint="Convert the file to safetensors or ONNX there (`runner convert`).",
            )
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        given = {str(path) for path in readable}
        self._process, self._channel = _starter.submit(
            _start, service, file, sorted(given), self.limits, environment or {}
        ).result()
        self._end = weakref.finalize(self, _end, self._process, self._channel)
        deadline = time.monotonic() + self.limits.start
        try:
            self.layers = self._confined(deadline)
            self._check(self._receive(0, deadline)[0])
            _limit_memory(self._process.pid, self.limits.memory)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the child is there to be asked."""
        return self._end.alive and self._process.poll() is None

    def ask(
        self, header: dict[str, Any], body: bytes | memoryview = b"", *, max_body: int = 0, seconds: float | None = None
    ) -> tuple[dict[str, Any], bytearray]:
        """Send a request, return the reply: header and at most ``max_body`` bytes, neither to be believed.

        Raises ``ModelRefused`` for what the child says is wrong, ``SandboxFailure`` where it crashed, hung or sent no
        reply; after the latter it is gone.
        """
        with self._lock:
            if not self._end.alive:
                raise SandboxFailure("the model's process has ended")
            deadline = time.monotonic() + (seconds or self.limits.request)
            try:
                self._channel.send(header, body, deadline)
            except TimeoutError:
                self._fail(f"did not take its input in {seconds or self.limits.request:g} s")
            except OSError:
                self._fail(self._death())
            reply, data = self._receive(max_body, deadline)
        self._check(reply)
        return reply, data

    def close(self) -> None:
        """End the child and wait for it; may be called again."""
        self._end()

    def _confined(self, deadline: float) -> tuple[str, ...]:
        reply, _ = self._receive(0, deadline)
        lacking = [what for what in REQUIRED if what not in reply.get("proven", ())]
        if lacking:
            raise ModelRefused(
                f"this machine cannot confine the model's process: {', '.join(lacking)} cannot be had "
                f"(in force: {', '.join(reply.get('layers', ())) or 'nothing'})",
                hint="Convert the file to safetensors or ONNX on a Linux machine with Landlock (kernel 5.13 or later).",
            )
        os.write(self._channel.to_child, b"\1")
        return (*(str(layer) for layer in reply["layers"]), "resource limits")

    def _receive(self, max_body: int, deadline: float) -> tuple[dict[str, Any], bytearray]:
        try:
            return self._channel.receive(max_body, deadline)
        except TimeoutError:
            self._fail("did not answer in time")
        except EOFError:
            self._fail(self._death())
        except (ValueError, UnicodeDecodeError) as error:
            self._fail(f"sent something that is no reply: {printable(error)}")
        raise AssertionError  # _fail raises

    def _check(self, reply: dict[str, Any]) -> None:
        if "error" in reply:
            raise ModelRefused(printable(reply.get("text") or reply["error"]))

    def _fail(self, what: str) -> None:
        self.close()
        raise SandboxFailure(f"the model's process {what}", hint="It was ended; nothing outside it was touched.")

    def _death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.returncode
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name} (crash, or a limit)"
        return f"ended by itself (exit code {code})" if code is not None else "closed its pipe"


def _start(
    service: str, file: Path | None, readable: list[str], limits: Limits, environment: dict[str, str]
) -> tuple[subprocess.Popen[bytes], Channel]:
    inbox, to_child = os.pipe()
    from_child, outbox = os.pipe()
    model = os.open(file, os.O_RDONLY) if file is not None else -1
    roots, package = _python_roots(), str(Path(__file__).parents[3])
    given = {
        "service": service, "parent": os.getpid(), "inbox": inbox, "outbox": outbox, "file": model,
        "readable": [*_SYSTEM, *roots, str(Path(__file__).parents[2]), *readable],
        "files": limits.files, "cpu_seconds": limits.cpu_seconds,
    }  # fmt: skip
    paths = [*(root for root in roots if Path(root).name.endswith("-packages")), package, *readable]
    threads = {"OMP_NUM_THREADS": str(limits.threads)} if limits.threads else {}
    kept = [inbox, outbox, *([model] if model >= 0 else [])]
    try:
        process = subprocess.Popen(  # noqa: S603  our own interpreter, our own code
            [sys.executable, "-I", "-B", "-c", _START, json.dumps(given), json.dumps(paths)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**_ENVIRONMENT, **threads, **environment},
            cwd="/", pass_fds=kept, start_new_session=True,
        )  # fmt: skip
    finally:
        for descriptor in kept:
            os.close(descriptor)
    return process, Channel(to_child, from_child)


def _limit_memory(pid: int, extra: int) -> None:
    """Let the child's address space grow by ``extra`` bytes over what its libraries take now."""
    try:
        now = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # /proc may be hidden; libraries reserve far more addresses than they use
        now = 32 << 30
    limit = now + extra
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))


def _python_roots() -> list[str]:
    """Folders of this Python installation: standard library, packages, shared libraries."""
    paths = sysconfig.get_paths()
    roots = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots |= {path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
    return sorted({*roots, str(Path(sys.base_exec_prefix, "lib"))})


def _end(process: subprocess.Popen[bytes], channel: Channel) -> None:
    process.kill()
    process.wait()
    channel.close()


def printable(value: object) -> str:
    """A stranger's text on one line, without control characters, at most 500 long: its two ends."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return text if len(text) <= 500 else f"{text[:200]} ... {text[-295:]}"

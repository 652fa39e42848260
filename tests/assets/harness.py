"""Run as a child process: ``python harness.py REGISTRY NAME [STOP]`` ensures one asset of a registry file.

STOP names a moment at which the child kills itself: ``downloaded``, ``staged`` or ``built``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from runner import assets
from runner.assets import cache, clients, fetch, registry


def _die_before(module: Any, name: str) -> None:
    def die(*arguments: Any, **named: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, die)


def main(file: str, name: str, stop: str = "") -> None:
    table = registry.parse(Path(file).read_text("utf8"))
    registry.entries = lambda: table  # type: ignore[assignment]
    if stop:
        _die_before(*{"downloaded": (fetch, "extract"), "staged": (fetch, "_build"), "built": (cache, "publish")}[stop])
    if os.environ.get("HARNESS_LOG"):
        _log_downloads(Path(os.environ["HARNESS_LOG"]))
    print(assets.ensure(name).path, flush=True)


def _log_downloads(log: Path) -> None:
    real = clients.download

    def logged(*arguments: Any, **named: Any) -> Any:
        with log.open("a") as file:
            file.write("download\n")
        return real(*arguments, **named)

    clients.download = logged


if __name__ == "__main__":
    main(*sys.argv[1:])

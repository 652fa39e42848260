"""The child's side: confine, say what holds, import the code that serves, serve until the parent is gone.

A service is ``module:function``. Called once with the descriptor of the model file (-1 = none), it imports what it needs
without reading that file, and returns what answers requests: ``answer(header, body) -> (header, body)``. The parent
limits memory in between. A ``Refusal`` it raises, or any other error, becomes one line for the parent.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from runner.models.sandbox import confine, wire

NOT_IMPORTED = ("dill",)
"""Packages that torch imports where they are installed and that open a device when imported, which is refused here."""

Answer = Callable[[dict[str, Any], bytearray], tuple[dict[str, Any], bytes | memoryview]]


class Refusal(Exception):
    """What the child itself has against the file; the text is shown to the user."""


def main() -> None:
    """Entry point; ``sys.argv[1]`` is the JSON that ``process.Sandbox`` wrote."""
    given = json.loads(sys.argv[1])
    inbox, outbox = given["inbox"], given["outbox"]
    layers = confine.confine(given["parent"], given["readable"], files=given["files"], cpu_seconds=given["cpu_seconds"])
    wire.write_all(outbox, wire.pack({"layers": layers, "proven": confine.proven()}))
    wire.read_exactly(inbox, 1)  # the parent agrees
    tempfile.tempdir = "/nonexistent"  # libraries ask where it is when imported; nothing can be written there
    for name in NOT_IMPORTED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # as if it were not installed
    try:
        module, _, name = given["service"].partition(":")
        answer: Answer = getattr(importlib.import_module(module), name)(given["file"])
        wire.write_all(outbox, wire.pack({"ready": True}))
    except Exception as error:  # noqa: BLE001  whatever it is, the parent is told
        wire.write_all(outbox, wire.pack(_problem(error)))
        return
    while True:
        try:
            sizes = wire.PREFIX.unpack(wire.read_exactly(inbox, wire.PREFIX.size))
            header, body = json.loads(wire.read_exactly(inbox, sizes[0])), wire.read_exactly(inbox, sizes[1])
        except EOFError:
            return
        wire.write_all(outbox, _answer(answer, header, body))


def _answer(answer: Answer, header: dict[str, Any], body: bytearray) -> tuple[bytes, bytes | memoryview]:
    try:
        return wire.pack(*answer(header, body))
    except BaseException as error:  # noqa: BLE001  also SystemExit: a stranger's code is asked, and the loop goes on
        return wire.pack(_problem(error))


def _problem(error: BaseException) -> dict[str, Any]:
    kind = "refused" if isinstance(error, Refusal) else type(error).__name__
    text = " ".join(str(error).split())
    return {"error": kind, "text": text if len(text) <= 1000 else f"{text[:300]} ... {text[-600:]}"}

"""What a running step is given besides its parameters.

``StepContext`` is made by the executor for every attempt of a step. Steps use it to say how far they are, to save work
item by item, to record calls and warnings, and to notice that they should stop. ``local_context(folder)`` makes one for
plain Python use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class ProgressSink(Protocol):
    """Receives what the steps report. All amounts are increments; ``total`` is the new expected total or None."""

    def progress(self, step: str, unit: str, advance: int, total: int | None) -> None:
        """``advance`` further items of ``unit`` are done in ``step``."""

    def usage(
        self, step: str, calls: int, cached: int, prompt_tokens: int, completion_tokens: int, cost: float | None
    ) -> None:
        """A language-model call ended (``calls`` paid, ``cached`` answered from the reply cache)."""

    def message(self, step: str, level: str, text: str, item: str | None) -> None:
        """A warning or failure to show at once."""


class Journal(Protocol):
    """Durable record of what happened inside a step, kept even when the step fails."""

    def llm_call(self, row: dict[str, Any]) -> None:
        """Append one row of the results table ``llm_calls`` (without run, variant and step)."""

    def message(self, row: dict[str, Any]) -> None:
        """Append one row of the results table ``messages`` (without run, variant and step)."""


class ItemCache(Protocol):
    """Content-addressed store for finished pieces of work, shared by all runs of a workspace; survives kill -9."""

    def get(self, key: str) -> bytes | None:
        """The stored bytes, or None."""

    def put(self, key: str, value: bytes) -> None:
        """Store; durable when this returns. The same key must always mean the same value."""

    def put_many(self, values: Mapping[str, bytes]) -> None:
        """Store several at once, which costs little more than one."""


class Stop(Protocol):
    """Asked between items: raises ``Interrupted`` or ``BudgetExceeded`` when the run should end."""

    def check(self) -> None:
        """Raise if the run should end, else return."""


class Budget(Protocol):
    """Limits of a run, counted over all its attempts."""

    def spend(self, kind: str, amount: float) -> None:
        """Count ``amount`` of ``llm_calls``, ``tokens`` or ``images``; raises ``BudgetExceeded`` past the limit."""


def item_key(*parts: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``parts``; the key of one item in an ``ItemCache``."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class StepContext:
    """One attempt of one step.

    Attributes: ``step`` name in the spec; ``seed`` of the run; ``device`` (``cpu``, ``cuda``, ``mps``); ``scratch`` a
    folder that outlives a killed attempt and is removed once the step's artifact is there; ``staging`` the folder of the
    artifact in the making; ``shared`` a folder of the workspace for things that several steps build once.
    """

    step: str
    seed: int
    device: str
    scratch: Path
    staging: Path
    shared: Path
    items: ItemCache
    journal: Journal
    sink: ProgressSink
    stop: Stop
    budget: Budget
    failures: list[tuple[str, str]] = field(default_factory=list)

    def folder(self, name: str) -> Path:
        """The folder to fill for the ``Folder`` output ``name``."""
        path = self.staging / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def track(self, items: Iterable[T], *, unit: str = "items", total: int | None = None) -> Iterator[T]:
        """Iterate with progress; between items, stop when asked to."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        self.advance(unit, 0, total)
        for item in items:
            self.stop.check()
            yield item
            self.advance(unit, 1)

    def advance(self, unit: str, amount: int = 1, total: int | None = None) -> None:
        """Report ``amount`` finished items."""
        self.sink.progress(self.step, unit, amount, total)

    def check(self) -> None:
        """Raise ``Interrupted`` or ``BudgetExceeded`` when the run should end."""
        self.stop.check()

    def warn(self, text: str, *, item: str | None = None) -> None:
        """Say something the user should know; shown at once and kept in ``messages``."""
        self._say("warning", text, item)

    def failed(self, item: str, reason: str) -> None:
        """Give up one item and go on; the run then ends with exit code 3 and lists it."""
        self.failures.append((item, reason))
        self._say("failed", reason, item)

    def _say(self, level: str, text: str, item: str | None) -> None:
        self.journal.message({"level": level, "item": item, "text": text})
        self.sink.message(self.step, level, text, item)


class _Silent:
    """Sink, stop and budget that show nothing and limit nothing."""

    def progress(self, step: str, unit: str, advance: int, total: int | None) -> None:
        pass

    def usage(
        self, step: str, calls: int, cached: int, prompt_tokens: int, completion_tokens: int, cost: float | None
    ) -> None:
        pass

    def check(self) -> None:
        pass

    def spend(self, kind: str, amount: float) -> None:
        pass

    def message(self, step: str, level: str, text: str, item: str | None) -> None:
        pass


class MemoryJournal:
    """A journal kept in two lists (``calls``, ``messages``)."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []

    def llm_call(self, row: dict[str, Any]) -> None:
        """Append to ``calls``."""
        self.calls.append(row)

    def message(self, row: dict[str, Any]) -> None:
        """Append to ``messages``."""
        self.messages.append(row)


class MemoryItems:
    """An item cache kept in a dict."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        """The stored bytes, or None."""
        return self.values.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Store until the process ends."""
        self.values[key] = value

    def put_many(self, values: Mapping[str, bytes]) -> None:
        """Store several."""
        self.values |= values


def local_context(folder: Path, *, step: str = "step", seed: int = 0, device: str = "cpu") -> StepContext:
    """A context for calling a step from Python: files below ``folder``, records in memory, no limits."""
    paths = {name: folder / name for name in ("scratch", "staging", "shared")}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    silent = _Silent()
    return StepContext(
        step, seed, device, paths["scratch"], paths["staging"], paths["shared"],
        MemoryItems(), MemoryJournal(), silent, silent, silent,
    )  # fmt: skip

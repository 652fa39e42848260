"""``llm_calls.jsonl`` and ``messages.jsonl`` of a run: appended line by line, readable after any kill."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.graph import atomic
from runner.graph.nodes import Placement
from runner.graph.workspace import RunFolder

Row = dict[str, Any]


def read_lines(path: Path) -> list[Row]:
    """The rows of a journal; a torn last line, or a damaged one, is left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    rows = (_row(line) for line in lines)
    return [row for row in rows if row is not None]


def _row(line: bytes) -> Row | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _encoded(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False, default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value).isoformat()
    return value.item() if hasattr(value, "item") else str(value)


class RunJournal:
    """Both journals of a run. Whoever makes one holds the run's lock.

    ``still_valid`` says for a (variant, step) whether its messages stand; those of steps that will run again are
    dropped, since they will be written again. Calls stay: they were paid.
    """

    def __init__(self, folder: RunFolder, still_valid: Callable[[Placement], bool]) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        messages = [m for m in read_lines(folder.messages_path) if still_valid(Placement(m["variant"], m["step"]))]
        for path, rows in ((folder.calls_path, self.calls()), (folder.messages_path, messages)):
            if path.exists():
                atomic.write_bytes(path, b"".join(map(_encoded, rows)))

    def calls(self) -> list[Row]:
        """Rows of ``llm_calls``."""
        return read_lines(self.folder.calls_path)

    def messages(self) -> list[Row]:
        """Rows of ``messages``."""
        return read_lines(self.folder.messages_path)

    def append(self, path: Path, row: Row, *, durable: bool) -> None:
        """Add one line with one write; ``durable`` also waits for the disk."""
        with self._lock:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                os.write(descriptor, _encoded(row))
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def spent(self) -> dict[str, float]:
        """Calls and tokens paid so far, over all attempts of the run."""
        paid = [row for row in self.calls() if not row.get("cached")]
        tokens = sum((row.get("prompt_tokens") or 0) + (row.get("completion_tokens") or 0) for row in paid)
        return {"llm_calls": sum(row.get("attempts") or 0 for row in paid), "tokens": tokens}


class StepJournal:
    """The ``Journal`` of one step: adds its place to every row and remembers its warnings for the manifest."""

    def __init__(self, journal: RunJournal, place: Placement) -> None:
        self._journal, self._place = journal, place
        self.warnings: list[tuple[str | None, str]] = []

    def llm_call(self, row: Row) -> None:
        """Append one row of ``llm_calls``; on disk when this returns, unless the reply came from the cache."""
        path = self._journal.folder.calls_path
        self._journal.append(path, self._placed(row), durable=not row.get("cached"))

    def message(self, row: Row) -> None:
        """Append one row of ``messages``."""
        if row.get("level") == "warning":
            self.warnings.append((row.get("item"), str(row.get("text"))))
        self._journal.append(self._journal.folder.messages_path, self._placed(row), durable=False)

    def _placed(self, row: Row) -> Row:
        return {"variant": self._place.variant, "step": self._place.step, **row}

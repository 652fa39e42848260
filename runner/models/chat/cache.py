"""The reply cache: one SQLite table, shared by all processes of a workspace.

Write-ahead log with ``synchronous=NORMAL``: a killed process loses nothing that ``put`` returned from. Nothing is ever
evicted. What may be stored (no errors, no empty and no cut replies) is the client's decision.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

from runner.errors import DataError
from runner.models.chat.wire import RawReply

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
  key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL, model TEXT NOT NULL,
  prompt_tokens INTEGER, completion_tokens INTEGER, created REAL NOT NULL
) WITHOUT ROWID
"""
_BUSY_SECONDS = 60.0


class ReplyCache:
    """Replies by key. Thread-safe; any number of processes may share the file."""

    def __init__(self, path: Path) -> None:
        """``path``: the database file; made, with its folder, on first use."""
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def get(self, key: str) -> RawReply | None:
        """The stored reply, or None. Raises ``DataError`` when the file is damaged."""
        query = "SELECT text, finish_reason, model, prompt_tokens, completion_tokens FROM replies WHERE key = ?"
        row = self._run(query, (key,))
        return RawReply(*row) if row else None

    def put(self, key: str, reply: RawReply) -> None:
        """Store; there when this returns. The first reply to a key stays."""
        values = (reply.text, reply.finish_reason, reply.model, reply.prompt_tokens, reply.completion_tokens)
        self._run("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)", (key, *values, time.time()))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _run(self, statement: str, values: tuple[object, ...]) -> tuple[str, str, str, int | None, int | None] | None:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                row: tuple[str, str, str, int | None, int | None] | None
                row = self._connection.execute(statement, values).fetchone()
            except sqlite3.Error as error:
                raise DataError(
                    f"the reply cache {self.path} cannot be used: {error}",
                    hint="if it is damaged, move it aside: replies are then asked for again",
                ) from error
        return row

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, _BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(_SCHEMA)
        return connection

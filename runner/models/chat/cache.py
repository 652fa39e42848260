"""The reply cache: one SQLite table, shared by all processes of a workspace.

Write-ahead log with ``synchronous=NORMAL``: a killed process loses nothing that ``put`` returned from. Nothing is ever
evicted. Each reply carries a digest: one that was damaged on disk counts as not there. What may be stored (no errors;
empty and cut replies only where the question allows them) is the client's decision.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from runner.errors import DataError
from runner.models.chat.wire import RawReply

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sealed_replies (
  key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL, model TEXT NOT NULL,
  prompt_tokens INTEGER, completion_tokens INTEGER, created REAL NOT NULL, digest BLOB NOT NULL,
  cached_tokens INTEGER, log_likelihood REAL
) WITHOUT ROWID
"""
_SELECT = """
SELECT text, finish_reason, model, prompt_tokens, completion_tokens, cached_tokens, log_likelihood, digest
FROM sealed_replies WHERE key = ?
"""
_INSERT = """
INSERT OR IGNORE INTO sealed_replies (
  key, text, finish_reason, model, prompt_tokens, completion_tokens, cached_tokens, log_likelihood, created, digest
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_FIRST_VALUES = 5  # how many values files had from the start
_ADDED = {"cached_tokens": "INTEGER", "log_likelihood": "REAL"}
_BUSY_SECONDS = 60.0


class ReplyCache:
    """Replies by key. Thread-safe; any number of processes may share the file."""

    def __init__(self, path: Path) -> None:
        """``path``: the database file; made, with its folder, on first use."""
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def get(self, key: str) -> RawReply | None:
        """The stored reply, or None where there is none or its bytes changed. ``DataError``: the file cannot be read."""
        row = self._stored(key)
        return RawReply(*row[:-1]) if row and row[-1] == _digest(key, row[:-1]) else None

    def put(self, key: str, reply: RawReply) -> None:
        """Store; there when this returns. The first reply to a key stays, unless it was damaged."""
        values = (
            reply.text, reply.finish_reason, reply.model, reply.prompt_tokens, reply.completion_tokens,
            reply.cached_tokens, _as_stored(reply.log_likelihood),
        )  # fmt: skip
        found = self._stored(key)
        if found and found[-1] != _digest(key, found[:-1]):
            self._run("DELETE FROM sealed_replies WHERE key = ? AND digest = ?", (key, found[-1]))
        row = (key, *values, time.time(), _digest(key, values))
        self._run(_INSERT, row)

    def _stored(self, key: str) -> tuple[Any, ...] | None:
        return self._run(_SELECT, (key,))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _run(self, statement: str, values: tuple[object, ...]) -> tuple[Any, ...] | None:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
            except (sqlite3.Error, UnicodeDecodeError) as error:
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
        _add_columns(connection)
        return connection


def _add_columns(connection: sqlite3.Connection) -> None:
    """Give a file of an older release the columns that it lacks; whoever comes second finds them there."""
    if not _lacking(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    for name in _lacking(connection):
        connection.execute(f"ALTER TABLE sealed_replies ADD COLUMN {name} {_ADDED[name]}")
    connection.execute("COMMIT")


def _lacking(connection: sqlite3.Connection) -> list[str]:
    found = {row[1] for row in connection.execute("PRAGMA table_info(sealed_replies)")}
    return [name for name in _ADDED if name not in found]


def _as_stored(number: float | None) -> float | None:
    """SQLite keeps no sign of zero, and the digest must not depend on one."""
    return None if number is None else float(number) + 0.0


def _digest(key: str, values: tuple[Any, ...]) -> bytes:
    """Covers every value; replies that have none of the later ones are sealed as they were before those existed."""
    if all(value is None for value in values[_FIRST_VALUES:]):
        values = values[:_FIRST_VALUES]
    return hashlib.sha256(json.dumps([key, *values]).encode("utf8", "surrogatepass")).digest()

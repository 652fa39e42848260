"""Finished pieces of work by content (``items.sqlite``), and remembered hashes of files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from runner.errors import DataError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, inode INTEGER, sha256 TEXT)
  WITHOUT ROWID;
"""
_WAIT_SECONDS = 60.0
_SETTLED_NS = 2_000_000_000
_CHUNK = 1 << 20


def spelled(path: Path) -> str:
    """A path as text that can be stored: bytes of a name that are no UTF-8 are spelled out (``\\xff``)."""
    return os.fsencode(path).decode("utf8", "backslashreplace")


class SqliteItems:
    """An ``ItemCache`` in one SQLite file; many threads and processes may use it at once.

    A value is committed when ``put`` returns. Each value carries its own digest: one that was damaged on disk counts as
    not there. A file that SQLite cannot read is moved aside, loudly, and begun anew: it is a cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = _connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            path.rename(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
            self._connection = _connect(path)

    def get(self, key: str) -> bytes | None:
        """The stored bytes, or None."""
        with self._lock, self._named():
            row = self._connection.execute("SELECT value, digest FROM items WHERE key = ?", (key,)).fetchone()
        if row is None or _digest(key, row[0]) != row[1]:
            return None
        return bytes(row[0])

    def put(self, key: str, value: bytes) -> None:
        """Store; on disk when this returns."""
        self.put_many({key: value})

    def put_many(self, values: Mapping[str, bytes]) -> None:
        """Store several in one transaction; on disk when this returns."""
        rows = [(key, value, _digest(key, value)) for key, value in values.items()]
        with self._lock, self._named(), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", rows)

    def file_sha256(self, path: Path) -> str:
        """SHA-256 (hex) of a file, from memory where path, size, mtime and inode are as they were."""
        name, status = spelled(path), path.stat()
        stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
        with self._lock, self._named():
            known = self._connection.execute(
                "SELECT sha256 FROM files WHERE path = ? AND size = ? AND mtime = ? AND inode = ?", (name, *stamp)
            ).fetchone()
        if known:
            return str(known[0])
        digest = sha256_of(path)
        # A file touched within the clock's grain may change again under the same stamp: do not remember it yet.
        if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
            with self._lock, self._named(), self._connection:
                self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", (name, *stamp, digest))
        return digest

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """An error of SQLite as one that a user can act on."""
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise DataError(
                f"the item cache {self.path} cannot be used: {error}",
                hint="if it is damaged, move it aside: what it held is then computed again",
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _digest(key: str, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16, key=key.encode()[:64]).digest()


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        with contextlib.suppress(AttributeError, OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

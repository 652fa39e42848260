"""Opening, making and growing the DuckDB file. Nothing here locks: callers hold ``results.locking.held``.

What is promised about the file: where its name exists it is a complete database with this schema or an older one (it is
made under another name and renamed), and its generation is not below the number in the file beside it.
"""

from __future__ import annotations

import functools
import graphlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import duckdb

from results.tables import SCHEMA_VERSION, TableDefinition, schema_text, tables
from runner.errors import ResultsBusy, ResultsError, RunnerError, UsageError

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "lock_configuration": True,
}
"""The same for every connection: DuckDB refuses others to the same file in one process. SQL sees no files, no network."""

REBUILD = "make it again from the artifacts: runner results rebuild"


@dataclass(frozen=True)
class View:
    """A named question: ``results/views/<name>.sql`` holds a comment line and one SELECT."""

    name: str
    comment: str
    query: str


@functools.cache
def views() -> tuple[View, ...]:
    """All views, those that others read first."""
    files = sorted(resources.files("results.views").iterdir(), key=lambda f: f.name)
    found = {f.name[:-4]: _view(f.name[:-4], f.read_text("utf8")) for f in files if f.name.endswith(".sql")}
    reads = {name: sorted(set(re.findall(r"\w+", view.query)) & found.keys() - {name}) for name, view in found.items()}
    return tuple(found[name] for name in graphlib.TopologicalSorter(reads).static_order())


def _view(name: str, text: str) -> View:
    first, _, query = text.partition("\n")
    if not first.startswith("-- "):
        raise ValueError(f"results/views/{name}.sql must start with a comment line that says what it shows")
    return View(name, first.removeprefix("-- ").strip(), query.strip().removesuffix(";"))


@functools.cache
def fingerprint() -> str:
    """Changes when a table, a column, a comment or a view changes."""
    text = schema_text() + "".join(f"{v.name}{v.comment}{v.query}" for v in views())
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def connected(path: Path, *, read_only: bool, patience: float = 0.0) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose errors come out as ours: ``UsageError`` for SQL that cannot be read, else ``ResultsError``.

    ``patience``: seconds to wait for programs that open the file without our lock.
    """
    connection = _connect(path, read_only, time.monotonic() + patience)
    try:
        yield connection
    except duckdb.Error as error:
        raise explained(path, error, reading=read_only) from None
    finally:
        # After a failed commit even closing may fail; the file is sound either way (its WAL decides).
        with suppress(duckdb.Error):
            connection.close()


def _connect(path: Path, read_only: bool, deadline: float) -> duckdb.DuckDBPyConnection:
    while True:
        try:
            return duckdb.connect(path, read_only=read_only, config=SETTINGS)
        except duckdb.Error as error:
            reason = unopened(path, error)
        if not isinstance(reason, ResultsBusy) or time.monotonic() >= deadline:
            raise reason
        time.sleep(0.05)


def unopened(path: Path, error: duckdb.Error) -> RunnerError:
    """What a failed ``connect`` means."""
    text = str(error)
    if "Could not set lock" in text:
        return ResultsBusy(
            f"{path} is open in another program: {_first_line(text)}",
            hint="close it there, or open it read-only there (duckdb -readonly)",
        )
    if isinstance(error, duckdb.ConnectionException):
        return ResultsBusy(
            f"{path} is open elsewhere in this process with other settings", hint="close that connection"
        )
    if "does not exist" in text:
        return UsageError(f"there is no results file {path}", hint="run a spec first, or name another file")
    if "No space left" in text:
        return full(path)
    return ResultsError(f"{path} cannot be opened as a DuckDB file: {_first_line(text)}", hint=REBUILD)


def explained(path: Path, error: duckdb.Error, *, reading: bool) -> RunnerError:
    """What an error of a statement means; only a reader's statement is somebody's typing."""
    text = _first_line(str(error))
    bad_query = (
        duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError, duckdb.PermissionException,
        duckdb.InvalidInputException, duckdb.ConstraintException,
    )  # fmt: skip
    if "No space left" in text or "File too large" in text or isinstance(error, duckdb.FatalException):
        return full(path, text)
    if "orrupt" in text or isinstance(
        error, (duckdb.IOException, duckdb.InternalException, duckdb.SerializationException)
    ):
        return ResultsError(f"{path} is damaged: {text}", hint=REBUILD)
    if reading and isinstance(error, bad_query):
        return UsageError(str(error))
    return ResultsError(f"{path}: {text}")


def full(path: Path, text: str = "no space left") -> ResultsError:
    """DuckDB stopped in the middle of writing; what was committed before is safe."""
    return ResultsError(
        f"{path} could not be written: {text}",
        hint="free some disk space and run the same command again; everything committed before is there",
    )


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def check_place(path: Path) -> None:
    """Raises ``UsageError`` where a folder, device or pipe stands at ``path``: a new file would take its place."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file that could hold results", hint="name another results file")


def create(path: Path, generation: int) -> None:
    """Make an empty results file: whole under another name, then renamed. Raises ``UsageError`` (``check_place``)."""
    check_place(path)
    partial = path.with_name(path.name + ".new")
    remove(partial)
    partial.write_bytes(_empty())
    with connected(partial, read_only=False) as connection:
        values = [SCHEMA_VERSION, fingerprint(), generation, datetime.now(UTC).replace(tzinfo=None)]
        connection.execute("INSERT INTO meta VALUES (?, ?, ?, ?)", values).fetchall()
        checkpoint(connection)
    _sync(partial)
    remove(path)  # an empty file, or the write-ahead log of one that was deleted: never to be replayed over the new one
    partial.replace(path)
    _sync(path.parent)


@functools.cache
def _empty() -> bytes:
    """A database file with all tables and views and no row. Made once a process: its thousand statements take a while."""
    with tempfile.TemporaryDirectory(prefix="runner-") as folder:
        path = Path(folder) / "empty.duckdb"
        with connected(path, read_only=False) as connection:
            connection.execute("BEGIN").fetchall()
            for table in tables().values():
                _create_table(connection, table)
            _create_views(connection)
            connection.execute("COMMIT").fetchall()
            checkpoint(connection)
        return path.read_bytes()


def checkpoint(connection: duckdb.DuckDBPyConnection) -> None:
    """Move all rows from the write-ahead log into the file; needed before a file is renamed away from its log."""
    connection.execute("CHECKPOINT").fetchall()


def remove(path: Path) -> None:
    """Remove a database file with its write-ahead log."""
    path.with_name(path.name + ".wal").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _create_table(connection: duckdb.DuckDBPyConnection, table: TableDefinition) -> None:
    columns = ", ".join(f"{c.name} {c.type}{'' if c.nullable else ' NOT NULL'}" for c in table.columns)
    connection.execute(f"CREATE TABLE {table.name} ({columns})").fetchall()
    connection.execute(f"COMMENT ON TABLE {table.name} IS {_quoted(table.comment)}").fetchall()
    for column in table.columns:
        connection.execute(f"COMMENT ON COLUMN {table.name}.{column.name} IS {_quoted(column.comment)}").fetchall()


def _create_views(connection: duckdb.DuckDBPyConnection) -> None:
    for view in views():
        connection.execute(f"CREATE OR REPLACE VIEW {view.name} AS {view.query}").fetchall()
        connection.execute(f"COMMENT ON VIEW {view.name} IS {_quoted(view.comment)}").fetchall()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def state(connection: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, int]:
    """Fingerprint and generation of an open file; raises ``ResultsError`` for a foreign or newer one."""
    found = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name IN ('meta', 'runs')").fetchall()
    if found[0][0] != 2:
        raise ResultsError(f"{path} is a DuckDB file, but not one of runner", hint="name another results file")
    version, digest, generation = connection.execute(
        "SELECT schema_version, schema_sha256, generation FROM meta"
    ).fetchall()[0]
    if version > SCHEMA_VERSION:
        raise ResultsError(
            f"{path} was written by a newer runner (schema {version}; this one knows {SCHEMA_VERSION})",
            hint="update runner, or name another results file",
        )
    return str(digest), int(generation)


def grow(connection: duckdb.DuckDBPyConnection) -> None:
    """Add tables and columns that this version knows and the file lacks, and renew the views. Removes nothing.

    A column added to a table with rows is NULL there, whatever the schema says of new rows.
    """
    there: dict[str, set[str]] = {}
    for table, column in connection.execute("SELECT table_name, column_name FROM duckdb_columns()").fetchall():
        there.setdefault(table, set()).add(column)
    for table in tables().values():
        if table.name not in there:
            _create_table(connection, table)
            continue
        for column in table.columns:
            if column.name not in there[table.name]:
                connection.execute(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.type}").fetchall()
                comment = _quoted(column.comment)
                connection.execute(f"COMMENT ON COLUMN {table.name}.{column.name} IS {comment}").fetchall()
    _create_views(connection)
    connection.execute("UPDATE meta SET schema_sha256 = ?", [fingerprint()]).fetchall()


def read_generation(path: Path) -> int:
    """The number in the file beside the database; 0 where there is none."""
    try:
        return int(generation_file(path).read_text("ascii"))
    except FileNotFoundError:
        return 0
    except ValueError:
        return 0


def write_generation(path: Path, generation: int) -> None:
    """Write the number durably; called after the commit, under the lock."""
    target = generation_file(path)
    partial = target.with_name(target.name + ".new")
    with partial.open("w", encoding="ascii") as file:
        file.write(str(generation))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    _sync(target.parent)


def generation_file(path: Path) -> Path:
    """The file beside the database that holds the number of its last commit."""
    return path.with_name(path.name + ".generation")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

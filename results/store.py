"""The results file: who writes replaces whole pieces in one transaction, who reads sees the last commit.

    store = ResultsStore(Path("out/results.duckdb"))
    store.replace_run(run_json)                                     # the run and what was recorded of it
    store.replace_step(run_id, variant, step, {"c2b_group": rows})  # everything that one step found
    store.query("SELECT * FROM findings").to_pylist()

A connection lives for one transaction. Around it the lock of ``results.locking`` is held; the generation number of
``results.database`` is a second belt against a connection that worked from old file headers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from results import database, export, rows
from results.locking import Say, held
from results.tables import step_tables, tables
from runner.errors import ResultsError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Reader:
    """An open reading transaction: ``reader(sql, params)`` runs one statement in it."""

    connection: duckdb.DuckDBPyConnection

    def __call__(self, sql: str, params: Mapping[str, Any] | list[Any] | None = None) -> pa.Table:
        """The statement's rows; ``params`` fill ``$name`` or ``?``. No rows at all: a table without columns."""
        import pyarrow as pa

        relation = self.connection.sql(sql, params=_plain(params))
        return pa.table({}) if relation is None else relation.to_arrow_table()


RUN_LISTS = {
    "variants": "variants",
    "steps": "run_steps",
    "models": "models",
    "assets": "assets",
    "messages": "messages",
    "llm_calls": "llm_calls",
}
"""Lists of ``run.json`` (and the two journals) and the tables they fill."""

REOPENS = 4


def lock_file(path: Path) -> Path:
    """The lock of the results file ``path``."""
    return path.with_name(path.name + ".lock")


class ResultsStore:
    """One results file, shared by processes and threads; made on the first write.

    ``timeout``: seconds to wait for others before ``ResultsBusy``. ``say``: told once when waiting gets long. All
    methods raise ``ResultsError`` where the file is damaged, foreign or from a newer version.
    """

    def __init__(self, path: Path | str, *, timeout: float = 60.0, say: Say | None = None) -> None:
        self.path = Path(path).absolute()
        self.timeout = timeout
        self.say: Say = say or logging.getLogger(__name__).warning

    def create(self) -> None:
        """Make the file with all tables and views, or bring an older one up to date."""
        with self._writing():
            pass

    # --- writing ---------------------------------------------------------------------------------------------------

    def replace_run(self, run_json: Mapping[str, Any]) -> None:
        """Rewrite what is known of a run: ``run.json`` with, optionally, ``messages`` and ``llm_calls``.

        Lists that are there replace the run's rows of their table (an empty list clears them); lists that are not
        leave them alone.
        """
        run = run_json.get("run") or {}
        run_id = run.get("run_id")
        if not run_id:
            raise ResultsError("run.json names no run: its 'run' must hold run_id")
        parts = {"runs": rows.run_rows("runs", [run], run_id)}
        for key, table in RUN_LISTS.items():
            if run_json.get(key) is not None:
                parts[table] = rows.run_rows(table, run_json[key], run_id)
        with self._writing() as connection:
            put_run(connection, run_id, parts)

    def replace_step(self, run_id: str, variant: str, step: str, tables: Mapping[str, pa.Table]) -> None:
        """Replace every row that (run, variant, step) has in any step table by ``tables`` ({results table: rows})."""
        self.replace_steps(run_id, [(variant, step, tables)])

    def replace_steps(self, run_id: str, steps: Sequence[tuple[str, str, Mapping[str, pa.Table]]]) -> None:
        """Replace the rows of several (variant, step, tables) in one transaction; costs little more than one."""
        fitted = [(variant, step, _fitted(parts)) for variant, step, parts in steps]
        with self._writing() as connection:
            put_steps(connection, run_id, fitted)

    def delete_run(self, run_id: str) -> None:
        """Remove every row of a run. Its files stay; ``rebuild`` would bring it back."""
        with self._writing() as connection:
            for name in _filled(connection, tables()):
                if name != "meta":
                    connection.execute(f"DELETE FROM {name} WHERE run_id = ?", [run_id]).fetchall()  # noqa: S608

    @contextmanager
    def _writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction under the exclusive lock; nothing is kept of it when the body raises."""
        database.check_place(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with held(lock_file(self.path), exclusive=True, timeout=self.timeout, say=self.say):
            with self._open(read_only=False) as (connection, current):
                connection.execute("BEGIN").fetchall()
                if not current:
                    database.grow(connection)
                yield connection
                advance = "UPDATE meta SET generation = generation + 1 RETURNING generation"
                generation = connection.execute(advance).fetchall()[0][0]
                connection.execute("COMMIT").fetchall()
            database.write_generation(self.path, generation)

    # --- reading ---------------------------------------------------------------------------------------------------

    def query(self, sql: str, params: Mapping[str, Any] | list[Any] | None = None) -> pa.Table:
        """The rows of one statement; ``params`` fill ``$name`` or ``?``. Reads only: no writing, no files, no network.

        Raises ``UsageError`` where the SQL is wrong or asks for more than reading.
        """
        with self.reading() as read:
            return read(sql, params)

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Several queries that see the same commit. Writers wait meanwhile: fetch, leave, then work."""
        if not self.path.exists():
            raise UsageError(f"there is no results file {self.path}", hint="run a spec first, or name another file")
        self._bring_up_to_date()
        with (
            held(lock_file(self.path), exclusive=False, timeout=self.timeout, say=self.say),
            self._open(read_only=True) as (connection, _),
        ):
            connection.execute("BEGIN").fetchall()
            yield Reader(connection)

    def export(self, sql: str, path: Path, format: str) -> None:
        """Write the rows of a query to a file: ``csv``, ``json`` or ``parquet``; whole or not at all."""
        export.write(self.query(sql), path, format)

    def _bring_up_to_date(self) -> None:
        """Give an older file the tables and views of this version before the first read, where it can be written."""
        with (
            held(lock_file(self.path), exclusive=False, timeout=self.timeout, say=self.say),
            self._open(read_only=True) as (_, current),
        ):
            pass
        if not current and os.access(self.path, os.W_OK):
            self.create()
        self._bring_up_to_date = lambda: None  # type: ignore[method-assign]

    @contextmanager
    def _open(self, *, read_only: bool) -> Iterator[tuple[duckdb.DuckDBPyConnection, bool]]:
        """A connection that saw the last commit, and whether the file has this version's tables and views."""
        if not read_only and not (self.path.exists() and self.path.stat().st_size):
            database.create(self.path, database.read_generation(self.path))
        for _ in range(REOPENS):
            with ExitStack() as stack:
                opened = database.connected(self.path, read_only=read_only, patience=self.timeout)
                connection = stack.enter_context(opened)
                digest, generation = database.state(connection, self.path)
                if generation >= database.read_generation(self.path):
                    yield connection, digest == database.fingerprint()
                    return
        raise ResultsError(
            f"{self.path} is older than its last commit (generation {generation}): was a copy put in its place?",
            hint=database.REBUILD,
        )


def _fitted(parts: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Tables of a step with the types of the database. Raises ``ResultsError`` where one has no place there."""
    fitted = {name: rows.fit(name, table) for name, table in parts.items()}
    for name in fitted:
        if name not in step_tables():
            raise ResultsError(f"table {name} is not filled by steps")
    return fitted


def put_run(connection: duckdb.DuckDBPyConnection, run_id: str, parts: Mapping[str, pa.Table]) -> None:
    """Replace the rows of a run in the given tables; ``parts`` hold their key columns."""
    for name, rows_ in parts.items():
        connection.execute(f"DELETE FROM {name} WHERE run_id = ?", [run_id]).fetchall()  # noqa: S608
        if rows_.num_rows:
            _insert(connection, name, rows_)


def put_steps(
    connection: duckdb.DuckDBPyConnection, run_id: str, steps: Sequence[tuple[str, str, Mapping[str, pa.Table]]]
) -> None:
    """Replace the rows of each (run, variant, step) in all step tables; the tables hold no key columns."""
    import pyarrow as pa

    keys = pa.table({"variant": [v for v, _, _ in steps], "step": [s for _, s, _ in steps]})
    incoming: dict[str, list[pa.Table]] = {}
    for variant, step, parts in steps:
        for name, rows_ in parts.items():
            if rows_.num_rows:
                incoming.setdefault(name, []).append(_keyed(rows_, run_id, variant, step))
    with _registered(connection, "replaced", keys):
        for name in _filled(connection, step_tables()):
            chosen = "(variant, step) IN (SELECT variant, step FROM replaced)"
            connection.execute(f"DELETE FROM {name} WHERE run_id = ? AND {chosen}", [run_id]).fetchall()  # noqa: S608
    for name, tables_ in incoming.items():
        _insert(connection, name, pa.concat_tables(tables_))


def _filled(connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> list[str]:
    """Those of the tables that hold rows: a statement for each empty one would cost most of a step's transaction."""
    query = "SELECT table_name FROM duckdb_tables() WHERE estimated_size > 0"
    filled = {name for (name,) in connection.execute(query).fetchall()}
    return [name for name in names if name in filled]


def _keyed(rows_: pa.Table, run_id: str, variant: str, step: str) -> pa.Table:
    """The rows with their key columns."""
    import pyarrow as pa

    for name, value in (("run_id", run_id), ("variant", variant), ("step", step)):
        rows_ = rows_.append_column(name, pa.repeat(pa.scalar(value, pa.string()), rows_.num_rows))
    return rows_


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows_: pa.Table) -> None:
    with _registered(connection, "incoming", rows_):
        connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming").fetchall()  # noqa: S608


@contextmanager
def _registered(connection: duckdb.DuckDBPyConnection, name: str, rows_: pa.Table) -> Iterator[None]:
    connection.register(name, rows_)
    try:
        yield
    finally:
        connection.unregister(name)


def _plain(params: Mapping[str, Any] | list[Any] | None) -> Any:
    """Parameters without numpy scalars, which DuckDB does not bind."""
    if isinstance(params, Mapping):
        return {name: _item(value) for name, value in params.items()}
    return None if params is None else [_item(value) for value in params]


def _item(value: Any) -> Any:
    return value.item() if getattr(value, "shape", None) == () else value

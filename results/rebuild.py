"""The database is an index: ``check`` compares it with the files it stands for, ``rebuild`` makes it again from them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from results import database
from results.artifacts import Difference, RunFiles, read_run, run_folders
from results.locking import Say, held
from results.store import ResultsStore, lock_file, put_run, put_steps
from results.tables import RUN_TABLES, step_tables, tables
from runner.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Place = tuple[str, str, str, str]
"""(table, run, variant, step). Tables about a run are compared whole: variant and step are ''."""

Content = tuple[int, int]
"""Number of rows and a sum of their hashes, which does not depend on their order."""


@dataclass
class Rebuilt:
    """What a rebuild put into the new file, and what it could not read."""

    runs: int = 0
    steps: int = 0
    rows: int = 0
    problems: list[Difference] = field(default_factory=list)


def check(root: Path, name: str = "results.duckdb", *, timeout: float = 60.0) -> list[Difference]:
    """Every disagreement between the database ``root/name`` and the files below ``root``; empty when all is well.

    Compares each table of each step and run by row count and content, and each Parquet file with its manifest.
    """
    found: list[Difference] = []
    known: set[str] = set()
    with ResultsStore(root / name, timeout=timeout).reading() as read:
        there = database_content(read.connection)
        for folder in run_folders(root):
            files = read_run(root, folder)
            known.add(files.run_id)
            found += files.problems
            if not files.parts:
                continue
            wanted = file_content(read.connection, files)
            here = {place: content for place, content in there.items() if place[1] == files.run_id}
            found += _differences(wanted, here, unreadable={(p.table, p.variant, p.step) for p in files.problems})
    orphans = {place[1] for place in there} - known
    found += [Difference(run, "", "", "", "is in the database, but its run.json is gone") for run in orphans]
    return sorted(found)


def database_content(connection: duckdb.DuckDBPyConnection) -> dict[Place, Content]:
    """What the database holds, by place."""
    found: dict[Place, Content] = {}
    for table in (*RUN_TABLES, *step_tables()):
        keys = "run_id, '', ''" if table in RUN_TABLES else "run_id, variant, step"
        sql = f"SELECT {keys}, {_digest(table)} FROM {table} GROUP BY ALL"  # noqa: S608 - names from schema.sql
        for run, variant, step, count, digest in connection.execute(sql).fetchall():
            found[table, run, variant, step] = (count, digest)
    return found


def file_content(connection: duckdb.DuckDBPyConnection, files: RunFiles) -> dict[Place, Content]:
    """What the database should hold of a run; the connection only computes."""
    places: dict[Place, pa.Table] = {(table, files.run_id, "", ""): rows for table, rows in files.parts.items()}
    for (variant, step), content in files.steps.items():
        places |= {(table, files.run_id, variant, step): rows for table, rows in content.items()}
    return {place: _content(connection, place[0], rows) for place, rows in places.items() if rows.num_rows}


def _content(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> Content:
    connection.register("from_files", rows)
    try:
        count, digest = connection.execute(f"SELECT {_digest(table)} FROM from_files").fetchall()[0]  # noqa: S608
        return count, digest
    finally:
        connection.unregister("from_files")


def _digest(table: str) -> str:
    """SQL of a table's ``Content``, by its own columns and, for tables about a run, its keys."""
    columns = tables()[table].columns if table in RUN_TABLES else tables()[table].own_columns
    values = ", ".join(f"{c.name}::{c.type}" for c in columns)
    return f"count(*), sum(hash({values})::HUGEINT)"


def _differences(
    wanted: dict[Place, Content], there: dict[Place, Content], unreadable: set[tuple[str, str, str]]
) -> list[Difference]:
    found = []
    for place in wanted.keys() | there.keys():
        table, run, variant, step = place
        expected, actual = wanted.get(place, (0, 0)), there.get(place, (0, 0))
        if expected == actual or {(table, variant, step), ("", variant, step)} & unreadable:
            continue
        what = "the rows differ from those in the files"
        if expected[0] != actual[0]:
            what = f"{actual[0]} rows in the database, {expected[0]} in the files"
        found.append(Difference(run, variant, step, table, what))
    return found


def rebuild(root: Path, name: str = "results.duckdb", *, timeout: float = 60.0, say: Say | None = None) -> Rebuilt:
    """Make ``root/name`` again from the runs and artifacts below ``root``, and put it in the place of the old file.

    Holds the exclusive lock all along, so that no step is written into the file that is about to go. The old file is
    replaced only when the new one is complete; what could not be read is in ``problems``.
    """
    path = (root / name).absolute()
    database.check_place(path)
    if not run_folders(root):
        raise UsageError(f"there are no runs below {root}", hint="name the folder that holds the results file")
    outcome = Rebuilt()
    with held(lock_file(path), exclusive=True, timeout=timeout, say=say or logging.getLogger(__name__).warning):
        generation = database.read_generation(path) + 1
        fresh = path.with_name(f"{name}.rebuild")
        database.create(fresh, generation)
        with database.connected(fresh, read_only=False) as connection:
            connection.execute("BEGIN").fetchall()
            for folder in run_folders(root):
                _add(connection, read_run(root, folder), outcome)
            connection.execute("COMMIT").fetchall()
            database.checkpoint(connection)
        _swap(fresh, path, generation)
    return outcome


def _add(connection: duckdb.DuckDBPyConnection, files: RunFiles, outcome: Rebuilt) -> None:
    outcome.problems += files.problems
    if not files.parts:
        return
    put_run(connection, files.run_id, files.parts)
    put_steps(connection, files.run_id, [(variant, step, content) for (variant, step), content in files.steps.items()])
    outcome.rows += sum(rows.num_rows for content in files.steps.values() for rows in content.values())
    outcome.runs += 1
    outcome.steps += len(files.steps)


def _swap(fresh: Path, path: Path, generation: int) -> None:
    """Put ``fresh`` in the place of ``path``.

    The old write-ahead log goes first: it must never be replayed over the new file. A crash right after leaves the old
    file without its last commits, which its generation number shows; another rebuild mends it.
    """
    path.with_name(path.name + ".wal").unlink(missing_ok=True)
    fresh.replace(path)
    database.write_generation(path, generation)

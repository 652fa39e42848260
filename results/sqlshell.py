"""``runner sql``: one reading statement, shown as a table or written as CSV, JSON or Parquet."""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from results import database
from results.tables import tables
from runner.errors import UsageError
from runner.shown import on_one_line

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

    from results.store import ResultsStore

LONGEST_CELL = 200
_MISSING_TABLE = re.compile(r"Table with name (\S+) does not exist")
_MISSING_COLUMN = re.compile(r'(?:Referenced|Values list "\w+" does not have a) column (?:named )?"(\w+)"')
_NUMBERS = ("int", "uint", "float", "double", "decimal", "halffloat")


def ask(store: ResultsStore, sql: str) -> pa.Table:
    """The statement's rows. Raises ``UsageError`` that names the nearest tables and columns, or says that only reading
    is possible."""
    _need_one_statement(sql)
    try:
        return store.query(sql)
    except UsageError as error:
        raise UsageError(_cleared(error.message), hint=error.hint or advice(error.message)) from None


def _need_one_statement(sql: str) -> None:
    """Of several statements only the last one's rows would be seen. Text that is no SQL is left to the database to explain."""
    import duckdb

    with suppress(duckdb.Error), duckdb.connect(config=database.SETTINGS) as parser:
        count = len(parser.extract_statements(sql))
        if count != 1:
            raise UsageError(
                f"one statement at a time: here are {count or 'none'}", hint="for example: SELECT * FROM findings"
            )


def _cleared(message: str) -> str:
    """DuckDB's message without its own guesses, which know neither views nor comments."""
    lines = [line for line in message.splitlines() if not line.startswith(("Did you mean", "Candidate bindings"))]
    return "\n".join(lines).rstrip()


def advice(message: str) -> str | None:
    """What to write instead, or None where the message says it all."""
    if missing := _MISSING_TABLE.search(message):
        return _near("table", missing[1].strip('"'), relation_names())
    if missing := _MISSING_COLUMN.search(message):
        return _near("column", missing[1], column_names(), also=re.findall(r'(?<=[:,] )"(\w+)"', message))
    if "read-only" in message or "Permission Error" in message or "configuration" in message:
        return "only reading is possible here, and only from this file: SELECT, FROM, SHOW, DESCRIBE, SUMMARIZE"
    if "Parser Error" in message:
        return "ask in SQL, for example: SELECT * FROM findings"
    return None


def relation_names() -> list[str]:
    """Tables and views, by name."""
    return sorted([*tables(), *(view.name for view in database.views())])


def column_names() -> list[str]:
    """Columns of any table, by name."""
    return sorted({column.name for table in tables().values() for column in table.columns})


def _near(what: str, name: str, known: list[str], also: list[str] | None = None) -> str:
    close = difflib.get_close_matches(name.lower(), [*(also or []), *known], 3, 0.55)
    if close:
        return f"did you mean {' or '.join(dict.fromkeys(close))}?"
    listed = also or (known if what == "table" else [])
    return f"{what}s: {', '.join(listed)}" if listed else "DESCRIBE <table> lists its columns"


def as_table(rows: pa.Table, limit: int | None = 1000) -> Table:
    """For a terminal: numbers right, long texts cut, at most ``limit`` rows with a line that says how many there are."""
    from rich.table import Table
    from rich.text import Text

    shown = rows if limit is None else rows.slice(0, limit)
    table = Table(pad_edge=False)
    for field in rows.schema:
        numeric = str(field.type).startswith(_NUMBERS)
        table.add_column(Text(on_one_line(field.name)), justify="right" if numeric else "left", overflow="fold")
    for row in zip(*(column.to_pylist() for column in shown.columns), strict=True):
        table.add_row(*(Text(cell(value)) for value in row))
    if shown.num_rows < rows.num_rows:
        table.caption = f"{shown.num_rows} of {rows.num_rows} rows; add LIMIT, or --format csv for all"
    return table


def cell(value: Any) -> str:
    """One value as a terminal shows it; control characters are made visible so that they cannot steer it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    text = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in str(value))
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}…"

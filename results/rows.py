"""From what runs and steps hand over to Arrow tables that fit ``schema.sql`` exactly.

Two ways in: rows as JSON carries them (time stamps as ISO text, JSON columns as objects), and Arrow tables of steps.
Both ways out have every column of the results table, in order and typed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from results.tables import KEY_COLUMNS, TableDefinition, arrow_schema, tables
from runner.errors import ResultsError

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]


def definition(table: str) -> TableDefinition:
    """The table's definition; raises ``ResultsError`` naming the nearest table."""
    found = tables().get(table)
    if found is None:
        raise ResultsError(f"there is no results table {table!r}{nearest(table, tables())}")
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?``, or nothing."""
    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def run_rows(table: str, rows: Iterable[Row], run_id: str) -> pa.Table:
    """Rows of a table about the run, as ``run.json`` holds them, with their keys (``variant`` and ``step`` default '')."""
    import pyarrow as pa

    wanted = definition(table)
    blank = {c.name: "" for c in wanted.columns if c.name in KEY_COLUMNS}
    try:
        typed = [_typed(wanted, {**blank, **row, "run_id": run_id}) for row in rows]
        return pa.Table.from_pylist(typed, schema=_full_schema(wanted))
    except (pa.ArrowException, AttributeError, TypeError, ValueError) as error:
        raise ResultsError(f"rows of table {table} do not fit: {error}") from error


def _full_schema(table: TableDefinition) -> pa.Schema:
    import pyarrow as pa

    own = arrow_schema(table.name)
    return pa.schema(
        [own.field(c.name) if c.name in own.names else pa.field(c.name, pa.string()) for c in table.columns]
    )


def _typed(table: TableDefinition, row: Row) -> dict[str, Any]:
    columns = {c.name: c for c in table.columns}
    for name in row:
        if name not in columns:
            raise ResultsError(f"table {table.name} has no column {name!r}{nearest(name, columns)}")
    for column in table.columns:
        if not column.nullable and row.get(column.name) is None:
            raise ResultsError(f"table {table.name}: column {column.name} must not be NULL")
    return {name: _value(columns[name].type, value) for name, value in row.items()}


def _value(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "JSON" and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    if kind == "TIMESTAMP":
        return _utc(value)
    return value


def _utc(value: str | datetime) -> datetime:
    """Naive UTC, as TIMESTAMP columns hold it."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def fit(table: str, rows: pa.Table) -> pa.Table:
    """A step's table with exactly the columns and types of the results table (no keys).

    Missing nullable columns become NULL, numbers are converted only where no value changes. Raises ``ResultsError``
    naming the table and the column.
    """
    import pyarrow as pa

    wanted = definition(table)
    known = {c.name for c in wanted.own_columns}
    for name in rows.column_names:
        if name not in known:
            raise ResultsError(f"table {table} has no column {name!r}{nearest(name, known)}")
        if rows.column_names.count(name) > 1:
            raise ResultsError(f"table {table}: column {name!r} is there twice")
    schema = arrow_schema(table)
    return pa.Table.from_arrays([_column(table, rows, field) for field in schema], schema=schema)


def _column(table: str, rows: pa.Table, field: pa.Field[Any]) -> pa.ChunkedArray[Any]:
    import pyarrow as pa

    present = field.name in rows.column_names
    values = rows.column(field.name) if present else pa.chunked_array([pa.nulls(rows.num_rows, field.type)])
    if not field.nullable and values.null_count:
        raise ResultsError(f"table {table}: column {field.name} must not be NULL")
    try:
        return values.cast(field.type)
    except pa.ArrowException as error:
        raise ResultsError(f"table {table}: column {field.name} must be {field.type}: {error}") from error

"""Typed definitions of the result tables, read from ``schema.sql`` (the one place where they are written).

Light: pyarrow is imported only when a schema is asked for.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

KEY_COLUMNS = ("run_id", "variant", "step")
SCHEMA_VERSION = 1
STORE_TABLES = ("meta",)
RUN_TABLES = ("runs", "variants", "run_steps", "models", "assets", "messages", "llm_calls")

_TABLE = re.compile(r"((?:^--[^\n]*\n)*)^CREATE TABLE (\w+) \(\n(.*?)^\);", re.MULTILINE | re.DOTALL)
_COLUMN = re.compile(r"^  (\w+) ([A-Z]+(?:\[\])?)( NOT NULL)?,?  -- (.+)$")


@dataclass(frozen=True)
class Column:
    """One column: name, DuckDB type, whether it may be NULL, meaning."""

    name: str
    type: str
    nullable: bool
    comment: str


@dataclass(frozen=True)
class TableDefinition:
    """One results table; ``columns`` holds all, ``own_columns`` those without the key."""

    name: str
    comment: str
    columns: tuple[Column, ...]

    @property
    def own_columns(self) -> tuple[Column, ...]:
        """The columns that a step fills (all but run_id, variant and step)."""
        return tuple(c for c in self.columns if c.name not in KEY_COLUMNS or self.name == "runs")


def schema_text() -> str:
    """The SQL that creates every table."""
    return resources.files("results").joinpath("schema.sql").read_text("utf8")


@functools.cache
def tables() -> dict[str, TableDefinition]:
    """All tables by name, in file order."""
    found = {}
    for comment, name, body in _TABLE.findall(schema_text()):
        columns = tuple(_column(name, line) for line in body.splitlines() if line.strip())
        found[name] = TableDefinition(name, comment.replace("-- ", "").strip(), columns)
    return found


def step_tables() -> dict[str, TableDefinition]:
    """The tables that steps fill: all but those about the file and about the run."""
    return {name: table for name, table in tables().items() if name not in (*STORE_TABLES, *RUN_TABLES)}


def _column(table: str, line: str) -> Column:
    match = _COLUMN.match(line)
    if match is None:
        raise ValueError(f"schema.sql, table {table}: write `name TYPE [NOT NULL],  -- meaning`, not {line.strip()!r}")
    name, type_, not_null, comment = match.groups()
    return Column(name, type_, not_null is None, comment)


@functools.cache
def arrow_schema(table: str) -> pa.Schema:
    """The pyarrow schema of what a step returns for ``table`` (no key columns)."""
    import pyarrow as pa

    return pa.schema([pa.field(c.name, _arrow_type(c.type), c.nullable) for c in tables()[table].own_columns])


def _arrow_type(name: str) -> pa.DataType:
    import pyarrow as pa

    if name.endswith("[]"):
        return pa.list_(_arrow_type(name[:-2]))
    types: dict[str, pa.DataType] = {
        "VARCHAR": pa.string(),
        "JSON": pa.string(),
        "BIGINT": pa.int64(),
        "INTEGER": pa.int32(),
        "DOUBLE": pa.float64(),
        "FLOAT": pa.float32(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMP": pa.timestamp("us"),
        "BLOB": pa.binary(),
    }
    return types[name]


def arrow_table(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows (dicts by column) as a typed table; missing columns become NULL. Raises ValueError naming a bad column."""
    import pyarrow as pa

    schema = arrow_schema(table)
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise ValueError(f"table {table} has no column {', '.join(sorted(unknown))}")
    for field in schema:
        if not field.nullable and any(row.get(field.name) is None for row in rows):
            raise ValueError(f"table {table}: column {field.name} must not be NULL")
    return pa.Table.from_pylist(rows, schema=schema)

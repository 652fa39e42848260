"""Results that no other section speaks for, as plain tables with the meaning of each column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from results.report.page import Part, Request, Section
from results.tables import TableDefinition, step_tables

if TYPE_CHECKING:
    from results.store import Reader

MOST_ROWS = 200


def collect(read: Reader, request: Request) -> list[dict[str, Any]] | None:
    """The first rows of every filled table that is not covered, with how many there are."""
    found = []
    for table in step_tables().values():
        if table.name not in request.covered:
            found += _table(read, table, request.run_id)
    return found or None


def _table(read: Reader, table: TableDefinition, run_id: str) -> list[dict[str, Any]]:
    columns = [c for c in table.columns if c.name != "run_id" and c.type != "BLOB"]
    names = ", ".join(c.name for c in columns)
    sql = f"SELECT {names}, count(*) OVER () AS found FROM {table.name} WHERE run_id = $run LIMIT {MOST_ROWS}"  # noqa: S608
    rows = read(sql, {"run": run_id}).to_pylist()
    shown = [c for c in columns if any(row[c.name] not in (None, "") for row in rows)]
    return [{"table": table, "columns": shown, "rows": rows, "found": rows[0]["found"]}] if rows else []


def parts(found: list[dict[str, Any]]) -> list[Part]:
    """One part a table, headed by what the table holds."""
    return [Part(f"table-{f['table'].name}", f["table"].comment.rstrip("."), "tables.html.jinja", f) for f in found]


SECTIONS = (Section("tables", frozenset(), collect, parts),)

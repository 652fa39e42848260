"""Query results as CSV, JSON or Parquet, written by pyarrow so that the database itself never touches other files."""

from __future__ import annotations

import base64
import io
import json
import os
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from runner.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["csv", "json", "parquet"]
FORMATS: tuple[str, ...] = get_args(Format)


def encode(table: pa.Table, format: str) -> bytes:
    """The table in one of ``FORMATS``. CSV: UTF-8 with a header, lists as JSON text, bytes as base64. JSON: a list of
    objects, NaN as null. Raises ``UsageError`` for another format."""
    if format == "parquet":
        return _parquet(table)
    if format == "csv":
        return _csv(table)
    if format == "json":
        rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]
        return (json.dumps(rows, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
    raise UsageError(f"unknown format {format!r}", hint=f"use one of: {', '.join(FORMATS)}")


def write(table: pa.Table, path: Path, format: str) -> None:
    """Write ``encode(table, format)`` to ``path``, whole or not at all."""
    data = encode(table, format)
    partial = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="name a file in a writable folder") from error
    finally:
        partial.unlink(missing_ok=True)


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _csv(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.csv

    columns = [_flat(column) for column in table.columns]
    buffer = io.BytesIO()
    pa.csv.write_csv(pa.Table.from_arrays(columns, names=table.column_names), buffer)
    return buffer.getvalue()


def _flat(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Nested and binary values as text; the rest unchanged."""
    import pyarrow as pa

    if not (pa.types.is_nested(column.type) or pa.types.is_binary(column.type)):
        return column
    texts = [None if v is None else _text(_plain(v)) for v in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """As JSON can carry it."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)

"""Whether a returned table is what ``results/schema.sql`` promises, and its exact form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

from results.tables import arrow_schema
from runner.errors import StepError

_FAMILIES: tuple[Callable[[pa.DataType], bool], ...] = (
    kinds.is_integer,
    kinds.is_floating,
    kinds.is_boolean,
    kinds.is_temporal,
    lambda t: kinds.is_string(t) or kinds.is_large_string(t),
    lambda t: kinds.is_binary(t) or kinds.is_large_binary(t) or kinds.is_fixed_size_binary(t),
    lambda t: kinds.is_list(t) or kinds.is_large_list(t) or kinds.is_fixed_size_list(t),
)


def conform(table: pa.Table, name: str, step: str) -> pa.Table:
    """``table`` with exactly the columns, order and types of results table ``name``.

    Widths may differ (int32 for int64), kinds may not (text for a number). Raises ``StepError`` naming step, table and
    column: a missing or unknown column, a wrong kind, a value that does not fit, a NULL where none may stand.
    """
    wanted = arrow_schema(name)
    where = f"step {step!r}, table {name}"
    names = table.column_names
    if len(set(names)) < len(names):
        raise StepError(f"{where}: a column name occurs twice: {', '.join(names)}", step=step)
    for problem, columns in (("lacks", set(wanted.names) - set(names)), ("has no", set(names) - set(wanted.names))):
        if columns:
            listed = ", ".join(sorted(columns))
            message = f"{where}: the step's table lacks column {listed}" if problem == "lacks" else (
                f"{where}: the table {problem} column {listed}, which the step returned")  # fmt: skip
            raise StepError(message, step=step, hint=f"the columns are {', '.join(wanted.names)}")
    fitting = [_column(table[field.name], field, where, step) for field in wanted]
    return pa.Table.from_arrays(fitting, schema=wanted)


def _column(values: pa.ChunkedArray[Any], field: pa.Field[Any], where: str, step: str) -> pa.ChunkedArray[Any]:
    place = f"{where}, column {field.name}"
    if kinds.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if values.null_count and not field.nullable:
        raise StepError(f"{place}: {values.null_count} of {len(values)} values are NULL, none may be", step=step)
    if not _same_family(values.type, field.type):
        raise StepError(f"{place}: expected {field.type}, found {values.type}", step=step)
    try:
        return values.cast(field.type)
    except pa.ArrowInvalid as error:
        raise StepError(f"{place}: a value does not fit {field.type}: {error}", step=step) from error


def _same_family(found: Any, wanted: Any) -> bool:
    if kinds.is_null(found) or found == wanted:
        return True
    if kinds.is_floating(wanted) and kinds.is_integer(found):
        return True
    family = next((f for f in _FAMILIES if f(wanted)), None)
    if family is None or not family(found):
        return False
    return not kinds.is_list(wanted) or _same_family(found.value_type, wanted.value_type)

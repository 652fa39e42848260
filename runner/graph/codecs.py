"""Outputs to bytes and back: tables as Parquet, arrays as safetensors, values as JSON. Same content, same bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from runner.errors import StepError
from runner.graph.columns import conform
from runner.steps import OutputField


def _wrong(step: str, field: OutputField, expected: str, value: Any) -> StepError:
    return StepError(
        f"step {step!r}, output {field.name!r}: expected {expected}, found {type(value).__name__}", step=step
    )


def table_bytes(value: Any, field: OutputField, step: str) -> tuple[pa.Buffer, int]:
    """Parquet with page checksums, and the number of rows. Raises ``StepError`` for what is not the promised table."""
    if not isinstance(value, pa.Table):
        raise _wrong(step, field, "a pyarrow Table", value)
    table = conform(value, field.table, step) if field.table else value
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue(), table.num_rows


def read_table(data: Any) -> pa.Table:
    """The table inside Parquet bytes."""
    return pq.read_table(pa.BufferReader(data), page_checksum_verification=True, use_threads=False)


def array_bytes(value: Any, field: OutputField, step: str) -> bytes:
    """safetensors. Raises ``StepError`` for anything but a dict of numeric numpy arrays."""
    from safetensors import SafetensorError
    from safetensors.numpy import save

    if not isinstance(value, dict):
        raise _wrong(step, field, "a dict of numpy arrays", value)
    for name, array in value.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise _wrong(step, field, f"a numpy array under {name!r}", array)
    try:
        return bytes(save({name: np.ascontiguousarray(array) for name, array in value.items()}))
    except (SafetensorError, KeyError, ValueError) as error:
        raise StepError(f"step {step!r}, output {field.name!r}: cannot be stored: {error}", step=step) from error


def read_arrays(data: Any) -> dict[str, Any]:
    """The arrays inside safetensors bytes."""
    from safetensors.numpy import load

    return dict(load(bytes(data)))


def plain(value: Any, field: OutputField, step: str) -> Any:
    """A value output as JSON data. Raises ``StepError`` where it does not fit its annotation or JSON."""
    where = f"step {step!r}, output {field.name!r}"
    try:
        adapter = TypeAdapter(field.annotation)
        # Not mode="json": that would turn an infinite float inside a value of type Any into null.
        data = to_jsonable_python(
            adapter.dump_python(adapter.validate_python(value, strict=True)), inf_nan_mode="constants"
        )
        text = json.dumps(data, ensure_ascii=False)
        adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StepError(f"{where}{' at ' + place if place else ''}: {first['msg']}", step=step) from error
    except (PydanticSerializationError, PydanticUserError, TypeError, ValueError) as error:
        raise StepError(f"{where}: cannot be stored as JSON: {error}", step=step) from error
    return data


def read_value(data: Any, annotation: Any) -> Any:
    """A stored value as its annotation says."""
    return TypeAdapter(annotation).validate_json(json.dumps(data, ensure_ascii=False))

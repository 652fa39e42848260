"""One canonical JSON for validated Python values, and hashes of it: the ground on which content keys stand."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from runner.references import AssetRef, ResolvedPath

Resolve = Callable[[str], Any]
"""Says what stands in the key for a ``ResolvedPath`` or ``AssetRef``: its content."""

_RESERVED = "$"


def as_written(value: str) -> str:
    """A ``Resolve`` that keeps the spelling; for showing values, not for keys."""
    return str(value)


def canonical(value: Any, resolve: Resolve = as_written) -> Any:
    """``value`` as JSON in which equal content looks equal and different content different.

    Understands what pydantic validates: plain values, containers, models, dataclasses, enums, dates, paths, bytes.
    Dictionaries with other than string keys and sets become sorted lists. Raises ``TypeError`` for anything else.
    """
    if isinstance(value, AssetRef):
        return {"$asset": resolve(value)}
    if isinstance(value, ResolvedPath):
        return {"$path": resolve(value)}
    if isinstance(value, enum.Enum):
        return canonical(value.value, resolve)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Mapping):
        return _mapping(value, resolve)
    if isinstance(value, (list, tuple)):
        return [canonical(v, resolve) for v in value]
    if isinstance(value, (set, frozenset)):
        return {"$set": sorted((canonical(v, resolve) for v in value), key=dumps)}
    return _object(value, resolve)


def _mapping(value: Mapping[Any, Any], resolve: Resolve) -> Any:
    if all(isinstance(k, str) and not k.startswith(_RESERVED) for k in value):
        return {str(k): canonical(v, resolve) for k, v in sorted(value.items())}
    pairs = [[canonical(k, resolve), canonical(v, resolve)] for k, v in value.items()]
    return {"$map": sorted(pairs, key=dumps)}


def _object(value: Any, resolve: Resolve) -> Any:
    if isinstance(value, BaseModel):
        return {k: canonical(v, resolve) for k, v in sorted(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: canonical(getattr(value, f.name), resolve) for f in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, (datetime.date, datetime.time, datetime.datetime)):
        return {"$time": value.isoformat()}
    if isinstance(value, (datetime.timedelta, decimal.Decimal, Path)):
        return {f"${type(value).__name__.lower()}": str(value)}
    raise TypeError(f"a value of type {type(value).__name__} cannot be part of a content key")


def dumps(value: Any) -> str:
    """Compact JSON with sorted keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (hex) of the compact JSON of an already canonical value."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()


def references_outside(value: Any) -> Iterator[ResolvedPath | AssetRef]:
    """Every path and asset inside a validated value, in order."""
    if isinstance(value, (AssetRef, ResolvedPath)):
        yield value
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from references_outside(inner)
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from references_outside(pair)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for inner in value:
            yield from references_outside(inner)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from references_outside(getattr(value, field.name))

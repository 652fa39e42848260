"""JSON Schemas of the replies, built per request.

Everything is bounded: a constrained small model without bounds writes until its token limit. What must be told apart in
the reply carries an opaque key (``v0``, ``v1``, ...), so that no name can break the mapping back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Schema = dict[str, Any]

NAME_LENGTH = 40
CAPTION_LENGTH = 120


def _text(length: int) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": length}


def _closed(properties: dict[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def biases_schema(attributes: int, min_values: int, max_values: int) -> Schema:
    """``{"biases": [{"bias attribute": str, "bias classes": [str, ...]}, ...]}`` with at most ``attributes`` entries."""
    values = {"type": "array", "items": _text(NAME_LENGTH), "minItems": min_values, "maxItems": max_values}
    bias = _closed({"bias attribute": _text(NAME_LENGTH), "bias classes": values})
    return _closed({"biases": {"type": "array", "items": bias, "minItems": 1, "maxItems": attributes}})


def template_schema() -> Schema:
    """``{"caption template": str}``."""
    return _closed({"caption template": _text(CAPTION_LENGTH)})


def captions_schema(keys: Iterable[str]) -> Schema:
    """``{"captions": {key: str, ...}}`` with exactly these keys."""
    return _closed({"captions": _closed({key: _text(CAPTION_LENGTH) for key in keys})})

"""JSON Schemas of the replies, built per request.

Everything is bounded: a constrained small model without bounds writes until its token limit. What must be told apart in
the reply carries an opaque key (``v0``, ``v1``, ...), so that no name can break the mapping back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

NAME_LENGTH = 40
CAPTION_LENGTH = 120

_ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z0-9]+( [A-Za-z0-9]+)*")


def _text(length: int) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": length}


def _closed(properties: dict[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def biases_schema(attributes: int, min_values: int, max_values: int, names: Sequence[str] = ()) -> Schema:
    """``{"biases": [{"bias attribute": str, "bias classes": [str, ...]}, ...]}`` with at most ``attributes`` entries.

    ``names``: the attributes there may be; none = any.
    """
    values = {"type": "array", "items": _text(NAME_LENGTH), "minItems": min_values, "maxItems": max_values}
    name = {"enum": list(names)} if names else _text(NAME_LENGTH)
    bias = _closed({"bias attribute": name, "bias classes": values})
    return _closed({"biases": {"type": "array", "items": bias, "minItems": 1, "maxItems": attributes}})


def template_schema() -> Schema:
    """``{"caption template": str}``."""
    return _closed({"caption template": _text(CAPTION_LENGTH)})


def captions_schema(keys: Iterable[str], patterns: Mapping[str, str] | None = None) -> Schema:
    """``{"captions": {key: str, ...}}`` with exactly these keys; some held to a regular expression."""
    held = patterns or {}
    texts = {key: _text(CAPTION_LENGTH) | ({"pattern": held[key]} if key in held else {}) for key in keys}
    return _closed({"captions": _closed(texts)})


def caption_pattern(name: str, value: str | None) -> str | None:
    """A regular expression for captions that name the class and then the value (None: the class at the end).

    For models that lose the class on the way. None for names that are not plain words: they would need escaping that
    grammar compilers read differently.
    """
    words = [_ARTICLE.sub("", name), *([value] if value is not None else [])]
    if not all(_PLAIN.fullmatch(word) for word in words):
        return None
    if value is None:
        return f"^(A|a) [a-z ]{{3,24}} {words[0]}$"
    return f"^(A|An|The|a|an|the) {words[0]} [a-z ]{{2,24}} {words[1]}$"

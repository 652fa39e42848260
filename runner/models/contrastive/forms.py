"""A single answer in the form that a JSON Schema asks for, where one answer can fill it. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Form:
    """``choices``: the only answers that the schema allows, or None; ``fill``: JSON text with an answer in its place."""

    choices: tuple[str, ...] | None
    fill: Callable[[str], str]


def form_of(schema: Mapping[str, Any] | None) -> Form:
    """The form of a reply: plain text without a schema. Raises ValueError where one answer cannot fill the schema."""
    if schema is None:
        return Form(None, lambda answer: answer)
    choices, place = _slot(schema)
    return Form(choices, lambda answer: json.dumps(place(answer), ensure_ascii=False))


def _slot(schema: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, Callable[[str], Any]]:
    """Choices and place of the answer: a string, the one property of an object, or the one item of a list."""
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        if not values or not all(isinstance(value, str) for value in values):
            raise ValueError("the schema's choices are not all names")
        return tuple(values), lambda answer: answer
    kind = schema.get("type")
    if kind == "string":
        return None, lambda answer: answer
    if kind == "object":
        name, inner = _only_property(schema)
        choices, place = _slot(inner)
        return choices, lambda answer: {name: place(answer)}
    if kind == "array" and isinstance(schema.get("items"), dict) and schema.get("minItems", 0) <= 1:
        choices, place = _slot(schema["items"])
        return choices, lambda answer: [place(answer)]
    raise ValueError("the schema asks for more than one name")


def _only_property(schema: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    properties = schema.get("properties") or {}
    wanted = list(schema.get("required") or properties)
    if len(wanted) != 1 or not isinstance(properties.get(wanted[0]), dict):
        raise ValueError("the schema asks for more than one name")
    return wanted[0], properties[wanted[0]]

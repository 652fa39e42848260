"""Where a pydantic error points to in the document.

pydantic's ``loc`` mixes keys and indices of the value with labels of its own (the member of a union, the tag of a
discriminator, ``[key]``). Walking the value tells them apart.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, NamedTuple

from pydantic import BaseModel

from runner.spec.source import Path

KEY_LABEL = "[key]"
MAX_BRANCHING = 12


class Place(NamedTuple):
    """``path`` into the value; ``labels``: pydantic's own words with the depth of ``path`` at which they stood."""

    path: Path
    labels: tuple[tuple[int, str], ...]


def locate(value: Any, loc: tuple[str | int, ...], *, missing: bool = False) -> Place:
    """The place that ``loc`` means in ``value``; the last element is a key that is absent where ``missing``."""
    last = (loc[-1],) if missing and loc else ()
    steps = loc[: len(loc) - len(last)]
    places = _walks(value, steps, (), ())
    best = max(places, key=lambda found: (_fits(value, found.path, last), len(found.path)))
    return Place((*best.path, *last), best.labels)


def _walks(value: Any, loc: tuple[str | int, ...], path: Path, labels: tuple[tuple[int, str], ...]) -> list[Place]:
    if not loc:
        return [Place(path, labels)]
    step, rest = loc[0], loc[1:]
    found = []
    if has(value, step):
        found += _walks(value[step], rest, (*path, step), labels)
    if isinstance(step, str) and not (found and len(loc) > MAX_BRANCHING):
        found += _walks(value, rest, path, (*labels, (len(path), step)))
    return found or [Place(path, labels)]


def has(value: Any, step: str | int) -> bool:
    """Whether ``value[step]`` exists."""
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value)


def _fits(value: Any, path: Path, last: tuple[str | int, ...]) -> bool:
    for step in path:
        value = value[step]
    return not last or (isinstance(value, dict) and last[0] not in value)


def fields_at(annotation: Any, loc: tuple[str | int, ...]) -> list[str]:
    """Names of the fields of the model, dataclass or typed dict that ``loc`` leads to; empty where there are none."""
    annotation = _bare(annotation)
    if not loc:
        return list(_hints(annotation))
    hints = _hints(annotation)
    if loc[0] in hints:
        return fields_at(hints[str(loc[0])], loc[1:])
    for option in typing.get_args(annotation):
        if _is_named(option, loc[0]):
            return fields_at(option, loc[1:])
    args = [a for a in typing.get_args(annotation) if a is not Ellipsis]
    if _is_union(annotation):
        options = [o for o in args if _bare(o) is not type(None)]
        return fields_at(options[0], loc) if len(options) == 1 else fields_at(annotation, loc[1:])
    return fields_at(args[-1], loc[1:]) if args else []


def _bare(annotation: Any) -> Any:
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _is_union(annotation: Any) -> bool:
    import types

    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _is_named(option: Any, label: str | int) -> bool:
    """Whether a union's member has this class name, or this tag in one of its ``Literal`` fields."""
    option = _bare(option)
    if getattr(option, "__name__", None) == label:
        return True
    return any(
        typing.get_origin(_bare(hint)) is typing.Literal and label in typing.get_args(_bare(hint))
        for hint in _hints(option).values()
    )


def _hints(annotation: Any) -> dict[str, Any]:
    if not isinstance(annotation, type) or typing.get_origin(annotation) is not None:
        return {}
    if issubclass(annotation, BaseModel):
        return {info.alias or name: info.annotation for name, info in annotation.model_fields.items()}
    if dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation):
        return typing.get_type_hints(annotation)
    return {}

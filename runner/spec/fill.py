"""From the tree of one model or step to the plain value that pydantic judges.

``$params.x`` is replaced by the parameter's value; ``$name`` and ``$name.field`` become references, noted with their
place; ``$$`` at the beginning of a text stands for one dollar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.errors import Problem
from runner.spec.names import listed, nearest
from runner.spec.source import Path, Source, Span
from runner.spec.yaml12 import Node

REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_-]*)(?:\.([A-Za-z_][A-Za-z0-9_]*))?")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
PARAMS = "params"
MARK = "\0"
"""First character of a reference inside a filled value; no text of a spec can hold it."""

_INSIDE = re.compile(r"(?<=[^$])\$params\.([A-Za-z_][A-Za-z0-9_-]*)")


@dataclass(frozen=True)
class Mention:
    """One ``$name`` or ``$name.field`` with its place. ``param`` is the parameter through which it came."""

    name: str
    field: str | None
    path: Path
    span: Span
    param: str | None = None

    def __str__(self) -> str:
        return f"${self.name}.{self.field}" if self.field else f"${self.name}"


@dataclass
class Filled:
    """A value with references marked, and where its parts came from.

    ``mentions`` holds the references by path below the entry, ``origins`` the parameter that filled a path, ``used``
    all parameters that the entry names.
    """

    body: Any = None
    mentions: dict[Path, Mention] = field(default_factory=dict)
    origins: dict[Path, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def origin(self, path: Path) -> str | None:
        """The parameter that ``path`` came from, wholly or as a part of its value."""
        return next((self.origins[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.origins), None)


def fill(source: Source, entry: Node, params: Mapping[str, Any], path: Path) -> Filled:
    """The value of ``entry``, which stands at ``path``, with ``params`` put in."""
    filler = _Filler(source, params, path)
    filler.filled.body = filler.node(entry, ())
    return filler.filled


def mentioned(value: Any) -> set[str]:
    """Names that the texts inside a plain value refer to (``$name``)."""
    if isinstance(value, str):
        found = REFERENCE.fullmatch(value)
        return {found.group(1)} if found else set()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {name for part in parts for name in mentioned(part)}


class _Filler:
    def __init__(self, source: Source, params: Mapping[str, Any], prefix: Path) -> None:
        self.source, self.params, self.prefix, self.filled = source, params, prefix, Filled()

    def node(self, node: Node, path: Path) -> Any:
        if isinstance(node.data, dict):
            return {name: self.node(entry.value, (*path, name)) for name, entry in node.data.items()}
        if isinstance(node.data, list):
            return [self.node(item, (*path, index)) for index, item in enumerate(node.data)]
        return self._text(node.data, path, node.span) if isinstance(node.data, str) else node.data

    def _text(self, text: str, path: Path, span: Span) -> Any:
        if text.startswith(f"${PARAMS}.") or text == f"${PARAMS}":
            return self._param(text, path, span)
        inside = _INSIDE.search(text)
        if inside and inside.group(1) in self.params:
            message = f'"{inside.group()}" stands inside a longer text, where it would not be replaced'
            self.filled.used.add(inside.group(1))
            self._report("params", message, path, span, allowed=f"{inside.group()} as the whole value")
        return self._dollar(text, path, span, None)

    def _dollar(self, text: str, path: Path, span: Span, param: str | None) -> str:
        if not text.startswith("$"):
            return text
        if text.startswith("$$"):
            return text[1:]
        found = REFERENCE.fullmatch(text)
        if param is not None and text.partition(".")[0] == f"${PARAMS}":
            return MARK + text  # a parameter made of another one: reported where it is declared
        if found is None:
            allowed = "$name, $name.output or $params.name; write $$ for a text that begins with a dollar"
            self._report("reference", f'"{text[:60]}" is not a reference', path, span, allowed=allowed)
            return MARK + text
        self.filled.mentions[path] = Mention(found.group(1), found.group(2), path, span, param)
        return MARK + text

    def _param(self, text: str, path: Path, span: Span) -> Any:
        name = text.removeprefix(f"${PARAMS}").removeprefix(".")
        if name not in self.params:
            near = nearest(name, self.params) or (
                name.partition(".")[0] if name.partition(".")[0] in self.params else ""
            )
            allowed = listed(f"${PARAMS}.{known}" for known in self.params)
            suggestion = f"${PARAMS}.{near}" if near else None
            self._report("unknown-param", f'there is no parameter "{name}"', path, span, suggestion, allowed)
            return MARK + text
        self.filled.used.add(name)
        self.filled.origins[path] = name
        return self._put(self.params[name], path, span, name)

    def _put(self, value: Any, path: Path, span: Span, param: str) -> Any:
        if isinstance(value, dict):
            return {key: self._put(part, (*path, key), span, param) for key, part in value.items()}
        if isinstance(value, list):
            return [self._put(part, (*path, index), span, param) for index, part in enumerate(value)]
        return self._dollar(value, path, span, param) if isinstance(value, str) else value

    def _report(
        self,
        code: str,
        message: str,
        path: Path,
        span: Span,
        suggestion: str | None = None,
        allowed: str | None = None,
    ) -> None:
        place = (*self.prefix, *path)
        problem = self.source.problem(code, message, span, path=place, suggestion=suggestion, allowed=allowed)
        self.filled.problems.append(problem)

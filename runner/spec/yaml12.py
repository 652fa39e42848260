"""YAML 1.2 (core rules) to a tree that remembers where everything stood.

``1e-4`` is a number, ``no``, ``12:30`` and ``2024-01-01`` are text, ``010`` is ten. Anchors, aliases and merge keys
(``<<``) work; duplicate keys, several documents, tags other than the core ones and everything over ``Limits`` are
refused. Keys of mappings are always text, as written.

The tree is built from parser events rather than by PyYAML's composer, which recurses in C: depth and size are known
while reading, so that deep nesting and alias bombs end in an error before they cost anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, NoReturn

import yaml

from runner.errors import SpecError
from runner.spec.source import START, Path, Source, Span
from runner.spec.syntax import explain_syntax

CORE = "tag:yaml.org,2002:"
MERGE = "tag:yaml.org,2002:merge"
FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MAX_DIGITS = 300


class Limits(NamedTuple):
    """How large a spec may be. ``nodes`` counts keys and values after aliases are expanded."""

    bytes: int = 1 << 20
    depth: int = 64
    nodes: int = 200_000


DEFAULT_LIMITS = Limits()


class Yaml12Loader(yaml.CSafeLoader):
    """The C parser with the scalar rules of the YAML 1.2 core schema."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}  # type: ignore[misc]


_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    Yaml12Loader.add_implicit_resolver(CORE + _tag, re.compile(rf"^(?:{_pattern})$"), list(_first))


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping with its value."""

    key: Node
    value: Node


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands. ``data`` is a scalar, a list of nodes, or entries by key (merge keys applied).

    ``text`` is a scalar as written. ``size`` counts this node and all below it, ``height`` the levels.
    """

    data: Any
    span: Span
    text: str = ""
    size: int = 1
    height: int = 1
    merge: bool = False

    @property
    def entries(self) -> dict[str, Entry]:
        """The entries of a mapping; empty for anything else."""
        return self.data if isinstance(self.data, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The items of a list; empty for anything else."""
        return self.data if isinstance(self.data, list) else []

    def value(self) -> Any:
        """As plain Python: dict, list, str, int, float, bool or None."""
        if isinstance(self.data, dict):
            return {name: entry.value.value() for name, entry in self.data.items()}
        return [item.value() for item in self.data] if isinstance(self.data, list) else self.data

    def child(self, step: str | int) -> Node | None:
        """The value under a key or index, if there is one."""
        if isinstance(step, int):
            return self.items[step] if 0 <= step < len(self.items) else None
        entry = self.entries.get(step)
        return entry.value if entry else None

    def at(self, path: Path) -> Node | None:
        """The value at ``path`` below this node, if there is one."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node else None
        return node

    def key_span(self, path: Path) -> Span | None:
        """Where the last key of ``path`` was written (also when it came through an alias or a merge)."""
        parent = self.at(path[:-1])
        entry = parent.entries.get(str(path[-1])) if parent else None
        return entry.key.span if entry else None


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been read."""

    span: Span
    is_map: bool
    anchor: str | None
    children: list[Node] = field(default_factory=list)


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Node:
    """The tree of a document whose root may be anything. Raises ``SpecError``."""
    _check_characters(source, limits)
    loader = Yaml12Loader(source.text)
    try:
        return _Composer(source, limits, loader).document()
    except yaml.MarkedYAMLError as error:
        raise SpecError([explain_syntax(source, error)]) from None
    except yaml.YAMLError as error:
        raise SpecError([source.problem("yaml", f"this is not YAML: {error}", START)]) from None
    finally:
        loader.dispose()


def decode(data: bytes, file: str) -> Source:
    """Bytes as text. Raises ``SpecError`` where they are not UTF-8."""
    try:
        return Source(file, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        before = Source(file, data[: error.start].decode("utf-8", "replace"))
        span = Span(len(before.lines), len(before.lines[-1]) + 1)
        whole = Source(file, data.decode("utf-8", "replace"))
        message = f"this is not UTF-8 text (byte 0x{data[error.start]:02x}): save the file as UTF-8"
        raise SpecError([whole.problem("encoding", message, span)]) from None


def _check_characters(source: Source, limits: Limits) -> None:
    if len(source.text) > limits.bytes or len(source.text.encode("utf-8", "replace")) > limits.bytes:
        raise SpecError([source.problem("too-large", f"a spec may have at most {limits.bytes:,} bytes", START)])
    found = FORBIDDEN.search(source.text.removeprefix("\ufeff"))
    if found:
        before = Source("", source.text.removeprefix("\ufeff")[: found.start()]).lines
        message = f"the character U+{ord(found.group()):04X} cannot stand in a spec"
        raise SpecError([source.problem("character", message, Span(len(before), len(before[-1]) + 1))])


class _Composer:
    """Events to nodes, with an explicit stack."""

    def __init__(self, source: Source, limits: Limits, loader: Yaml12Loader) -> None:
        self.source, self.limits, self.loader = source, limits, loader
        self.anchors: dict[str, Node] = {}
        self.stack: list[_Open] = []
        self.count = 0

    def document(self) -> Node:
        root = None
        for event in self._events():
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                self._fail("several-documents", "a spec is one document: remove the second '---'", _span(event))
            node = self._take(event)
            root = root or node
        if root is None:
            self._fail("empty", "the spec is empty", START)
        return root

    def _events(self) -> Iterator[Any]:
        while self.loader.check_event():
            yield self.loader.get_event()

    def _take(self, event: Any) -> Node | None:
        """Use one event; gives the root once it is complete."""
        if isinstance(event, yaml.ScalarEvent):
            return self._place(self._scalar(event), event.anchor)
        if isinstance(event, yaml.AliasEvent):
            return self._place(self._alias(event), None)
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._open(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            done = self.stack.pop()
            return self._place(self._mapping(done) if done.is_map else self._list(done), done.anchor)
        return None

    def _open(self, event: Any) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", CORE + ("map" if is_map else "seq")):
            self._refuse_tag(event)
        self.stack.append(_Open(_span(event), is_map, event.anchor))
        self._check_depth(len(self.stack), _span(event))

    def _place(self, node: Node, anchor: str | None) -> Node | None:
        if anchor:
            self.anchors[anchor] = node
        if not self.stack:
            return node
        self.stack[-1].children.append(node)
        return None

    def _count(self, amount: int, span: Span) -> None:
        self.count += amount
        if self.count > self.limits.nodes:
            self._fail("too-large", f"more than {self.limits.nodes:,} values once aliases are expanded", span)

    def _check_depth(self, depth: int, span: Span) -> None:
        if depth > self.limits.depth:
            self._fail("too-deep", f"nested more than {self.limits.depth} levels deep", span)

    def _alias(self, event: Any) -> Node:
        span = _span(event)
        if any(open_.anchor == event.anchor for open_ in self.stack):
            self._fail("alias", f"*{event.anchor} stands inside the value that it repeats", span)
        known = self.anchors.get(event.anchor)
        if known is None:
            self._fail("alias", f"*{event.anchor} repeats nothing: no &{event.anchor} stands before it", span)
        self._count(known.size, span)
        self._check_depth(len(self.stack) + known.height - 1, span)
        return replace(known, span=span)

    def _scalar(self, event: Any) -> Node:
        span = _span(event)
        self._count(1, span)
        tag = event.tag
        if tag is None or tag == "!":
            implicit = event.implicit if tag is None else (False, True)
            tag = self.loader.resolve(yaml.ScalarNode, event.value, implicit)  # type: ignore[no-untyped-call]
        if "\0" in event.value:
            self._fail("character", "the character U+0000 cannot stand in a spec", span)
        if tag == MERGE:
            return Node("<<", span, "<<", merge=True)
        return Node(self._constructed(tag, event, span), span, event.value)

    def _constructed(self, tag: str, event: Any, span: Span) -> Any:
        kind, text = tag.removeprefix(CORE), event.value
        try:
            return _SCALARS[kind](text)
        except KeyError:
            self._refuse_tag(event)
        except ValueError as error:
            self._fail("scalar", str(error), span)

    def _list(self, done: _Open) -> Node:
        self._count(1, done.span)
        size, height = _extent(done.children)
        return Node(done.children, done.span, size=size, height=height)

    def _mapping(self, done: _Open) -> Node:
        self._count(1, done.span)
        merged: list[Node] = []
        own: dict[str, Entry] = {}
        for key, value in zip(done.children[::2], done.children[1::2], strict=True):
            if isinstance(key.data, (dict, list)):
                self._fail("key", "a key must be plain text, not a list or mapping", key.span)
            if key.text in own or (key.merge and merged):
                first = own[key.text].key.span.line if key.text in own else merged[0].span.line
                self._fail("duplicate-key", f'"{key.text}" is set twice: first in line {first}', key.span)
            if key.merge:
                merged = self._merged(value) or [value]
            else:
                own[key.text] = Entry(key, value)
        return self._with_merged(own, merged, done)

    def _merged(self, value: Node) -> list[Node]:
        parts = value.data if isinstance(value.data, list) else [value]
        for part in parts:
            if not isinstance(part.data, dict):
                self._fail("merge", "<< takes a mapping (such as *anchor) or a list of mappings", part.span)
        return parts

    def _with_merged(self, own: dict[str, Entry], merged: list[Node], done: _Open) -> Node:
        entries = dict(own)
        for part in merged:
            for name, entry in part.entries.items():
                entries.setdefault(name, entry)
        size, height = _extent([node for entry in entries.values() for node in (entry.key, entry.value)])
        return Node(entries, done.span, size=size, height=height)

    def _refuse_tag(self, event: Any) -> NoReturn:
        self._fail("tag", f"the tag {_short(event.tag)} is not allowed: a spec holds plain data", _span(event))

    def _fail(self, code: str, message: str, span: Span) -> NoReturn:
        raise SpecError([self.source.problem(code, message, span)])


def _extent(children: list[Node]) -> tuple[int, int]:
    return 1 + sum(c.size for c in children), 1 + max((c.height for c in children), default=0)


def _short(tag: str) -> str:
    return f"!!{tag.removeprefix(CORE)}" if tag.startswith(CORE) else tag


def _span(event: Any) -> Span:
    start, end = event.start_mark, event.end_mark
    width = end.column - start.column if end.line == start.line else 1
    return Span(start.line + 1, start.column + 1, max(1, width))


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits is too long")
    if not re.fullmatch(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", text):
        raise ValueError(f'"{text[:40]}" is not a whole number')
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(text: str) -> float:
    if not re.fullmatch(_FLOAT, text):
        raise ValueError(f'"{text[:40]}" is not a number')
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f'"{text[:40]}" is neither true nor false')
    return text.lower() == "true"


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "null": lambda text: None,
}

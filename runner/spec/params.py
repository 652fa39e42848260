"""Parameters: what the spec declares, what ``--set`` overrides, and the combinations of a sweep."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.errors import Problem, SpecError
from runner.spec.fill import PARAMS
from runner.spec.header import MAX_SEED
from runner.spec.names import listed, nearest
from runner.spec.source import Path, Source, Span
from runner.spec.yaml12 import Node, read

SEED = "seed"
MAX_VARIANTS = 1_000
MAX_STEPS_IN_ALL = 100_000
SET = "--set"

_READABLE = re.compile(r"[\w./$:+-]{1,40}", re.ASCII)


@dataclass
class Parameters:
    """``values`` by name with overrides applied (and ``seed``), ``sweep`` what remains to be varied."""

    values: dict[str, Any]
    sweep: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def combinations(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and values of every variant; one named ``''`` without a sweep."""
        if not self.sweep:
            return [("", self.values)]
        found = []
        for chosen in itertools.product(*self.sweep.values()):
            given = dict(zip(self.sweep, chosen, strict=True))
            found.append((variant_name(given), {**self.values, **given}))
        return found


def variant_name(values: Mapping[str, Any]) -> str:
    """``k=20,seed=1``; a value that would not read well stands as ``~`` with the start of its hash."""
    return ",".join(f"{name}={_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if _READABLE.fullmatch(text):
        return text
    return "~" + hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def read_parameters(source: Source, root: Node, seed: int, overrides: Iterable[str]) -> Parameters:
    """Parameters of a document whose header is sound, with everything that is wrong with them."""
    reader = _Reader(source, root)
    return reader.read(seed, list(overrides))


class _Reader:
    def __init__(self, source: Source, root: Node) -> None:
        self.source, self.root = source, root
        self.declared = _section(root, "params")
        self.problems: list[Problem] = []

    def read(self, seed: int, overrides: list[str]) -> Parameters:
        values = {name: node.value() for name, node in self.declared.items()}
        if SEED in self.declared:
            self._report("params", "the seed stands at the top level, not in params", ("params", SEED), key=True)
        for name, node in self.declared.items():
            self._check_literal(self.source, node, ("params", name))
        sweep = self._sweep(values)
        values[SEED] = seed
        for text in overrides:
            self._override(text, values, sweep)
        self._check_size(sweep)
        return Parameters(values, sweep, self.problems)

    def _sweep(self, values: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        sweep = {}
        for name, node in _section(self.root, "sweep").items():
            path: Path = ("sweep", name)
            if name not in values and name != SEED:
                near = nearest(name, [*values, SEED])
                message = f'sweep varies "{name}", which is not a parameter'
                self._report("unknown-param", message, path, near, listed([*values, SEED]), key=True)
                continue
            self._check_values(name, node, path)
            sweep[name] = tuple(item.value() for item in node.items)
        return {name: chosen for name, chosen in sweep.items() if chosen}

    def _check_values(self, name: str, node: Node, path: Path) -> None:
        seen: set[str] = set()
        for index, item in enumerate(node.items):
            shown = _shown(item.value())
            if shown in seen:
                self._report("sweep", f"{name} has the value {shown} twice", (*path, index))
            seen.add(shown)
            self._check_literal(self.source, item, (*path, index))
            if name == SEED and not is_seed(item.value()):
                message = f"a seed is a whole number from 0 to {MAX_SEED}"
                self._report("wrong-value", message, (*path, index))

    def _check_size(self, sweep: dict[str, tuple[Any, ...]]) -> None:
        count = math.prod(len(chosen) for chosen in sweep.values())
        steps = len(_section(self.root, "steps"))
        if count > MAX_VARIANTS or count * steps > MAX_STEPS_IN_ALL:
            message = f"the sweep has {count:,} combinations of {steps:,} steps"
            allowed = f"at most {MAX_VARIANTS:,} combinations and {MAX_STEPS_IN_ALL:,} steps in all"
            self._report("too-large", message, ("sweep",), None, allowed, key=True)
            sweep.clear()

    def _check_literal(self, source: Source, node: Node, path: Path) -> None:
        """Parameters hold values: one cannot be made of another."""
        for found in _texts(node):
            if found.data.startswith(f"${PARAMS}"):
                message = "a parameter cannot be made of another one"
                self.problems.append(source.problem("params", message, found.span, path=path))

    def _override(self, text: str, values: dict[str, Any], sweep: dict[str, tuple[Any, ...]]) -> None:
        given = Source(SET, text)
        name, equals, written = text.partition("=")
        if not equals:
            self.problems.append(given.problem("override", "expected name=value", Span(1, 1, len(text))))
            return
        if name not in values:
            message = f'there is no parameter "{name}"'
            near, allowed = nearest(name, values), listed(values)
            span = Span(1, 1, max(1, len(name)))
            self.problems.append(given.problem("unknown-param", message, span, suggestion=near, allowed=allowed))
            return
        node = self._parsed(given, len(name) + 1, written)
        if node is None:
            return
        self._check_literal(given, node, ("params", name))
        if name == SEED and not is_seed(node.data):
            message = f"a seed is a whole number from 0 to {MAX_SEED}"
            self.problems.append(given.problem("wrong-value", message, node.span))
            return
        values[name] = node.value()
        sweep.pop(name, None)

    def _parsed(self, given: Source, offset: int, written: str) -> Node | None:
        """The value of an override, read by the spec's own rules; nothing behind the ``=`` is the empty text."""
        if not written.strip():
            return Node("", Span(1, offset + 1))
        try:
            return read(Source(SET, " " * offset + written))
        except SpecError as error:
            for problem in error.problems:
                span = Span(problem.position.line, problem.position.column)
                self.problems.append(given.problem("override", problem.message, span))
            return None

    def _report(
        self,
        code: str,
        message: str,
        path: Path,
        suggestion: str | None = None,
        allowed: str | None = None,
        *,
        key: bool = False,
    ) -> None:
        node = self.root.at(path)
        span = (self.root.key_span(path) if key else None) or (node.span if node else Span(1, 1))
        self.problems.append(
            self.source.problem(code, message, span, path=path, suggestion=suggestion, allowed=allowed)
        )


def is_seed(value: Any) -> bool:
    """Whether a value can be a seed."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEED


def _section(root: Node, name: str) -> dict[str, Node]:
    node = root.child(name)
    return {key: entry.value for key, entry in node.entries.items()} if node else {}


def _texts(node: Node) -> list[Node]:
    if isinstance(node.data, str):
        return [node]
    parts = [entry.value for entry in node.entries.values()] or node.items
    return [found for part in parts for found in _texts(part)]

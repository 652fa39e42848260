"""The verdict on the top level of a spec."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from runner.errors import Problem, SpecError
from runner.spec.complaints import Complaint, complaints
from runner.spec.explain import quoted
from runner.spec.header import Budget, FailOn, Header
from runner.spec.locate import KEY_LABEL
from runner.spec.names import listed, nearest
from runner.spec.source import START, Path, Source, Span
from runner.spec.words import dotted
from runner.spec.yaml12 import Node

RESERVED = {
    "params": "stands for the parameters ($params.name)",
}


@dataclass
class JudgedHeader:
    """``values`` holds the top level as written; what is wrong with it stands in ``problems``."""

    values: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def judge_header(source: Source, root: Node, base: FilePath) -> JudgedHeader:
    """Judge everything at the top level; paths are relative to ``base``. Raises ``SpecError`` where the root is not a mapping."""
    if not isinstance(root.data, dict):
        message = "a spec is a mapping: it begins with a line such as name: my-experiment"
        raise SpecError([source.problem("not-a-mapping", message, root.span)])
    judged = JudgedHeader(root.value())
    judged.problems = _reserved(source, root) + _dollars(source, root) + _results(source, root, base)
    try:
        Header.model_validate_json(json.dumps(_shallow(judged.values)), strict=True)
    except ValidationError as error:
        spoken = {problem.path for problem in judged.problems}
        found = complaints(error, _shallow(judged.values))
        judged.problems += [_problem(source, root, c) for c in found if c.path not in spoken]
    return judged


def _shallow(values: dict[str, Any]) -> dict[str, Any]:
    """The top level without the bodies of models and steps, which are judged by their own models."""
    return {
        name: {key: {} if isinstance(body, dict) else body for key, body in value.items()}
        if name in ("models", "steps") and isinstance(value, dict)
        else value
        for name, value in values.items()
    }


def _problem(source: Source, root: Node, complaint: Complaint) -> Problem:
    path = complaint.path
    if complaint.kind == "missing":
        message = f'a spec needs "{path[-1]}"'
        return source.problem("missing-field", message, START, path=path, allowed=listed(Header.model_fields))
    if complaint.kind == "extra_forbidden":
        sections: dict[str, type[BaseModel]] = {"budget": Budget, "fail_on": FailOn}
        names = sections.get(str(path[0]), Header).model_fields
        message = f'unknown field "{dotted(path)}"'
        span, near = _key(root, path), nearest(str(path[-1]), names)
        return source.problem("unknown-field", message, span, path=path, suggestion=near, allowed=listed(names))
    if complaint.loc[-1:] == (KEY_LABEL,):
        message = f'"{path[-1]}" cannot be a name here'
        allowed = "up to 64 letters, digits, '_' and '-', not beginning with a digit or '-'"
        return source.problem("bad-name", message, _key(root, path), path=path, allowed=allowed)
    node = root.at(path)
    message = f"{dotted(path)}: {complaint.explained.message(complaint.found)}"
    message, allowed_ = _words(path, complaint, message)
    span = node.span if node and (node.data is not None or node.text) else _key(root, path)
    return source.problem(
        complaint.explained.code,
        message,
        span,
        path=path,
        suggestion=complaint.explained.suggestion,
        allowed=allowed_ or complaint.explained.allowed,
    )


def _words(path: Path, complaint: Complaint, message: str) -> tuple[str, str | None]:
    """Better words where the general ones would show a pattern or miss the point."""
    if path == ("name",) and complaint.kind == "string_pattern_mismatch":
        return (
            f"name: {quoted(complaint.found)} is not a short name",
            "letters, digits, '.', '-' and '_', beginning with a letter or digit",
        )
    if len(path) == 2 and path[0] in ("models", "steps") and complaint.found is None:
        choice = "uses" if path[0] == "steps" else "provider"
        return f'{path[0][:-1]} "{path[1]}" is empty', f"a mapping that begins with {choice}:"
    return message, None


def _key(root: Node, path: Path) -> Span:
    return root.key_span(path) or START


def _reserved(source: Source, root: Node) -> list[Problem]:
    return [
        source.problem("bad-name", f'"{name}" cannot be a name here: it {why}', span, path=(section, name))
        for section in ("models", "steps")
        for name, why in RESERVED.items()
        if (span := root.key_span((section, name)))
    ]


def _results(source: Source, root: Node, base: FilePath) -> list[Problem]:
    """A results file that cannot be one: it would fail late, or what stands there would be replaced."""
    node = root.child("results")
    if node is None or not isinstance(node.data, str) or not node.data:
        return []
    why = _unfit(node.data, base)
    message = f"results: {quoted(node.data)} {why}"
    return [source.problem("wrong-value", message, node.span, path=("results",))] if why else []


def _unfit(text: str, base: FilePath) -> str | None:
    """Why ``text`` cannot name a results file, or None."""
    if not text.isprintable():
        return "holds a line break or another control character"
    try:
        mode = FilePath(base, FilePath(text).expanduser()).stat().st_mode
    except RuntimeError:
        return "names the home of an unknown user"
    except FileNotFoundError:
        return "names a folder, not a file" if text.endswith("/") else None
    except OSError as error:
        return f"cannot be a file: {error.strerror}"
    if stat.S_ISREG(mode):
        return None
    return f"is a {'folder' if stat.S_ISDIR(mode) else 'device or pipe'}, not a file"


def _dollars(source: Source, root: Node) -> list[Problem]:
    """References belong to models and steps; elsewhere a dollar would be taken literally."""
    paths: list[Path] = [("results",), ("seed",), *(("budget", name) for name in Budget.model_fields)]
    paths += [("fail_on", name) for name in FailOn.model_fields]
    return [
        source.problem(
            "misplaced-reference",
            f"{dotted(path)}: references and parameters stand in models and steps only",
            node.span,
            path=path,
        )
        for path in paths
        if (node := root.at(path)) and isinstance(node.data, str) and node.data.startswith("$")
    ]

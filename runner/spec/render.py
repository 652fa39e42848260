"""Problems for people and for programs."""

from __future__ import annotations

from typing import Any

from runner.errors import Problem, SpecError
from runner.shown import on_one_line

MAX_SHOWN = 100

_RED, _BOLD, _CYAN, _OFF = "\x1b[31m", "\x1b[1m", "\x1b[36m", "\x1b[0m"


def render_problems(error: SpecError, *, color: bool = False) -> str:
    """One block a problem: place and message, the lines around, the nearest name, what is allowed; then a count.

    Past ``MAX_SHOWN`` problems only the count tells of the rest.
    """
    blocks = [_block(problem, color) for problem in error.problems[:MAX_SHOWN]]
    count = len(error.problems)
    if count > MAX_SHOWN:
        blocks.append(f"... and {count - MAX_SHOWN} more")
    blocks.append(f"{count} problem{'' if count == 1 else 's'}" + (f": {error.hint}" if error.hint else ""))
    return "\n\n".join(blocks)


def _block(problem: Problem, color: bool) -> str:
    place, message = on_one_line(problem.position), on_one_line(problem.message)
    lines = [f"{_BOLD}{place}{_OFF}: {_RED}{message}{_OFF}" if color else f"{place}: {message}"]
    lines += [f"  {line}" for line in (problem.snippet or "").splitlines()]
    if problem.suggestion:
        asked = f"did you mean {on_one_line(problem.suggestion)}?"
        lines.append(f"  {_CYAN}{asked}{_OFF}" if color else f"  {asked}")
    if problem.allowed:
        lines.append(f"  allowed: {on_one_line(problem.allowed)}")
    return "\n".join(lines)


def problems_json(error: SpecError) -> list[dict[str, Any]]:
    """The problems as plain data, in the order of ``render_problems``."""
    return [
        {
            "code": problem.code,
            "message": problem.message,
            "file": problem.position.file,
            "line": problem.position.line,
            "column": problem.position.column,
            "path": list(problem.path),
            "suggestion": problem.suggestion,
            "allowed": problem.allowed,
        }
        for problem in error.problems
    ]

"""The text of a spec and places in it: positions, and the lines around them for error messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from runner.errors import Position, Problem

LINE_BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
"""What the YAML parser counts as the end of a line."""

SHOWN_WIDTH = 120

Path = tuple[str | int, ...]
"""Keys and list indices that lead from the root of a document to a value."""


class Span(NamedTuple):
    """A stretch of one line: line and column from 1, width in characters."""

    line: int
    column: int
    width: int = 1


START = Span(1, 1)


@dataclass(frozen=True)
class Source:
    """A text with the name that error messages give it."""

    file: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """The text without line ends."""
        return LINE_BREAK.split(self.text)

    def position(self, span: Span) -> Position:
        """The start of ``span``."""
        return Position(span.line, span.column, self.file)

    def problem(
        self,
        code: str,
        message: str,
        span: Span,
        *,
        path: Path = (),
        suggestion: str | None = None,
        allowed: str | None = None,
    ) -> Problem:
        """A problem at ``span`` with the lines around it."""
        return Problem(code, message, self.position(span), path, suggestion, allowed, self.snippet(span))

    def snippet(self, span: Span) -> str | None:
        """The line of ``span`` with one line around it and a mark below; None where the text has no such line."""
        if not 1 <= span.line <= len(self.lines) or not self.text.strip():
            return None
        first, last = max(1, span.line - 1), min(len(self.lines), span.line + 1)
        if last > span.line and not self.lines[last - 1].strip():
            last = span.line
        start = max(0, span.column - 1 - SHOWN_WIDTH * 2 // 3)
        gutter = len(str(last))
        rows = []
        for number in range(first, last + 1):
            rows.append(f"{number:>{gutter}} | {self._shown(number, start)}".rstrip())
            if number == span.line:
                rows.append(f"{'':>{gutter}} | {' ' * (span.column - 1 - start)}{'^' * self._marked(span, start)}")
        return "\n".join(rows)

    def _shown(self, number: int, start: int) -> str:
        line = "".join(c if c.isprintable() else " " for c in self.lines[number - 1])
        return line[start : start + SHOWN_WIDTH]

    def _marked(self, span: Span, start: int) -> int:
        room = min(len(self.lines[span.line - 1]), start + SHOWN_WIDTH) - (span.column - 1)
        return max(1, min(span.width, room))

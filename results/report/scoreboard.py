"""Tables of methods against datasets: rows of the results become lines and columns, equal lines of a sweep become one."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
Column = tuple[str, str]
"""Level (dataset, group, all) and name."""

LEVELS = ("dataset", "group", "all")
GROUP_ORDER = ("prototypical", "non-prototypical", "fine-grained", "very fine-grained")
SHOWN = ("value", "low", "high", "sd", "n", "unscored", "seeds")


@dataclass
class Line:
    """Who answered (``detail``: the prompt, or the shots), in which settings of a sweep, and what came out by column."""

    method: str
    model: str
    detail: str | None
    step: str
    settings: list[str]
    cells: dict[Column, Row] = field(default_factory=dict)

    @property
    def who(self) -> tuple[str, str, str | None]:
        """What a line is about, apart from its place in the run."""
        return self.method, self.model, self.detail

    def title(self, *, settings: bool, steps: bool) -> str:
        """Its name as one text, with what tells it from others."""
        parts = [self.method, self.model, self.detail, ", ".join(filter(None, self.settings)) if settings else None]
        return " · ".join(part for part in (*parts, self.step if steps else None) if part)


@dataclass(frozen=True)
class Board:
    """Lines under common columns; ``best`` holds the highest value of each column that has at least two."""

    columns: list[Column]
    lines: list[Line]
    best: dict[Column, float]
    settings: bool
    steps: bool

    def is_best(self, line: Line, column: Column) -> bool:
        """Whether no line stands higher in this column; means that differ by rounding alone are equal."""
        value = line.cells[column]["value"] if column in line.cells else None
        return value is not None and column in self.best and math.isclose(value, self.best[column], abs_tol=1e-9)

    def title(self, line: Line) -> str:
        """The line's name, with the setting and step only where there are several."""
        return line.title(settings=self.settings, steps=self.steps)


def board(rows: Iterable[Row]) -> Board:
    """Rows with method, model, detail, setting, step, level, name and the columns of ``SHOWN`` as a table."""
    found: dict[tuple[Any, ...], Line] = {}
    for row in rows:
        about = row["method"], row["model"], row["detail"], row["step"]
        line = found.setdefault((*about, row["setting"]), Line(*about, [row["setting"]]))
        line.cells[row["level"], row["name"]] = {name: row[name] for name in SHOWN}
    lines = sorted(_merged(found.values()), key=lambda line: (line.method, line.model, line.detail or ""))
    columns = _columns({column for line in lines for column in line.cells})
    steps = len({line.step for line in lines}) > 1
    return Board(columns, lines, _best(lines, columns), len({line.settings[0] for line in found.values()}) > 1, steps)


def _merged(lines: Iterable[Line]) -> list[Line]:
    """Lines that say the same of the same method are one with all their settings: what a sweep did not change."""
    kept: list[Line] = []
    for line in lines:
        same = next((k for k in kept if (k.who, k.step, k.cells) == (line.who, line.step, line.cells)), None)
        if same is None:
            kept.append(line)
        else:
            same.settings += line.settings
    return kept


def _columns(found: set[Column]) -> list[Column]:
    """Datasets by name, groups from easy to hard, then all; means over one dataset are left out."""
    if sum(level == "dataset" for level, _ in found) == 1:
        found = {column for column in found if column[0] == "dataset"}
    return sorted(
        found, key=lambda c: (LEVELS.index(c[0]), GROUP_ORDER.index(c[1]) if c[1] in GROUP_ORDER else 9, c[1])
    )


def _best(lines: Sequence[Line], columns: Sequence[Column]) -> dict[Column, float]:
    best = {}
    for column in columns:
        values = [line.cells[column]["value"] for line in lines if column in line.cells]
        known = [value for value in values if value is not None]
        if len(known) > 1:
            best[column] = max(known)
    return best


def column_title(column: Column) -> str:
    """What stands above a column."""
    level, name = column
    return {"dataset": name, "group": f"{name} (mean)", "all": "all datasets (mean)"}[level]


def pictured(row: Row) -> Row:
    """The row with its thumbnail as text for a data address under ``data``; None where there is none."""
    picture = row.get("thumbnail")
    return {**row, "data": base64.b64encode(picture).decode("ascii") if picture else None}

"""Rows of an in-context run, as they come: many, so they become Arrow tables piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from agents.circle import ContextPicture, Outcome

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
TABLES = ("owc_prediction", "circle_context", "circle_label", "circle_call")
_PIECE = 20_000


class Gathered:
    """Rows of the four results tables of an in-context run."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Row]] = {name: [] for name in TABLES}
        self._pieces: dict[str, list[pa.Table]] = {name: [] for name in TABLES}

    def add(self, name: str, rows: Iterable[Row]) -> None:
        """Further rows of the table ``name``."""
        self._rows[name] += rows
        if len(self._rows[name]) >= _PIECE:
            self._press(name)

    def add_outcome(self, outcome: Outcome) -> None:
        """Labels and calls of a graph, then the calls and rows of its queries."""
        self.add("circle_label", outcome.labels)
        self.add("circle_call", outcome.calls)
        self.add("circle_call", (one["call"] for one in outcome.answers if one["call"]))
        self.add("owc_prediction", (one["answer"] for one in outcome.answers))

    def join(self, other: Gathered) -> None:
        """All rows of another one, after those here."""
        for name in TABLES:
            self._press(name)
            other._press(name)
            self._pieces[name] += other._pieces[name]

    def tables(self) -> list[pa.Table]:
        """The tables in the order of ``TABLES``; rows in the order in which they were added."""
        import pyarrow as pa

        for name in TABLES:
            self._press(name)
        return [pa.concat_tables(self._pieces[name]) for name in TABLES]

    def _press(self, name: str) -> None:
        from results.tables import arrow_table

        self._pieces[name].append(arrow_table(name, self._rows[name]))
        self._rows[name] = []


def context_rows(pictures: Sequence[ContextPicture], seed: int, labels: Sequence[str | None]) -> list[Row]:
    """Rows of ``circle_context``; ``labels``: what queries are shown of each picture, None where it is left out."""
    return [
        {
            "dataset": c.row["dataset"], "seed": seed, "slot": c.number, "true_label": c.row["target"], "final_label": label,
            **{name: c.row[name] for name in ("sample_id", "source_id", "uri")},
        }
        for c, label in zip(pictures, labels, strict=True)
    ]  # fmt: skip

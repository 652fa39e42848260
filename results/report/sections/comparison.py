"""Two classifiers on the same pictures, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from results.report.page import Part, Request, Section
from results.report.words import VERDICTS

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

ROWS = """
SELECT * FROM c2b_comparison WHERE run_id = $run
ORDER BY variant, step, target NULLS FIRST, attribute NULLS FIRST, value_source, value
"""
COMPARED = {**VERDICTS, "better": "better", "worse": "worse"}


def collect(read: Reader, request: Request) -> dict[tuple[str, str], list[Row]] | None:
    """Rows by variant and step, or None where the run compares nothing."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in read(ROWS, {"run": request.run_id}).to_pylist():
        found.setdefault((row["variant"], row["step"]), []).append(row)
    return found or None


def parts(comparisons: dict[tuple[str, str], list[Row]]) -> list[Part]:
    """One part a comparison."""
    return [_part(number, place, rows) for number, (place, rows) in enumerate(comparisons.items())]


def _part(number: int, place: tuple[str, str], rows: list[Row]) -> Part:
    total = next(row for row in rows if row["target"] is None)
    worse = [row for row in rows if row["verdict"] == "worse" and row["attribute"] is not None]
    variables = {
        "total": total,
        "first": total["first"],
        "second": total["second"],
        "rows": [row for row in rows if row["target"] is not None],
        "worse": worse,
        "COMPARED": COMPARED,
    }
    suffix = f" ({place[0]})" if place[0] else ""
    title = f"{total['second']} against {total['first']}{suffix}"
    return Part(f"comparison-{number}", title, "c2b_comparison.html.jinja", variables)


SECTIONS = (Section("comparison", frozenset({"c2b_comparison"}), collect, parts),)

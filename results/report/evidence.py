"""What a verdict of the bias audit rests on: who checked the class, what was measured, whether values can be told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from results.report.page import Part

Row = dict[str, Any]
Rows = Mapping[str, Sequence[Row]]


def evidence_parts(rows: Rows) -> Iterator[Part]:
    """One part for each kind of evidence that the run gathered."""
    if rows["c2b_verifier"]:
        yield _checked(rows)
    if rows["c2b_bin"] or rows["c2b_binding"]:
        yield _measured(rows)
    if rows["c2b_separability"]:
        yield _separability(rows["c2b_separability"])


def _checked(rows: Rows) -> Part:
    groups = [row for row in rows["c2b_precision"] if row["images"]]
    variables = {"verifiers": rows["c2b_verifier"], "groups": groups}
    return Part("checked", "Do the pictures show the class?", "c2b_checked.html.jinja", variables)


def _measured(rows: Rows) -> Part:
    unbound = [row for row in rows["c2b_binding"] if row["measure"] is None]
    bins = sorted(rows["c2b_bin"], key=_bin_order)
    return Part(
        "measured", "What was measured on the pictures", "c2b_measured.html.jinja", {"bins": bins, "unbound": unbound}
    )


def _bin_order(row: Row) -> tuple[Any, ...]:
    return row["variant"], row["step"], row["target"], row["attribute"], row["low"] is None, row["low"], row["value"]


def _separability(rows: Sequence[Row]) -> Part:
    counts = {state: sum(row["separable"] is state for row in rows) for state in (True, False, None)}
    ordered = sorted(
        rows, key=lambda row: (row["separable"] is not False, row["target"], row["attribute"], row["value"])
    )
    variables = {"rows": ordered, "apart": counts[True], "same": counts[False], "untested": counts[None]}
    return Part("separability", "Can the values be told apart?", "c2b_separability.html.jinja", variables)

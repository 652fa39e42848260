"""Generated faces: what goes along with a classifier's answer beside what changes it, with pairs of pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report.page import Part, Request, Section
from results.report.words import unpacked

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset({"face_measurement", "c2b_association", "c2b_counterfactual", "c2b_pair"})
SHOWN = """
SELECT * FROM c2b_pair WHERE run_id = $run AND kept AND thumbnail_less IS NOT NULL
ORDER BY variant, step, classifier, circumstance, outcome_less = outcome_more, uri
"""
MEASURED = """
SELECT measure, count(value) AS n, avg(value) AS mean, stddev_pop(value) AS deviation, min(value) AS low, max(value) AS high
FROM face_measurement WHERE run_id = $run GROUP BY measure HAVING count(value) > 0 ORDER BY mean DESC
"""
ALPHA = 0.05
SMALL = 0.05
"""A rate that changes by less than this is called small in words."""


@dataclass(frozen=True)
class Found:
    """All rows of a run's faces."""

    associations: list[Row]
    effects: list[Row]
    shown: list[Row]
    measured: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where the run has neither associations nor effects."""
    of_run = {"run": request.run_id}
    associations = read("SELECT * FROM c2b_association WHERE run_id = $run ORDER BY ALL", of_run).to_pylist()
    effects = read("SELECT * FROM c2b_counterfactual WHERE run_id = $run ORDER BY ALL", of_run).to_pylist()
    if not associations and not effects:
        return None
    shown = read(SHOWN, of_run).to_pylist()
    return Found(associations, effects, shown, read(MEASURED, of_run).to_pylist())


def parts(found: Found) -> list[Part]:
    """Association beside effect, the people shown, and how the edits went."""
    rows = comparisons(found)
    made = [Part("faces", "What changes the answer, and what only goes along with it", "faces_compare.html.jinja", {"rows": rows})]  # fmt: skip
    shown = [row for row in rows if row["pictures"]]
    if shown:
        made.append(Part("faces-pairs", "The same people, less and more", "faces_pairs.html.jinja", {"rows": shown}))
    if found.associations:
        groups = [[r for r in found.associations if key_of(r) == key] for key in _keys(found.associations)]
        made.append(Part("faces-rates", "The answer, bin by bin", "faces_rates.html.jinja", {"groups": groups}))
    if found.effects:
        edits = [{**row, "side": side_effects(row)} for row in found.effects]
        made.append(Part("faces-edits", "Did the edits change that one thing?", "faces_edits.html.jinja", {"rows": edits}))  # fmt: skip
    if found.measured:
        made.append(Part("faces-measured", "What was measured", "faces_measured.html.jinja", {"rows": found.measured}))
    return made


def key_of(row: Row) -> tuple[str, str, str]:
    """(variant, circumstance, classifier)."""
    return row["variant"], row["circumstance"], row["classifier"]


def _keys(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(key_of(row) for row in rows))


def comparisons(found: Found) -> list[Row]:
    """One row a circumstance and classifier: the gap between most and least (association), the effect, the placebo."""
    rows = []
    for key in sorted(set(_keys(found.associations)) | set(_keys(found.effects))):
        bins = [r for r in found.associations if key_of(r) == key]
        of_key = [r for r in found.effects if key_of(r) == key]
        edit = next((r for r in of_key if r["kind"] == "edit"), None)
        placebo = next((r for r in of_key if r["kind"] == "placebo"), None)
        top = max(bins, key=lambda r: r["bin"], default=None)
        outcome = (top or edit or {})["outcome"]
        pictures = [_picture(r) for r in found.shown if key_of(r) == key]
        rows.append({
            "variant": key[0], "circumstance": key[1], "classifier": key[2], "outcome": outcome, "top": top,
            "lowest": min(bins, key=lambda r: r["bin"], default=None), "edit": edit, "placebo": placebo,
            "words": in_words(top, edit), "pictures": pictures,
        })  # fmt: skip
    return rows


def _picture(row: Row) -> Row:
    less, more = (base64.b64encode(row[f"thumbnail_{side}"]).decode("ascii") for side in ("less", "more"))
    return {**row, "less": less, "more": more, "flipped": row["outcome_less"] != row["outcome_more"]}


def in_words(top: Row | None, edit: Row | None) -> str:
    """Whether association and effect agree, as one sentence; interval against zero for the first, q for the second."""
    if edit is None or edit["effect"] is None:
        return "The effect of a change is not known."
    if top is None or top["gap"] is None:
        return "No association was looked at."
    together = _sign(top["gap"] if top["gap_low"] > 0 or top["gap_high"] < 0 else 0.0)
    moved = edit["q_bh"] is not None and edit["q_bh"] <= ALPHA
    changes = _sign(edit["effect"]) if moved else 0
    if together and changes == together:
        return "Goes along with the answer and changes it."
    if together and not changes:
        size = "is small" if abs(edit["effect"]) < SMALL else "cannot be told from none"
        return f"Goes along with the answer; the effect of changing it alone {size}."
    if changes and not together:
        return "Changes the answer, although people who differ in it are not answered differently."
    if changes:
        return "Association and effect point in opposite directions."
    return "No evidence of either at this sample size."


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def side_effects(row: Row, most: int = 4) -> list[tuple[str, list[float | None]]]:
    """The largest side effects of a row by the size of their mean: (measure, [mean, low, high])."""
    content = unpacked(row["side_effects"])
    known = [(name, v) for name, v in content.items() if v[0] is not None] if isinstance(content, dict) else []
    return sorted(known, key=lambda pair: -abs(pair[1][0] or 0.0))[:most]


SECTIONS = (Section("faces", TABLES, collect, parts),)

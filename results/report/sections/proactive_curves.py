"""When models ask: turn by turn, along the way to the most telling picture, and one model beside another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report import charts_proactive as charts
from results.report.page import Part, Request, Section
from results.report.sections.proactive import MODES, scenario_place
from results.report.sections.vqa import grouped
from results.sweeps import VARIANTS, Sweep

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(["pb_by_turn", "pb_curves", "pb_compared"])
KEYS = ("setting", "step", "model")
MOST_FIGURES = 12
MOST_TURNS = 14
COMPARED_AS = {
    "psr": "requests an episode",
    "acc": "points of accuracy",
    "discrimination": "points more at the first picture",
}

TURNS = """
SELECT variant, step, model, mode, scenario, turn, alive, asked, invalid, abstained, correct, wrong, unreadable,
       first(alive) OVER (PARTITION BY variant, step, model, mode, scenario ORDER BY turn) AS episodes
FROM pb_by_turn WHERE run_id = $run AND mode NOT IN ('frames', 'reference') ORDER BY variant, step, model, mode, scenario, turn
"""
CURVES = "SELECT * EXCLUDE (run_id) FROM pb_curves WHERE run_id = $run ORDER BY variant, step, model, scenario, place"
COMPARED = "SELECT * EXCLUDE (run_id) FROM pb_compared WHERE run_id = $run ORDER BY variant, step, model, other, mode, metric, scenario"


@dataclass(frozen=True)
class Found:
    """All rows of when models ask."""

    sweep: Sweep
    turns: list[Row]
    curves: list[Row]
    compared: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where nothing was scored."""
    of_run: dict[str, Any] = {"run": request.run_id}
    sweep = Sweep.of(read(VARIANTS, of_run).to_pylist())
    found = Found(sweep, *(read(sql, of_run).to_pylist() for sql in (TURNS, CURVES, COMPARED)))
    return found if found.turns or found.curves or found.compared else None


def parts(found: Found) -> list[Part]:
    """Comparisons, turns, the way to the most telling picture."""
    made = []
    once = found.sweep.once
    if found.compared:
        tables = list(comparisons(once(found.compared, ("step", "model", "other", "mode"))))
        made.append(Part("proactive-compared", "Side by side on the same samples", "proactive_compared.html.jinja", {"tables": tables, "what": COMPARED_AS}))  # fmt: skip
    if found.curves:
        drawn = list(ways(once(found.curves, ("step", "model"))))
        made.append(Part("proactive-curves", "Does it ask when it would be wrong?", "proactive_curves.html.jinja", _most(drawn)))  # fmt: skip
    if found.turns:
        drawn = list(turn_figures(once(found.turns, ("step", "model", "mode"))))
        made.append(Part("proactive-turns", "Turn by turn", "proactive_turns.html.jinja", {**_most(drawn), "kinds": charts.KINDS, "most_turns": MOST_TURNS}))  # fmt: skip
    return made


def _most(drawn: Sequence[Row]) -> Row:
    """The figures that are shown: charts are drawn for these alone."""
    shown = drawn[:MOST_FIGURES]
    return {"figures": [{**f, "chart": f["draw"]()} for f in shown], "rest": drawn[MOST_FIGURES:], "of": len(drawn)}


def turn_figures(rows: Sequence[Row]) -> Iterator[Row]:
    """A figure a model and mode: shares of all episodes by turn and scenario, and the table behind it."""
    order = sorted(rows, key=lambda r: (*(r[k] for k in (*KEYS, "mode")), scenario_place(r["scenario"]), r["turn"]))
    for place, own in grouped(order, (*KEYS, "mode")):
        early = [r for r in own if r["turn"] <= MOST_TURNS]
        shares = [{**r, **{kind: r[kind] * r["alive"] / max(r["episodes"], 1) for kind in charts.KINDS}} for r in early]
        yield {**place, "title": MODES.get(place["mode"], place["mode"]), "rows": early, "left": len(own) - len(early),
               "draw": lambda shares=shares: charts.turn_chart(shares)}  # fmt: skip


def ways(rows: Sequence[Row]) -> Iterator[Row]:
    """A figure a model: the mean over scenarios where there is one, else its only scenario; the table has all."""
    order = sorted(rows, key=lambda r: (*(r[k] for k in KEYS), scenario_place(r["scenario"]), r["place"]))
    for place, own in grouped(order, KEYS):
        drawn = [r for r in own if r["scenario"] == own[0]["scenario"]]
        told = any(r[kind] is not None for r in drawn for kind in charts.OVER_UNDER)
        yield {**place, "scenario": own[0]["scenario"], "rows": own, "draw": lambda drawn=drawn, told=told: charts.place_chart(drawn) if told else None}  # fmt: skip


def comparisons(rows: Sequence[Row]) -> Iterator[Row]:
    """A table a pair of models and mode: the means first, each with the word that its interval allows."""
    order = sorted(
        rows, key=lambda r: (*(r[k] for k in (*KEYS, "other", "mode")), scenario_place(r["scenario"]), r["metric"])
    )
    for place, own in grouped(order, (*KEYS, "other", "mode")):
        yield {**place, "title": MODES.get(place["mode"], place["mode"]), "rows": [{**r, "word": word(r)} for r in own]}


def word(row: Row) -> str:
    """``more`` or ``less`` only where the interval leaves out no difference."""
    low, high = row["ci_low"], row["ci_high"]
    if low is None or high is None:
        return "cannot be told"
    return "more" if low > 0 else "less" if high < 0 else "cannot be told"


SECTIONS = (Section("proactive curves", TABLES, collect, parts),)

"""Does a model ask for help? Scores beside chance, what it does by scenario, a verdict in words, answers in its own words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report import charts_proactive as charts
from results.report.page import Part, Request, Section
from results.report.sections.vqa import MOST_TOLD, SMALL, grouped
from results.sweeps import VARIANTS, Sweep

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(["pb_samples", "pb_episodes", "pb_metrics", "pb_judgements"])
SCENARIOS = {
    "ROD": "an object behind blocks that can be moved",
    "VSOD": "a video in which something passes before what is asked about",
    "MVP-N": "a product seen from a side that does not tell it from others",
    "IN-C": "a corrupted picture whose quality can be improved",
    "QD": "a drawing, stroke by stroke",
    "CIT": "a video in which what is asked about comes later or was before",
    "COCO": "a part of a picture; the camera can be moved",
}
MODES = {
    "mcqa": "Choosing from a list, turn by turn",
    "person": "People, choosing from the same lists",
    "exact": "Exact expectations, from the probabilities of the options",
    "oeg_multiturn": "In its own words, turn by turn",
    "reference": "With the clear picture, categories only",
}
"""In the order of the page. Modes that have accuracies; others are told elsewhere."""
WORDS = {
    "asks_when_it_should": "asks when it should", "asks_always": "asks always", "asks_regardless": "asks whatever it sees",
    "asks": "asks; not known whether it stops",
    "asks_in_vain": "asks for what does not help", "abstains": "abstains", "guesses": "guesses", "knows_at_once": "answers right at once",
    "unreadable": "unreadable", "mixed": "mixed", "too_few": "too few episodes",
}  # fmt: skip
GOOD = ("asks_when_it_should",)
BAD = ("guesses", "asks_always", "asks_regardless", "asks_in_vain", "unreadable")
MEASURES = {
    "exhausted": "episodes that used up all turns",
    "success_per_request": "episodes that ended right after a request was met, a hundred requests",
    "first_turn_acc": "right category named at the first picture, where it should not be possible",
    "first_asked": "first turns that ask", "first_abstained": "first turns that abstain", "first_predicted": "first turns that name a category",
    "first_unreadable": "first turns that name nothing shown",
    "asked": "turns that ask", "asked_valid": "turns that ask for what helps", "asked_invalid": "turns that ask for what does not help",
    "abstained": "turns that abstain", "predicted": "turns that name a category", "predicted_right": "turns that name the right one",
    "predicted_wrong": "turns that name a wrong one", "unreadable": "turns that name nothing shown",
    "discrimination": "points by which it asks more at the first picture than at the most telling one",
    "asked_at_first": "asks at the first picture", "asked_at_last": "asks at the most telling one",
    "reference_acc": "accuracy with the most telling picture and categories only: what it could reach", "gap": "points that this lies above accuracy",
    "ps": "answers with a helpful request", "cc": "answers with the right category", "agg": "answers with one of both",
    "judge_failed": "answers that the judge's reply could not be read of",
}  # fmt: skip
"""In percent where nothing else is said."""
MOST_MEASURES = 400
MOST_OPEN = 12

BOARD = "SELECT * FROM proactive_scoreboard WHERE run_id = $run ORDER BY variant, step, mode, model, scenario"
ASKING = "SELECT * FROM proactive_asking WHERE run_id = $run ORDER BY variant, step, mode, model, scenario = 'macro' DESC, scenario"
MEASURED = """
SELECT variant, step, model, mode, scenario, metric, value, ci_low, ci_high, n, n_error, uniform FROM pb_metrics
WHERE run_id = $run AND metric NOT IN ('acc', 'psr') ORDER BY variant, step, model, mode, scenario = 'macro' DESC, scenario, metric
"""
SAMPLES = """
SELECT scenario, split, count(*) AS samples, count(*) FILTER (kept) AS kept, count(*) FILTER (n_probes > 0) AS probed, max(n_probes) AS probes
FROM (SELECT scenario, split, sample_id, source_id, bool_and(kept) AS kept, max(n_probes) AS n_probes FROM pb_samples WHERE run_id = $run GROUP BY ALL)
GROUP BY ALL ORDER BY scenario, split
"""
PLAYED = """
SELECT model, mode, count(*) AS episodes, count(*) FILTER (status = 'error') AS errors, mode(failure) AS failure
FROM (SELECT DISTINCT model, mode, episode_id, status, failure, variant, step FROM pb_episodes WHERE run_id = $run) GROUP BY ALL ORDER BY model, mode
"""
JUDGED = """
SELECT variant, model, judge, count(*) AS answers, count(*) FILTER (NOT parse_ok) AS unread FROM pb_judgements
WHERE run_id = $run GROUP BY ALL ORDER BY variant, model, judge
"""
OPEN = """
SELECT t.variant, t.model, t.scenario, t.sample_id, t.turn, t.question, t.truth, t.said, j.refs, j.bits, j.parse_ok, j.raw, j.n_proactive
FROM pb_judgements j
JOIN proactive_turns_read t USING (run_id, variant, step, model, episode_id, turn)
WHERE run_id = $run AND NOT t.forced
QUALIFY row_number() OVER (PARTITION BY t.scenario ORDER BY j.parse_ok, hash(t.model, t.sample_id), t.turn) <= 3
ORDER BY j.parse_ok, t.scenario, t.model, t.sample_id, t.turn LIMIT $most
"""


@dataclass(frozen=True)
class Found:
    """All scores of a run's episodes, and what was played."""

    sweep: Sweep
    board: list[Row]
    asking: list[Row]
    measured: list[Row]
    samples: list[Row]
    played: list[Row]
    judged: list[Row]
    small: list[Row]
    open: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where the run has neither samples nor episodes."""
    of_run: dict[str, Any] = {"run": request.run_id}
    statements = (BOARD, ASKING, MEASURED, SAMPLES, PLAYED, JUDGED, SMALL)
    rows = [read(sql, of_run).to_pylist() for sql in statements]
    sweep = Sweep.of(read(VARIANTS, of_run).to_pylist())
    rows.append(read(OPEN, {**of_run, "most": MOST_OPEN}).to_pylist())
    found = Found(sweep, *rows)
    return found if found.board or found.samples or found.played else None


def parts(found: Found) -> list[Part]:
    """Scores and verdicts; answers in own words."""
    made = [Part("proactive", "Does it ask for help?", "proactive_scores.html.jinja", _scores(found))]
    own_words = [r for r in found.board if r["agg"] is not None]
    if own_words or found.judged:
        variables = {
            "board": board(found.sweep.once(own_words, ("step", "model", "mode"))), "judged": found.judged, "answers": found.open,
        }  # fmt: skip
        made.append(Part("proactive-open", "In its own words", "proactive_open.html.jinja", variables))
    return made


def _scores(found: Found) -> Row:
    """What the first part shows: boards by mode, what models do, all measures, samples."""
    asking = found.sweep.once(found.asking, ("step", "model", "mode"))
    measured = found.sweep.once(found.measured, ("step", "model", "mode"))
    whole = [r for r in asking if r["scenario"] == "macro"]
    return {
        "boards": list(boards(found)), "told": _told(whole), "most": MOST_TOLD, "whole": whole, "places": scenario_rows(asking),
        "modes": {r["mode"] for r in asking}, "measured": measured[:MOST_MEASURES], "of": len(measured), "what": MEASURES, "words": WORDS, "good": GOOD,
        "bad": BAD, "samples": found.samples, "about": SCENARIOS, "played": found.played, "small": found.small, "mode_words": MODES,
        "played_samples": sum(r["kept"] for r in found.samples if r["split"] == "test"), "errors": [r for r in found.played if r["errors"]],
    }  # fmt: skip


def _told(rows: Sequence[Row]) -> list[Row]:
    """The rows that are told in sentences, where they are few."""
    return list(rows) if len(rows) <= MOST_TOLD else []


def scenario_rows(asking: Iterable[Row]) -> list[Row]:
    """Rows of single scenarios, models side by side."""
    rows = [r for r in asking if r["scenario"] != "macro"]
    return sorted(rows, key=lambda r: (r["mode"], scenario_place(r["scenario"]), r["model"]))


def scenario_place(name: str) -> tuple[int, str]:
    """By which scenarios stand: the mean first, then in the order of the benchmark."""
    names = ["macro", *SCENARIOS]
    return (names.index(name) if name in names else len(names)), name


def boards(found: Found) -> Iterator[Row]:
    """One table a mode with accuracies, with a chart of the means where there are several models."""
    rows = [r for r in found.board if r["acc"] is not None and r["mode"] in MODES]
    once = found.sweep.once(rows, ("step", "model", "mode"))
    for mode in MODES:
        own = [r for r in once if r["mode"] == mode]
        if own:
            yield {"mode": mode, "title": MODES[mode], **board(own), "chart": _chart(own)}


def board(rows: Sequence[Row]) -> Row:
    """Lines (a model, by its mean, highest first) under the scenarios; the mean only where it is one of several."""
    names = sorted({r["scenario"] for r in rows}, key=scenario_place)
    columns = names if len(names) > 2 else [n for n in names if n != "macro"] or names
    lines = []
    for place, own in grouped(sorted(rows, key=_who), ("model", "step", "setting")):
        lines.append({**place, "cells": {r["scenario"]: r for r in own}})
    lines.sort(key=lambda line: -max((_height(line["cells"][n]) for n in names[:1] if n in line["cells"]), default=-1))
    steps = len({line["step"] for line in lines}) > 1
    return {
        "columns": columns,
        "lines": lines,
        "steps": steps,
        "chance": {name: _chance(rows, name) for name in columns},
    }


def _chance(rows: Sequence[Row], scenario: str) -> Row | None:
    """What chance gives in a scenario, where it is the same for all that have it: it is told once."""
    known = [r for r in rows if r["scenario"] == scenario and r["uniform_acc"] is not None]
    values = {(round(r["uniform_acc"], 6), r["uniform_psr"] and round(r["uniform_psr"], 6)) for r in known}
    return {"acc": known[0]["uniform_acc"], "psr": known[0]["uniform_psr"]} if len(values) == 1 else None


def _who(row: Row) -> tuple[str, str, str]:
    return row["model"], row["step"], row["setting"]


def _height(row: Row) -> float:
    return next((row[k] for k in ("acc", "agg") if row[k] is not None), -1.0)


def _chart(rows: Sequence[Row]) -> Any:
    """Means over scenarios (or the only scenario) with chance, highest first; None for one model."""
    names = sorted({r["scenario"] for r in rows}, key=scenario_place)
    own = sorted((r for r in rows if r["scenario"] == names[0]), key=lambda r: -r["acc"])
    drawn = [{"name": " ".join(filter(None, (r["model"], r["setting"] and f"({r['setting']})"))), "value": r["acc"], "low": r["acc_low"],
              "high": r["acc_high"], "chance": r["uniform_acc"]} for r in own]  # fmt: skip
    return charts.score_chart(drawn) if len(drawn) > 1 else None


SECTIONS = (Section("proactive", TABLES, collect, parts),)

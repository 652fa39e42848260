"""Classification with a class list: accuracies of contrastive and language models, and what Tip-Adapter searched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report import charts
from results.report.page import Part, Request, Section
from results.report.scoreboard import Board, Row, board, column_title
from results.report.sections.openworld import MOST_LINES, drawn

if TYPE_CHECKING:
    from results.store import Reader

TABLES = frozenset(
    ["few_shot_pool", "pool_neighbour", "closed_world_answer", "closed_world_prediction", "closed_world_summary", "tip_grid"]
)  # fmt: skip
METRICS = {
    "accuracy_inclusion": ("Accuracy", "The true class stands in the answer. A model that must choose one class by similarity cannot gain by it; a reply in words can, by naming several."),
    "accuracy_strict": ("Strict accuracy", "The true class is the longest class name in the answer, and the only one of that length: nested names and lists of guesses do not count."),
}  # fmt: skip
MOST_SEARCHES = 12

SCORES = """
SELECT setting, step, method, model, shots, level, name, metric, value, low, high, sd, n, failures AS unscored, seeds
FROM closed_world_summary JOIN variant_settings USING (run_id, variant) WHERE run_id = $run AND level = 'dataset'
UNION ALL
SELECT setting, step, method, model, shots, level, name, metric, value, low, high, NULL, n, failures, NULL
FROM closed_world_group_scores WHERE run_id = $run
ORDER BY setting, step, method, model, shots, level, name
"""
POOL = """
SELECT variant, step, dataset, count(*) AS pictures, count(DISTINCT class_index) AS classes,
       min(n) AS least, max(n) AS most
FROM (SELECT *, count(*) OVER (PARTITION BY variant, step, dataset, class_index) AS n FROM few_shot_pool WHERE run_id = $run)
GROUP BY ALL ORDER BY variant, step, dataset
"""
CHOSEN = """
SELECT DISTINCT step, dataset, shots, alpha, beta, val_accuracy,
       alpha = max(alpha) OVER searched OR beta = max(beta) OVER searched AS at_edge, count(*) OVER searched AS pairs
FROM tip_grid WHERE run_id = $run
WINDOW searched AS (PARTITION BY variant, step, dataset, shots)
QUALIFY chosen ORDER BY dataset, shots, step
"""
ALONG = """
SELECT DISTINCT step, dataset, shots, {name}, max(val_accuracy) AS val_accuracy FROM tip_grid WHERE run_id = $run
GROUP BY variant, step, dataset, shots, {name} ORDER BY step, dataset, shots, {name}
"""


@dataclass(frozen=True)
class Found:
    """All rows of a run's closed-world answers."""

    scores: list[Row]
    pool: list[Row]
    chosen: list[Row]
    along: dict[str, list[Row]]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where the run answered nothing with a class list and searched nothing."""
    of_run = {"run": request.run_id}
    scores, pool, chosen = (read(sql, of_run).to_pylist() for sql in (SCORES, POOL, CHOSEN))
    along = {name: read(ALONG.format(name=name), of_run).to_pylist() for name in ("alpha", "beta")}
    found = Found([{**row, "detail": detail(row["shots"])} for row in scores], pool, chosen, along)
    return found if scores or pool or chosen else None


def detail(shots: int) -> str:
    """``16 shots``; 0 is told in words."""
    return "no shots" if shots == 0 else f"{shots} shot{'' if shots == 1 else 's'}"


def parts(found: Found) -> list[Part]:
    """Accuracies as a table and a picture, the pool of labelled pictures, the search."""
    made = []
    if found.scores or found.pool:
        tables = {metric: _of(found.scores, metric) for metric in METRICS}
        blocks = [{"title": METRICS[m][0], "words": METRICS[m][1], "board": b} for m, b in tables.items() if b.lines]
        figures = drawn(tables["accuracy_inclusion"])
        variables = {
            "blocks": blocks,
            "pool": found.pool,
            "figures": figures,
            "most": MOST_LINES,
            "title": "Accuracy",
            "column_title": column_title,
        }
        made.append(Part("closed-world", "Answers with a class list", "closed_world_scores.html.jinja", variables))
    if found.chosen:
        made.append(Part("tip", "What Tip-Adapter searched", "closed_world_tip.html.jinja", {"rows": found.chosen, "searches": list(_searches(found))}))  # fmt: skip
    return made


def _of(rows: Iterable[Row], metric: str) -> Board:
    return board(row for row in rows if row["metric"] == metric)


def _searches(found: Found) -> Iterable[dict[str, Any]]:
    """A chart by beta and one by alpha for the first searches of more than one pair."""
    searched = [row for row in found.chosen if row["pairs"] > 1]
    for row in searched[:MOST_SEARCHES]:
        own = [row]
        along = {name: [p for p in points if _key(p) == _key(row)] for name, points in found.along.items()}
        yield {"row": row, **{name: charts.search_chart(points, own, name) for name, points in along.items()}}


def _key(row: Row) -> tuple[Any, ...]:
    return row["step"], row["dataset"], row["shots"]


SECTIONS = (Section("closed-world", TABLES, collect, parts),)

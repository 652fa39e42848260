"""Questions about pictures: scores of models, what they retain of the original, losses, and the answers themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from results.report import charts
from results.report.page import Part, Request, Section
from results.report.scoreboard import pictured

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(["vqa_item", "vqa_answer", "vqa_score", "bench_score", "bench_aggregate", "text_perplexity"])
METRICS = {
    "exact_match": "the answer is one of those accepted, whatever its case and punctuation",
    "vqa_accuracy": "how many of the people asked gave the same answer, three of them counting as all",
    "anls": "how near the letters of the answer come to an accepted one; less than half alike counts 0",
    "relaxed_accuracy": "the answer is right, or a number within 5 % of it",
    "yes_no": "yes or no is right",
    "multiple_choice": "the right option was chosen",
    "mathvista": "the number or option is right",
    "substring": "the accepted answer stands in the reply",
    "count_exact": "the number is right",
    "count_soft": "the number is right, or nearly",
}

SCORES = (
    "SELECT * FROM benchmark_scores WHERE run_id = $run ORDER BY variant, benchmark, step, model, main DESC, metric"
)
CATEGORIES = """
SELECT variant, step, model, benchmark, metric, category, value, ci_low AS low, ci_high AS high, share, n, n_failed FROM vqa_score
WHERE run_id = $run AND category IS NOT NULL ORDER BY variant, benchmark, step, model, category, metric
"""
RETAINED = "SELECT * FROM retained_performance WHERE run_id = $run ORDER BY variant, step, model, benchmark = 'all' DESC, benchmark"
LOSSES = "SELECT * FROM text_perplexity WHERE run_id = $run ORDER BY variant, data, domain NULLS FIRST, step, model"
SMALL = "SELECT DISTINCT model, note FROM models WHERE run_id = $run AND note IS NOT NULL ORDER BY model"
# Questions that models answer differently come first, then those that nobody got right, then those that all did; of equals, those with a picture.
ANSWERS = """
WITH pictures AS (
    SELECT source_id, uri, any_value(thumbnail) AS thumbnail FROM dataset_image WHERE run_id = $run AND thumbnail IS NOT NULL GROUP BY ALL
), asked AS (
    SELECT variant, benchmark, item_id, any_value(question) AS question, any_value(choices) AS choices, any_value(answers) AS accepted,
           any_value(category) AS category, any_value(uris) AS uris, any_value(source_id) AS source_id, any_value(thumbnail) AS small
    FROM vqa_item WHERE run_id = $run GROUP BY ALL
), told AS (
    SELECT a.variant, a.benchmark, a.item_id, a.step, a.model, a.answer, a.parsed, a.score, a.failure FROM vqa_answer a WHERE a.run_id = $run
), ranked AS (
    SELECT variant, benchmark, item_id,
           row_number() OVER (PARTITION BY variant, benchmark
                              ORDER BY max(coalesce(score, 0)) - min(coalesce(score, 0)) DESC, avg(coalesce(score, 0)), bool_or(small IS NULL), hash(item_id)) AS place
    FROM told LEFT JOIN asked USING (variant, benchmark, item_id) GROUP BY variant, benchmark, item_id
)
SELECT told.*, place, question, choices, accepted, category, uris, coalesce(small, thumbnail) AS thumbnail
FROM told JOIN ranked USING (variant, benchmark, item_id) LEFT JOIN asked USING (variant, benchmark, item_id)
LEFT JOIN pictures ON pictures.source_id = asked.source_id AND pictures.uri = asked.uris[1]
WHERE place <= $most ORDER BY variant, benchmark, place, step, model
"""
COUNTS = """
SELECT variant, benchmark, count(DISTINCT item_id) AS asked,
       count(DISTINCT item_id) FILTER (best >= 1) AS somebody, count(DISTINCT item_id) FILTER (worst >= 1) AS everybody, max(models) AS models
FROM (SELECT variant, benchmark, item_id, max(coalesce(score, 0)) AS best, min(coalesce(score, 0)) AS worst, count(DISTINCT (step, model)) AS models
      FROM vqa_answer WHERE run_id = $run GROUP BY ALL)
GROUP BY ALL ORDER BY ALL
"""


@dataclass(frozen=True)
class Found:
    """All rows of a run's questions about pictures."""

    scores: list[Row]
    categories: list[Row]
    retained: list[Row]
    losses: list[Row]
    small: list[Row]
    counts: list[Row]
    answers: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where no model was asked or measured."""
    of_run: dict[str, Any] = {"run": request.run_id}
    statements = (SCORES, CATEGORIES, RETAINED, LOSSES, SMALL, COUNTS)
    rows = [read(sql, of_run).to_pylist() for sql in statements]
    rows.append(read(ANSWERS, {**of_run, "most": request.examples}).to_pylist())
    found = Found(*rows)
    return found if found.scores or found.retained or found.losses or found.answers else None


def parts(found: Found) -> list[Part]:
    """Scores, what is retained, losses, answers."""
    return list(_parts(found))


def _parts(found: Found) -> Iterator[Part]:
    if found.scores:
        variables = {"boards": list(boards(found)), "what": METRICS, "small": found.small}
        yield Part("vqa", "Questions about pictures", "vqa_scores.html.jinja", variables)
    if found.retained:
        yield Part("retained", "What is left of the original", "vqa_retained.html.jinja", {"boards": list(retained(found.retained))})  # fmt: skip
    if found.losses:
        boards_ = [{**place, "rows": rows} for place, rows in grouped(found.losses, ("variant", "data"))]
        yield Part("loss", "Loss on conversations", "vqa_loss.html.jinja", {"boards": boards_})
    if found.answers:
        yield Part("vqa-answers", "Questions and answers", "vqa_answers.html.jinja", {"boards": list(answered(found))})


def grouped(rows: Iterable[Row], keys: Iterable[str]) -> Iterator[tuple[Row, list[Row]]]:
    """What rows have in common, and the rows."""
    keys = tuple(keys)
    for values, own in groupby(rows, lambda r: tuple(r[k] for k in keys)):
        yield dict(zip(keys, values, strict=True)), list(own)


def boards(found: Found) -> Iterator[Row]:
    """One table a benchmark: the models by their score, highest first, a picture where there are several."""
    for place, own in grouped(found.scores, ("variant", "benchmark")):
        main = sorted((r for r in own if r["main"]), key=lambda r: (r["value"] is None, -(r["value"] or 0), r["model"]))
        drawn = [(_who(r, main), {"value": r["share"], "low": r["share_low"], "high": r["share_high"]}, False)
                 for r in main if r["share"] is not None]  # fmt: skip
        parts_of = [r for r in found.categories if all(r[k] == v for k, v in place.items())]
        yield {
            **place, "main": main, "beside": [r for r in own if not r["main"]], "categories": parts_of,
            "chart": charts.dot_chart(drawn) if len(drawn) > 1 else None,
        }  # fmt: skip


def _who(row: Row, rows: list[Row]) -> str:
    """The model's name, with the step where two steps have the name."""
    twice = sum(r["model"] == row["model"] for r in rows) > 1
    return f"{row['model']} ({row['step']})" if twice else str(row["model"])


def retained(rows: Iterable[Row]) -> Iterator[Row]:
    """One table a comparison: the sentence of each model, then benchmark by benchmark."""
    for place, own in grouped(rows, ("variant", "step")):
        whole = [r for r in own if r["benchmark"] == "all"]
        yield {**place, "whole": whole, "rows": [r for r in own if r["benchmark"] != "all"]}


def answered(found: Found) -> Iterator[Row]:
    """One table a benchmark: questions with what each model answered."""
    counts = {(r["variant"], r["benchmark"]): r for r in found.counts}
    for place, own in grouped(found.answers, ("variant", "benchmark")):
        models = list(dict.fromkeys((r["step"], r["model"]) for r in sorted(own, key=lambda r: (r["step"], r["model"]))))  # fmt: skip
        items = [
            {**pictured(rows[0]), "told": {(r["step"], r["model"]): r for r in rows}}
            for _, rows in grouped(own, ("place",))
        ]
        repeated = len({model for _, model in models}) < len(models)
        yield {**place, "models": models, "items": items, "repeated": repeated, "count": counts[tuple(place.values())]}


SECTIONS = (Section("vqa", TABLES, collect, parts),)

"""Questions about pictures: scores of models, what they retain of the original, losses, and the answers themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from results.report import charts
from results.report.page import Part, Request, Section
from results.report.scoreboard import pictured
from results.sweeps import VARIANTS, Sweep

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(["vqa_item", "vqa_answer", "vqa_score", "bench_score", "bench_aggregate", "text_perplexity"])
MOST_TOLD = 4
MOST_ANSWERING = 16
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
# Variants may ask others under the same id: a question is its words, too.
QUESTIONS = """
asked AS (
    SELECT variant, benchmark, item_id, any_value(question) AS question, any_value(choices) AS choices, any_value(answers) AS accepted,
           any_value(category) AS category, any_value(uris) AS uris, any_value(source_id) AS source_id, any_value(thumbnail) AS small
    FROM vqa_item WHERE run_id = $run GROUP BY ALL
), told AS (
    SELECT a.variant, a.benchmark, a.item_id, a.step, a.model, a.answer, a.parsed, a.score, a.failure, q.* EXCLUDE (variant, benchmark, item_id),
           coalesce(hash(question, choices, accepted, uris), 0) AS words,
           bit_xor(hash(a.item_id, words, a.answer, a.parsed, a.score, a.failure)) OVER (PARTITION BY a.variant, a.benchmark, a.step, a.model) AS said
    FROM vqa_answer a LEFT JOIN asked q USING (variant, benchmark, item_id) WHERE a.run_id = $run
)
"""
ANSWERS = f"""
WITH {QUESTIONS}, pictures AS (
    SELECT source_id, uri, any_value(thumbnail) AS thumbnail FROM dataset_image WHERE run_id = $run AND thumbnail IS NOT NULL GROUP BY ALL
), ranked AS (
    SELECT benchmark, item_id, words,
           row_number() OVER (PARTITION BY benchmark
                              ORDER BY max(coalesce(score, 0)) - min(coalesce(score, 0)) DESC, avg(coalesce(score, 0)), bool_or(small IS NULL), hash(item_id), words) AS place
    FROM told GROUP BY benchmark, item_id, words
)
SELECT told.* EXCLUDE (small), place, coalesce(small, thumbnail) AS thumbnail
FROM told JOIN ranked USING (benchmark, item_id, words)
LEFT JOIN pictures ON pictures.source_id = told.source_id AND pictures.uri = told.uris[1]
WHERE place <= $most ORDER BY benchmark, place, step, model
"""  # noqa: S608 - our own text
COUNTS = f"""
WITH {QUESTIONS}
SELECT benchmark, count(*) AS asked, count(*) FILTER (best >= 1) AS somebody, count(*) FILTER (worst >= 1) AS everybody, max(models) AS models
FROM (SELECT benchmark, item_id, words, max(coalesce(score, 0)) AS best, min(coalesce(score, 0)) AS worst, count(DISTINCT (step, model, said)) AS models
      FROM told GROUP BY ALL)
GROUP BY ALL ORDER BY ALL
"""  # noqa: S608 - our own text


@dataclass(frozen=True)
class Found:
    """All rows of a run's questions about pictures."""

    sweep: Sweep
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
    sweep = Sweep.of(read(VARIANTS, of_run).to_pylist())
    rows.append(read(ANSWERS, {**of_run, "most": request.examples}).to_pylist())
    found = Found(sweep, *rows)
    return found if found.scores or found.retained or found.losses or found.answers else None


def parts(found: Found) -> list[Part]:
    """Scores, what is retained, losses, answers."""
    return list(_parts(found))


def _parts(found: Found) -> Iterator[Part]:
    if found.scores:
        variables = {"boards": list(boards(found)), "what": METRICS, "small": found.small}
        yield Part("vqa", "Questions about pictures", "vqa_scores.html.jinja", variables)
    if found.retained:
        yield Part("retained", "What is left of the original", "vqa_retained.html.jinja", {"boards": list(retained(found)), "most": MOST_TOLD})  # fmt: skip
    if found.losses:
        losses = sorted(
            found.sweep.once(found.losses, ("data", "domain", "step", "model")),
            key=lambda r: (r["data"], r["domain"] is not None, r["domain"]),
        )
        boards_ = [{**place, "rows": rows} for place, rows in grouped(losses, ("data",))]
        yield Part("loss", "Loss on conversations", "vqa_loss.html.jinja", {"boards": boards_})
    if found.answers:
        yield Part("vqa-answers", "Questions and answers", "vqa_answers.html.jinja", {"boards": list(answered(found))})


def grouped(rows: Iterable[Row], keys: Iterable[str]) -> Iterator[tuple[Row, list[Row]]]:
    """What rows have in common, and the rows."""
    keys = tuple(keys)
    for values, own in groupby(rows, lambda r: tuple(r[k] for k in keys)):
        yield dict(zip(keys, values, strict=True)), list(own)


def boards(found: Found) -> Iterator[Row]:
    """One table a benchmark: the models by their score, highest first (in a sweep by variant first), a picture where there are several."""
    keys = ("benchmark", "step", "model")
    scores = sorted(found.scores, key=lambda r: (r["value"] is None, -(r["value"] or 0), r["model"]))
    rows, parts_of = found.sweep.once(scores, keys), found.sweep.once(found.categories, keys)
    for benchmark in sorted({r["benchmark"] for r in rows}):
        own = [r for r in rows if r["benchmark"] == benchmark]
        main = [r for r in own if r["main"]]
        drawn = [(_who(r, main), {"value": r["share"], "low": r["share_low"], "high": r["share_high"]}, False)
                 for r in main if r["share"] is not None]  # fmt: skip
        yield {
            "benchmark": benchmark, "main": main, "beside": [r for r in own if not r["main"]],
            "categories": [r for r in parts_of if r["benchmark"] == benchmark], "chart": charts.dot_chart(drawn) if len(drawn) > 1 else None,
        }  # fmt: skip


def _who(row: Row, rows: list[Row]) -> str:
    """The model's name, with its setting, or the step, where several have the name."""
    same = [r for r in rows if r["model"] == row["model"]]
    if len(same) < 2:
        return str(row["model"])
    told = (
        row["setting"]
        if len({r["step"] for r in same}) == 1
        else ", ".join(filter(None, (row["step"], row["setting"])))
    )
    return f"{row['model']} ({told})" if told else str(row["model"])


def retained(found: Found) -> Iterator[Row]:
    """One table a comparison: each model over all benchmarks (as sentences where they are few), then benchmark by benchmark."""
    once = found.sweep.once(found.retained, ("step", "model"))
    for place, own in grouped(sorted(once, key=lambda r: r["step"]), ("step",)):
        whole = [r for r in own if r["benchmark"] == "all"]
        swept = any(r["setting"] for r in own)
        yield {**place, "whole": whole, "rows": [r for r in own if r["benchmark"] != "all"], "swept": swept}


def answered(found: Found) -> Iterator[Row]:
    """One table a benchmark: questions with what each model answered. A model that answers the same in several variants stands once."""
    counts = {r["benchmark"]: r for r in found.counts}
    for place, own in grouped(found.answers, ("benchmark",)):
        who = [{k: r[k] for k in ("variant", "step", "model", "said")} for r in own]
        models = found.sweep.once(
            list({tuple(w.values()): w for w in sorted(who, key=_place)}.values()), ("step", "model")
        )
        items = [
            {**pictured(rows[0]), "told": {(r["variant"], r["step"], r["model"]): r for r in rows}}
            for _, rows in grouped(own, ("place",))
        ]
        repeated = len({m["model"] for m in models}) < len({(m["step"], m["model"]) for m in models})
        yield {**place, "models": models[:MOST_ANSWERING], "of": len(models), "items": items, "repeated": repeated, "count": counts[place["benchmark"]]}  # fmt: skip


def _place(row: Row) -> tuple[str, str]:
    return row["step"], row["model"]


SECTIONS = (Section("vqa", TABLES, collect, parts),)

"""Open-world classification: scores of free-text answers, why they fail, what the judge is worth, answers side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from results.report import charts
from results.report.page import Part, Request, Section
from results.report.scoreboard import Board, Column, Row, board, column_title, pictured
from results.report.words import NOTHING

if TYPE_CHECKING:
    from results.store import Reader

TABLES = frozenset(
    ["owc_prediction", "owc_judgement", "owc_judge_agreement", "owc_judge_pair", "owc_category", "owc_score", "owc_concept",
     "owc_summary", "owc_error_cell", "owc_elo_game", "owc_elo"]
)  # fmt: skip
METRICS = {
    "llama_inclusion": ("Llama inclusion (LI)", "A language model reads answer and label and says whether the answer is a good one. It accepts synonyms, and what is right but vague; lists of guesses are easily accepted, so that their length stands beside."),
    "text_inclusion": ("Text inclusion (TI)", "The label stands in the answer, letter by letter. Strict: a synonym counts as wrong, and so does a vaguer word."),
    "semantic_similarity": ("Semantic similarity (SS)", "How close the whole answer is to the label in meaning: the cosine of their sentence embeddings, times 100."),
    "bcs": ("Best concept similarity (bCS)", "The same closeness for the best phrase of the answer. One good guess in a long list is enough."),
    "mcs": ("Median concept similarity (mCS)", "The same closeness for the middle phrase of the answer. Long lists of guesses lose here; short consistent answers win."),
}  # fmt: skip
COUNTS = {"n_items": "Items in an answer", "n_concepts": "Concepts in an answer"}
MAIN = ("llama_inclusion", "bcs", "text_inclusion")
MOST_LINES = 40
MOST_CHARTS = 16

SCORES = """
SELECT setting, step, method, model, prompt_key AS detail, level, name, metric, value, low, high, sd, n, unscored, seeds, judge, chunker, encoder
FROM owc_summary JOIN variant_settings USING (run_id, variant) WHERE run_id = $run AND level = 'dataset'
UNION ALL
SELECT setting, step, method, model, prompt_key, level, name, metric, value, low, high, NULL, n, unscored, NULL, judge, chunker, encoder
FROM owc_group_scores WHERE run_id = $run
ORDER BY setting, step, method, model, detail, level, name
"""
ITEMS = """
SELECT setting, step, method, model, prompt_key AS detail, avg(items) AS items FROM owc_scoreboard WHERE run_id = $run GROUP BY ALL
"""
ERRORS = "SELECT DISTINCT * EXCLUDE (variant) FROM owc_errors WHERE run_id = $run ORDER BY ALL"
ELO = "SELECT DISTINCT * EXCLUDE (run_id) FROM owc_elo WHERE run_id = $run ORDER BY variant, step, criterion, dataset = 'all' DESC, dataset, final DESC, player"
AGREEMENT = "SELECT DISTINCT * EXCLUDE (run_id, variant) FROM owc_judge_agreement WHERE run_id = $run ORDER BY step, judge, subset <> 'all', subset"
JUDGED = """
SELECT judge, count(*) AS pairs, count(verdict) AS scored,
       count(*) FILTER (attempts > 1) AS again
FROM (SELECT DISTINCT judge, reference, answer, verdict, attempts FROM owc_judgement WHERE run_id = $run) GROUP BY judge ORDER BY judge
"""
UNSCORED = """
SELECT judge, reply, failure, count(*) AS pairs
FROM (SELECT DISTINCT judge, reference, answer, reply, failure FROM owc_judgement WHERE run_id = $run AND verdict IS NULL)
GROUP BY judge, reply, failure ORDER BY pairs DESC, reply LIMIT 8
"""
SMALL = "SELECT DISTINCT model, note FROM models WHERE run_id = $run AND note IS NOT NULL ORDER BY model"
# Pictures on which methods disagree come first, the nearer to half of them right the earlier; then those that nobody got
# right, then those that everybody did; among equals those with a thumbnail.
ANSWERS = """
WITH told AS (
    SELECT p.variant, p.dataset, p.sample_id, p.uri, p.target, p.method, p.model, p.prompt_key AS detail, p.seed, p.prediction, p.failure,
           s.llama_inclusion, s.text_inclusion, s.semantic_similarity, s.bcs, s.mcs,
           coalesce(s.llama_inclusion = 1, s.text_inclusion) AS correct
    FROM owc_prediction p
    LEFT JOIN owc_score s USING (run_id, variant, method, prompt_key, model, dataset, sample_id, seed)
    WHERE p.run_id = $run
    QUALIFY row_number() OVER (PARTITION BY p.variant, p.method, detail, p.model, p.dataset, p.sample_id, p.seed ORDER BY s.step) = 1
), pictures AS (
    SELECT dataset, sample_id, any_value(thumbnail) AS thumbnail FROM dataset_image WHERE run_id = $run GROUP BY ALL
), ranked AS (
    SELECT dataset, sample_id, any_value(thumbnail) AS thumbnail,
           row_number() OVER (PARTITION BY dataset ORDER BY abs(avg(correct::INTEGER) - 0.5) NULLS LAST, avg(correct::INTEGER) NULLS LAST,
                              any_value(thumbnail) IS NULL, sample_id) AS place
    FROM told LEFT JOIN pictures USING (dataset, sample_id) GROUP BY dataset, sample_id
)
SELECT told.*, place, thumbnail FROM told JOIN ranked USING (dataset, sample_id) WHERE place <= $most
ORDER BY dataset, place, method, model, detail, seed, variant
"""


@dataclass(frozen=True)
class Found:
    """All rows of a run's free-text answers."""

    answers: list[Row]
    scores: list[Row]
    items: list[Row]
    errors: list[Row]
    elo: list[Row]
    agreement: list[Row]
    judged: list[Row]
    unscored: list[Row]
    small: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where the run has neither answers nor anything said of them."""
    of_run = {"run": request.run_id}
    queries = (SCORES, ITEMS, ERRORS, ELO, AGREEMENT, JUDGED, UNSCORED, SMALL)
    answers = read(ANSWERS, {**of_run, "most": request.examples}).to_pylist()
    found = Found(answers, *(read(sql, of_run).to_pylist() for sql in queries))
    return found if found.scores or found.answers or found.elo or found.agreement or found.judged else None


def parts(found: Found) -> list[Part]:
    """Scores first, then their picture, errors, ratings, the judge, and the answers themselves."""
    return list(_parts(found))


def _parts(found: Found) -> Iterator[Part]:
    if found.scores:
        yield _scores(found)
        yield from _chart(found)
    for taxonomy, title in (("quadrant", "Why answers fail"), ("six_way", "How near wrong answers come")):
        own = [row for row in found.errors if row["taxonomy"] == taxonomy]
        if own:
            yield _errors(taxonomy, title, own)
    if found.elo:
        tables = [_ratings(rows) for rows in _split(found.elo, "variant", "step", "criterion")]
        yield Part("elo", "Elo ratings", "openworld_elo.html.jinja", {"tables": tables})
    if found.agreement or found.judged:
        yield _judge(found)
    if found.answers:
        yield _answers(found.answers)


def _of_metric(rows: Iterable[Row], metric: str) -> Board:
    """The board of one metric; counts are divided by the hundred that scores are shown times."""
    own = (row for row in rows if row["metric"] == metric)
    return board(map(_hundredth, own) if metric in COUNTS else own)


def _hundredth(row: Row) -> Row:
    return {**row, **{k: None if row[k] is None else row[k] / 100 for k in ("value", "low", "high", "sd")}}


def _scores(found: Found) -> Part:
    known = {row["metric"] for row in found.scores if row["value"] is not None}
    lengths = {tuple(r[k] for k in ("method", "model", "detail", "step", "setting")): r["items"] for r in found.items}
    blocks = [
        {"metric": metric, "title": title, "words": words, "board": _of_metric(found.scores, metric)}
        for metric, (title, words) in METRICS.items() if metric in known
    ]  # fmt: skip
    others = sorted(known - METRICS.keys())
    variables = {
        "blocks": blocks,
        "others": [
            {"metric": COUNTS.get(metric, metric), "board": _of_metric(found.scores, metric)} for metric in others
        ],
        "items_text": lambda line: _rounded(lengths.get((*line.who, line.step, line.settings[0]))),
        "means": {name: sorted({r[name] for r in found.scores if r[name]}) for name in ("judge", "chunker", "encoder")},
        "unjudged": "llama_inclusion" not in known,
        "small": found.small,
        "column_title": column_title,
    }
    return Part("open-world", "Answers without a class list", "openworld_scores.html.jinja", variables)


def _rounded(number: float | None) -> str:
    return NOTHING if number is None else f"{number:.1f}"


def _chart(found: Found) -> Iterator[Part]:
    known = {row["metric"] for row in found.scores if row["value"] is not None}
    metric = next((m for m in MAIN if m in known), None)
    if metric is not None:
        figures = drawn(_of_metric(found.scores, metric))
        variables = {"title": METRICS[metric][0], "figures": figures, "most": MOST_LINES}
        yield Part("open-world-plot", "The same as a picture", "openworld_plot.html.jinja", variables)


def drawn(table: Board) -> list[dict[str, Any]]:
    """One chart a column, the widest means first; of many lines the highest."""
    order: list[Column] = sorted(table.columns[:], key=lambda c: {"all": 0, "group": 1, "dataset": 2}[c[0]])
    figures = []
    for column in order[:MOST_CHARTS]:
        cells = [
            (table.title(line), line.cells[column], table.is_best(line, column))
            for line in table.lines
            if column in line.cells
        ]
        cells = sorted((c for c in cells if c[1]["value"] is not None), key=lambda c: -c[1]["value"])
        if cells:
            figures.append({"title": column_title(column), "mean": column[0] != "dataset", "chart": charts.dot_chart(cells[:MOST_LINES]), "left": max(0, len(cells) - MOST_LINES)})  # fmt: skip
    return figures


def _errors(taxonomy: str, title: str, rows: list[Row]) -> Part:
    cells = list(dict.fromkeys(row["cell"] for row in sorted(rows, key=lambda r: -r["n"])))
    several = len({row["setting"] for row in rows}) > 1
    lines: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        setting = row["setting"] if several else None
        key = (row["method"], row["model"], row["prompt_key"], row["step"], setting, row["dataset"])
        lines.setdefault(key, {})[row["cell"]] = row
    threshold = next((row["threshold"] for row in rows if row["threshold"] is not None), None)
    variables = {"taxonomy": taxonomy, "cells": cells, "lines": list(lines.items()), "threshold": threshold}
    return Part(f"errors-{taxonomy}", title, "openworld_errors.html.jinja", variables)


def _split(rows: Iterable[Row], *names: str) -> list[list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(found.values())


def _ratings(rows: list[Row]) -> dict[str, Any]:
    """Players by rating over all datasets (else by their mean), a column a dataset."""
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    players: dict[str, dict[str, Row]] = {}
    for row in rows:
        players.setdefault(row["player"], {})[row["dataset"]] = row

    def rating(player: str) -> float:
        own = players[player]
        return float(own["all"]["final"]) if "all" in own else fmean(r["final"] for r in own.values())

    ordered = sorted(players, key=rating, reverse=True)
    return {"criterion": rows[0]["criterion"], "variant": rows[0]["variant"], "datasets": datasets, "players": [(p, players[p]) for p in ordered]}  # fmt: skip


def _judge(found: Found) -> Part:
    whole = [row for row in found.agreement if row["subset"] == "all" and row["agreement"] is not None]
    variables = {
        "agreement": found.agreement,
        "whole": [{**row, **leniency(row)} for row in whole],
        "judged": found.judged,
        "unscored": found.unscored,
    }
    return Part("judge", "What the judge is worth", "openworld_judge.html.jinja", variables)


def leniency(row: Row) -> dict[str, float | None]:
    """Shares that the judge accepts of answers that are bad and good by hand: what LI would be of a method never, always right."""
    bad = row["false_positive"] + row["true_negative"]
    good = row["true_positive"] + row["false_negative"]
    return {"accepts_bad": row["false_positive"] / bad if bad else None, "accepts_good": row["true_positive"] / good if good else None}  # fmt: skip


def _answers(rows: list[Row]) -> Part:
    """Pictures by dataset; a cell holds the distinct answers of one method, with the seeds and variants they come from."""
    methods = list(dict.fromkeys(_who(row) for row in sorted(rows, key=_who)))
    pictures: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        entry = pictures.setdefault((row["dataset"], row["sample_id"]), {"answers": {}, **pictured(row)})
        said = entry["answers"].setdefault(_who(row), {})
        told = said.setdefault((row["prediction"], row["failure"], row["correct"]), {**row, "places": []})
        told["places"].append(", ".join(filter(None, (row["variant"], f"seed {row['seed']}"))))
    datasets: dict[str, list[dict[str, Any]]] = {}
    for (dataset, _), entry in pictures.items():
        datasets.setdefault(dataset, []).append(entry)
    variables = {"methods": methods, "datasets": datasets}
    return Part("answers", "Answers side by side", "openworld_answers.html.jinja", variables)


def _who(row: Row) -> tuple[str, str, str]:
    return row["method"], row["model"], row["detail"]


SECTIONS = (Section("openworld", TABLES, collect, parts),)

"""In-context answers: the context pictures with the history of their labels, what context gained and lost, what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report.page import Part, Request, Section
from results.report.scoreboard import Row, pictured

if TYPE_CHECKING:
    from results.store import Reader

TABLES = frozenset({"circle_context", "circle_label", "circle_call"})
MOST_CONTEXTS = 24

# As many pictures of each context as examples are asked for twice over: sixteen is the papers' context.
HISTORY = """
SELECT h.*, p.thumbnail
FROM circle_history h
LEFT JOIN (SELECT dataset, sample_id, any_value(thumbnail) AS thumbnail FROM dataset_image WHERE run_id = $run GROUP BY ALL) p USING (dataset, sample_id)
WHERE h.run_id = $run AND h.episode IS NULL AND h.slot < $most
ORDER BY h.variant, h.step, h.dataset, h.seed, h.slot
"""
ROUNDS = """
SELECT variant, step, dataset, round, count(*) AS labels, count(*) FILTER (changed) AS changed,
       count(*) FILTER (flag = 'kept_previous') AS kept, count(*) FILTER (flag = 'cut') AS cut, count(*) FILTER (flag = 'failed') AS failed,
       count(DISTINCT episode) AS episodes
FROM circle_label WHERE run_id = $run GROUP BY ALL ORDER BY variant, step, dataset, round
"""
GAIN = """
WITH picture AS (
    SELECT variant, dataset, model, method, baseline, baseline_prompt, sample_id,
           count(*) FILTER (outcome = 'gained') AS gained, count(*) FILTER (outcome = 'lost') AS lost,
           count(*) FILTER (outcome = 'both right') AS both_right, count(*) FILTER (outcome = 'both wrong') AS both_wrong,
           avg(correct::INTEGER - baseline_correct::INTEGER) AS change
    FROM circle_gain WHERE run_id = $run GROUP BY ALL
)
SELECT variant, dataset, model, method, baseline, baseline_prompt, count(*) AS pictures, sum(gained) AS gained, sum(lost) AS lost,
       sum(both_right) AS both_right, sum(both_wrong) AS both_wrong, sum(change) AS total, sum(change ** 2) AS squares
FROM picture GROUP BY ALL ORDER BY variant, dataset, model, method, baseline, baseline_prompt
"""
COST = """
SELECT variant, step, dataset, kind, sum(calls) AS calls, sum(made) AS made, sum(from_cache) AS from_cache, sum(images) AS images,
       sum(prompt_tokens) AS prompt_tokens, sum(prefix_tokens) AS prefix_tokens,
       sum(prefix_share * prompt_tokens) / nullif(sum(prompt_tokens) FILTER (prefix_share IS NOT NULL), 0) AS prefix_share,
       sum(output_tokens) AS output_tokens, sum(seconds) AS seconds, sum(failures) AS failures
FROM circle_cost WHERE run_id = $run GROUP BY variant, step, dataset, kind
ORDER BY variant, step, dataset, kind = 'query', kind
"""
OTHERS = """
SELECT u.* FROM llm_usage u WHERE u.run_id = $run AND EXISTS (
    SELECT 1 FROM run_steps s WHERE s.run_id = u.run_id AND s.variant = u.variant AND s.step = u.step
      AND (s.uses LIKE 'owc.%' OR s.uses LIKE 'circle.%' OR s.uses LIKE 'classify.%'))
"""
FAILURES = """
SELECT failure, kind, count(*) AS calls FROM circle_call WHERE run_id = $run AND failure IS NOT NULL GROUP BY ALL ORDER BY calls DESC, failure, kind LIMIT 8
"""


@dataclass(frozen=True)
class Found:
    """All rows of a run's in-context answers."""

    history: list[Row]
    rounds: list[Row]
    gain: list[Row]
    cost: list[Row]
    others: list[Row]
    failures: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where the run has no context, labels or calls of its own."""
    of_run = {"run": request.run_id}
    history = read(HISTORY, {**of_run, "most": 2 * request.examples}).to_pylist()
    found = Found(history, *(read(sql, of_run).to_pylist() for sql in (ROUNDS, GAIN, COST, OTHERS, FAILURES)))
    return found if found.history or found.rounds or found.cost else None


def parts(found: Found) -> list[Part]:
    """What context changed, the context itself, its rounds, its cost."""
    made = []
    if found.gain:
        rows = [{**row, **change_interval(row["total"], row["squares"], row["pictures"])} for row in found.gain]
        made.append(Part("context-gain", "What context gained and lost", "circle_gain.html.jinja", {"rows": rows}))
    if found.history:
        contexts = _contexts(found.history)
        variables = {"contexts": contexts[:MOST_CONTEXTS], "left": len(contexts) - MOST_CONTEXTS}
        made.append(
            Part("context", "The context and how its labels came about", "circle_context.html.jinja", variables)
        )
    if any(row["round"] for row in found.rounds):
        made.append(Part("rounds", "What each round changed", "circle_rounds.html.jinja", {"tables": _rounds(found.rounds)}))  # fmt: skip
    if found.cost or found.others:
        variables = {
            "rows": found.cost,
            "others": found.others,
            "failures": found.failures,
            "total": _total(found.cost),
        }
        made.append(Part("context-cost", "What the answers cost", "circle_cost.html.jinja", variables))
    return made


def change_interval(total: float, squares: float, n: int) -> dict[str, float]:
    """Mean change a picture (1 = gained, -1 = lost, between seeds their mean) with a 95 % interval.

    The normal interval with two further pictures, half of one gained and half of one lost, so that few pictures without a
    change do not look certain (Agresti and Min 2005 for one seed; with several the variance is over pictures: ours).
    """
    mean = total / (n + 2)
    spread = 1.96 * math.sqrt(max(0.0, (squares + 1) / (n + 2) - mean**2) / (n + 2))
    return {"change": total / n, "low": max(-1.0, mean - spread), "high": min(1.0, mean + spread)}


def _contexts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One entry a variant, step, dataset and seed, with its pictures in the order drawn."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("variant", "step", "dataset", "seed"))
        context = found.setdefault(key, {"place": key, "pictures": [], "rounds": 0, "shown": False})
        context["pictures"].append({**pictured(row), "labels": row["labels"] or [], "flags": row["flags"] or []})
        context["rounds"] = max(context["rounds"], len(row["labels"] or []))
        context["shown"] |= row["thumbnail"] is not None
    return list(found.values())


def _rounds(rows: Iterable[Row]) -> list[tuple[tuple[str, str], list[list[Row]]]]:
    """Rows by variant and step, then by dataset."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault((row["variant"], row["step"]), {}).setdefault(row["dataset"], []).append(row)
    return [(place, list(datasets.values())) for place, datasets in found.items()]


def _total(rows: Iterable[Row]) -> dict[str, float]:
    names = ("made", "from_cache", "images", "prompt_tokens", "output_tokens", "seconds", "failures")
    return {name: sum(row[name] or 0 for row in rows) for name in names}


SECTIONS = (Section("circle", TABLES, collect, parts),)

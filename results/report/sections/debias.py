"""Before and after debiasing: groups, retrieval, pictures whose answer changed, and what the sparse autoencoder is worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from results.report import charts
from results.report.page import Part, Request, Section
from results.report.scoreboard import pictured

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(
    ["debias_retrieval", "debias_retrieval_count", "debias_group", "debias_summary", "debias_change", "debias_compare", "debias_text",
     "neuron_score", "prompt_set", "sae_model", "sae_train_log", "disentanglement", "cp_bn", "dataset_attribute"]
)  # fmt: skip
METRICS: Mapping[str, tuple[str, bool]] = {
    "accuracy": ("Accuracy", True),
    "worst_group": ("Worst group", True),
    "gap": ("Gap", False),
    "kl": ("KL divergence", False),
    "max_skew": ("MaxSkew", False),
    "precision": ("Precision", True),
}
"""Title, and whether more is better."""
INTERVALS = ("by_cluster", "by_image", "by_fold", "published")
MOST_NEURONS = 12
MOST_WORDS = 12

SUMMARY = """
SELECT s.*, setting FROM debias_summary s JOIN variant_settings USING (run_id, variant) WHERE s.run_id = $run
ORDER BY task DESC, dataset, attribute, backbone, variant, step, method
"""
GROUPS = "SELECT * FROM debias_groups WHERE run_id = $run"
COMPARED = """
SELECT * FROM debias_compare WHERE run_id = $run
ORDER BY variant, step, dataset, attribute, first, second, CASE metric WHEN 'accuracy' THEN 0 WHEN 'worst_group' THEN 1 ELSE 2 END
"""
CHANGED = """
SELECT c.*, i.thumbnail,
       count(*) OVER (PARTITION BY c.variant, c.step, c.dataset, c.backbone, c.method, c.change) AS found
FROM debias_change c
LEFT JOIN (SELECT variant, dataset, sample_id, any_value(thumbnail) AS thumbnail FROM dataset_image
           WHERE run_id = $run GROUP BY ALL) i USING (variant, dataset, sample_id)
WHERE c.run_id = $run
QUALIFY row_number() OVER (PARTITION BY c.variant, c.step, c.dataset, c.backbone, c.method, c.change
                           ORDER BY i.thumbnail IS NULL, c.sample_id) <= $examples
ORDER BY c.variant, c.step, c.dataset, c.backbone, c.method, c.change, c.sample_id
"""
AUTOENCODERS = "SELECT * FROM sae_model WHERE run_id = $run ORDER BY variant, step"
NEURONS = f"""
SELECT * FROM neuron_score WHERE run_id = $run
QUALIFY row_number() OVER (PARTITION BY variant, step, method, query ORDER BY abs(h_new - h) DESC, neuron) <= {MOST_NEURONS}
ORDER BY variant, step, method, query, abs(h_new - h) DESC
"""  # noqa: S608
PROMPTS = """
SELECT variant, step, kind, attribute, class_name, source, llm, count(*) AS texts, sum(retries) AS retries,
       list(text ORDER BY query, idx)[:3] AS some
FROM prompt_set WHERE run_id = $run GROUP BY ALL ORDER BY variant, step, kind, class_name
"""
STUDY = "SELECT * FROM disentanglement WHERE run_id = $run ORDER BY variant, step, task, attribute, features"
KEPT = "SELECT * FROM cp_bn WHERE run_id = $run ORDER BY variant, step, bn DESC"
ATTRIBUTES = """
SELECT a.dataset, a.attribute, a.value, count(DISTINCT a.sample_id) AS pictures FROM dataset_attribute a
WHERE a.run_id = $run GROUP BY ALL ORDER BY a.dataset, a.attribute, pictures DESC
"""


@dataclass(frozen=True)
class Found:
    """All rows of a run's debiasing."""

    summary: list[Row]
    groups: list[Row]
    compared: list[Row]
    changed: list[Row]
    autoencoders: list[Row]
    neurons: list[Row]
    prompts: list[Row]
    study: list[Row]
    kept: list[Row]
    attributes: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where the run debiased nothing."""
    of_run = {"run": request.run_id}
    wanted: dict[str, Any] = {**of_run, "examples": request.examples}
    changed: list[Row] = read(CHANGED, wanted).to_pylist()
    statements = (SUMMARY, GROUPS, COMPARED, AUTOENCODERS, NEURONS, PROMPTS, STUDY, KEPT, ATTRIBUTES)
    summary, groups, compared, *rest = (read(sql, of_run).to_pylist() for sql in statements)
    found = Found(summary, groups, compared, [pictured(row) for row in changed], *rest)
    return found if any(vars(found).values()) else None


def parts(found: Found) -> list[Part]:
    """Comparison, groups, retrieval, changed pictures, autoencoder and texts, studies."""
    made = []
    if found.compared:
        made.append(Part("debias-compare", "Before and after", "debias_compare.html.jinja", {"pairs": list(pairs(found.compared))}))  # fmt: skip
    for task, title in (("zero_shot", "Classification by group"), ("retrieval", "Who is found by a search")):
        rows = [row for row in found.summary if row["task"] == task]
        if rows:
            variables: dict[str, Any] = {"task": task, "boards": list(boards(rows, found.groups)), "metrics": METRICS}
            made.append(Part(f"debias-{task.replace('_', '-')}", title, "debias_scores.html.jinja", variables))
    if found.changed:
        made.append(Part("debias-changed", "Pictures whose answer changed", "debias_changed.html.jinja", {"rows": list(_changes(found.changed))}))  # fmt: skip
    if found.study or found.kept:
        made.append(Part("debias-studies", "Does the attribute leak?", "debias_studies.html.jinja", {"study": found.study, "kept": found.kept}))  # fmt: skip
    if found.autoencoders or found.neurons:
        variables = {"models": found.autoencoders, "queries": list(_neurons(found.neurons)), "most": MOST_NEURONS}
        made.append(Part("debias-sae", "The sparse autoencoder", "debias_sae.html.jinja", variables))
    if found.prompts:
        made.append(Part("debias-texts", "Texts that debiasing used", "debias_texts.html.jinja", {"rows": found.prompts}))  # fmt: skip
    if found.attributes:
        made.append(Part("attributes", "Attributes of the pictures", "debias_attributes.html.jinja", {"sets": _attributes(found.attributes)}))  # fmt: skip
    return made


def pairs(rows: Iterable[Row]) -> Iterator[Row]:
    """Two evaluations of the same pictures with the metrics that both have."""
    for key, own in groupby(
        rows, lambda r: tuple(r[k] for k in ("variant", "step", "dataset", "attribute", "first", "second"))
    ):
        metrics = {row["metric"]: {**row, "better": _better(row)} for row in own}
        yield {"variant": key[0], "step": key[1], "dataset": key[2], "attribute": key[3], "first": key[4], "second": key[5],
               "metrics": metrics, "n": max(row["n"] for row in metrics.values()),
               "clusters": next(iter(metrics.values()))["clusters"]}  # fmt: skip


def _better(row: Row) -> bool | None:
    """Whether the change is for the better beyond chance: None where its interval holds zero."""
    if row["ci_low"] <= 0 <= row["ci_high"]:
        return None
    more: bool = METRICS[row["metric"]][1]
    return bool(row["difference"] > 0) == more


def boards(rows: Iterable[Row], groups: list[Row]) -> Iterator[Row]:
    """One table a dataset, attribute and backbone: a line a method, a cell a metric with each kind of interval."""
    keys = ("dataset", "attribute", "backbone", "variant", "step")
    for key, own in groupby(rows, lambda r: tuple(r[k] for k in keys)):
        lines: dict[str, dict[str, Row]] = {}
        for row in own:
            cell = lines.setdefault(row["method"], {}).setdefault(row["metric"], {"mean": row["mean"], "intervals": {}})
            cell["intervals"][row["ci_kind"]] = row
        place = dict(zip(keys, key, strict=True))
        metrics = [metric for metric in METRICS if any(metric in cells for cells in lines.values())]
        mine = [row for row in groups if tuple(row[k] for k in keys) == key]
        yield {**place, "metrics": metrics, "lines": lines, "best": _best(lines, metrics), "chart": _chart(lines), "groups": list(_by_group(mine))}  # fmt: skip


def _best(lines: Mapping[str, Mapping[str, Row]], metrics: Iterable[str]) -> dict[str, float]:
    best = {}
    for metric in metrics:
        values = [cells[metric]["mean"] for cells in lines.values() if metric in cells]
        if len(values) > 1:
            best[metric] = max(values) if METRICS[metric][1] else min(values)
    return best


def shown_interval(cell: Row) -> Row | None:
    """The interval to show first: by cluster or by picture where there is one."""
    intervals: Mapping[str, Row] = cell["intervals"]
    return next((intervals[kind] for kind in INTERVALS if kind in intervals), None)


def _chart(lines: Mapping[str, Mapping[str, Row]]) -> Any:
    """Worst groups of the methods with their intervals, as a picture."""
    cells = []
    for method, metrics in lines.items():
        interval = shown_interval(metrics["worst_group"]) if "worst_group" in metrics else None
        if interval is not None and interval["ci_low"] is not None:
            cells.append(
                (method, {"value": interval["mean"], "low": interval["ci_low"], "high": interval["ci_high"]}, False)
            )
    return charts.dot_chart(cells) if len(cells) > 1 else None


def _by_group(rows: Iterable[Row]) -> Iterator[Row]:
    """Accuracy of each class and value by method."""
    rows = list(rows)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for place in dict.fromkeys((row["target"], row["value"]) for row in rows):
        own = {row["method"]: row for row in rows if (row["target"], row["value"]) == place}
        yield {"target": place[0], "value": place[1], "methods": methods, "cells": own}


def _changes(rows: Iterable[Row]) -> Iterator[Row]:
    keys = ("variant", "step", "dataset", "backbone", "method")
    for key, own in groupby(rows, lambda r: tuple(r[k] for k in keys)):
        kinds: dict[str, list[Row]] = {"gained": [], "lost": []}
        for row in own:
            kinds.setdefault(row["change"], []).append(row)
        first = next(row for found in kinds.values() for row in found)
        yield {**dict(zip(keys, key, strict=True)), "baseline": first["baseline"], "kinds": kinds}


def _neurons(rows: Iterable[Row]) -> Iterator[Row]:
    keys = ("variant", "step", "method", "query")
    for key, own in groupby(rows, lambda r: tuple(r[k] for k in keys)):
        yield {**dict(zip(keys, key, strict=True)), "neurons": list(own)}


def _attributes(rows: Iterable[Row]) -> list[Row]:
    keys = ("dataset", "attribute")
    return [
        {**dict(zip(keys, key, strict=True)), "values": list(own)[:MOST_WORDS]}
        for key, own in groupby(rows, lambda r: tuple(r[k] for k in keys))
    ]


SECTIONS = (Section("debias", TABLES, collect, parts),)

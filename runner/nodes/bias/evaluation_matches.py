"""What was found against what is true: rows of ``c2b_match`` and ``c2b_eval``. Pure but for the sentence encoder given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.errors import DataError
from runner.naming import normalised
from runner.nodes.bias.evaluation import (
    DETECTED_ABOVE,
    MATCH_ABOVE,
    OUTCOMES,
    HitRates,
    TargetScores,
    hit_rates,
    match_proposals,
    mean_interval,
    outcomes,
)
from runner.nodes.bias.evaluation_truth import name_parts
from runner.nodes.bias.scores import flag_exact
from runner.nodes.bias.statistics import FINDINGS, wilson_interval

Row = dict[str, Any]
Encode = Callable[[Sequence[str]], NDArray[np.floating[Any]]]
DIRECTIONS = ("truth_to_detected", "detected_to_truth")


class Found(NamedTuple):
    """One thing that a method says of a target: ``score`` > 0 where it favours the value; NaN where undefined."""

    target: str
    attribute: str | None
    value: str
    text: str
    score: float
    detected: bool


@dataclass(frozen=True)
class EvaluationRules:
    """``threshold``: a score counts from strictly above it; ``above``: a cosine matches from strictly above it."""

    threshold: float = DETECTED_ABOVE
    above: float = MATCH_ABOVE
    confidence: float = 0.95


def found_groups(
    groups: Iterable[Row],
    captions: Iterable[Row],
    template: str,
    *,
    threshold: float,
    rule: Literal["point", "verdict"] = "point",
) -> list[Found]:
    """The groups of an audit. ``rule`` point: |phi| strictly above ``threshold`` in exact fractions; verdict: its findings.

    A group's text is its first caption of the first draw; without one ``template`` with {target}, {attribute}, {value}.
    """
    rows = list(groups)
    text: dict[tuple[str, str, str], str] = {}
    for c in captions:
        if c["status"] == "kept" and c["resample"] == 0 and c["attribute"] is not None:
            text.setdefault((c["target"], c["attribute"], c["value"]), c["text"])
    flags = _point_flags(rows, threshold)
    return [
        Found(
            row["target"], row["attribute"], row["value"],
            text.get((row["target"], row["attribute"], row["value"])) or _worded(template, row),
            float("nan") if row["phi"] is None else row["phi"],
            bool(flag) if rule == "point" else row["verdict"] in FINDINGS,
        )
        for row, flag in zip(rows, flags, strict=True)
    ]  # fmt: skip


def _worded(template: str, row: Row) -> str:
    for name in ("target", "attribute", "value"):
        template = template.replace("{" + name + "}", normalised(row[name]))
    return template


def _point_flags(rows: Sequence[Row], threshold: float) -> NDArray[np.bool_]:
    """The paper's rule for each group, from the counts of all values of its attribute."""
    siblings: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(rows):
        siblings.setdefault((row["target"], row["attribute"], row.get("value_source")), []).append(i)
    flags = np.zeros(len(rows), bool)
    for places in siblings.values():
        flags[places] = flag_exact([rows[i]["k"] for i in places], [rows[i]["n"] for i in places], threshold)
    return flags


def found_keywords(keywords: Iterable[Row], threshold: float) -> list[Found]:
    """Rows of ``c2b_b2t`` with their sign turned: B2T is positive for a bias *against*, here positive means favoured."""
    return [
        Found(row["target"], None, row["keyword"], row["caption"], -row["score"], abs(row["score"]) > threshold)
        for row in keywords
        if row["score"] is not None
    ]


def common_targets(true: Iterable[str], audited: Iterable[str]) -> dict[str, str]:
    """{audited target: target of the ground truth} by equal names or synonyms. Raises ``DataError`` where none is common."""
    by_name: dict[str, str] = {}
    for name in true:
        for part in name_parts(name):
            by_name.setdefault(part, name)
    pairs = {a: by_name[p] for a in dict.fromkeys(audited) for p in reversed(name_parts(a)) if p in by_name}
    if not pairs:
        some = ", ".join(list(dict.fromkeys(by_name.values()))[:10])
        raise DataError(
            "no audited class is a target of the ground truth", hint=f"Its targets: {some}. Map labels with label_map."
        )
    return pairs


class Evaluation(NamedTuple):
    """Rows of ``c2b_match`` and ``c2b_eval``."""

    matches: list[Row]
    rates: list[Row]


def evaluate(
    truth: Sequence[Row], found: Sequence[Found], targets: Mapping[str, str], encode: Encode, rules: EvaluationRules
) -> Evaluation:
    """Match and rate the targets {audited: name in the ground truth}; each text is embedded once."""
    by_target: dict[str, list[Row]] = {}
    for row in truth:
        by_target.setdefault(row["target"], []).append(row)
    true_of = {audited: by_target.get(name, []) for audited, name in targets.items()}
    found_of: dict[str, list[Found]] = {audited: [] for audited in targets}
    for f in found:
        if f.target in found_of:
            found_of[f.target].append(f)
    vectors = _embedded(
        [r["caption"] for rows in true_of.values() for r in rows] + [f.text for fs in found_of.values() for f in fs],
        encode,
    )
    matches: list[Row] = []
    scored: list[TargetScores] = []
    for audited in targets:
        cosines = _cosines([r["caption"] for r in true_of[audited]], [f.text for f in found_of[audited]], vectors)
        pairs = match_proposals(cosines, rules.above)
        scores = _target_scores(true_of[audited], found_of[audited], pairs, rules.threshold)
        scored.append(scores)
        matches += _match_rows(audited, true_of[audited], found_of[audited], scores, cosines, rules.threshold)
    rates = hit_rates(scored, rules.threshold)
    rows = [row for name, r in zip(DIRECTIONS, rates, strict=True) for row in _rate_rows(name, list(targets), r, rules)]
    return Evaluation(matches, rows)


def _embedded(texts: Sequence[str], encode: Encode) -> dict[str, NDArray[np.float64]]:
    unique = list(dict.fromkeys(texts))
    return dict(zip(unique, np.asarray(encode(unique), np.float64), strict=True)) if unique else {}


def _cosines(
    true: Sequence[str], found: Sequence[str], vectors: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    if not true or not found:
        return np.zeros((len(true), len(found)))
    return np.stack([vectors[t] for t in true]) @ np.stack([vectors[t] for t in found]).T


def _target_scores(
    true: Sequence[Row], found: Sequence[Found], pairs: dict[int, int], threshold: float
) -> TargetScores:
    k = np.array([[row["k_with"], row["k_without"]] for row in true], np.int64).reshape(-1, 2)
    n = np.array([[row["n_with"], row["n_without"]] for row in true], np.int64).reshape(-1, 2)
    return TargetScores(
        np.array([row["score"] for row in true], np.float64),
        np.array([f.score for f in found], np.float64),
        pairs,
        flag_exact(k, n, threshold)[:, 0],
        np.array([f.detected for f in found], bool),
    )


def _match_rows(
    target: str,
    true: Sequence[Row],
    found: Sequence[Found],
    scores: TargetScores,
    cosines: NDArray[np.float64],
    threshold: float,
) -> list[Row]:
    """A row for each true bias, with its match where it has one, then one for each found thing without a match."""
    of_truth, of_found = outcomes(scores, threshold)
    rows: list[Row] = []
    for i, row in enumerate(true):
        j = scores.pairs.get(i)
        match = {} if j is None else {**_found_columns(found[j], of_found[j]), "cosine": float(cosines[i, j])}
        own = {
            "bias": row["bias"],
            "truth_text": row["caption"],
            "truth_score": row["score"],
            "truth_outcome": of_truth[i],
        }
        rows.append({"target": target, **own, **match})
    unmatched = sorted(set(range(len(found))) - set(scores.pairs.values()))
    return rows + [{"target": target, **_found_columns(found[j], of_found[j])} for j in unmatched]


def _found_columns(found: Found, outcome: str | None) -> Row:
    score = None if np.isnan(found.score) else found.score
    return {
        "attribute": found.attribute, "value": found.value, "found_text": found.text, "found_score": score,
        "found_outcome": outcome,
    }  # fmt: skip


def _rate_rows(direction: str, targets: Sequence[str], rates: HitRates, rules: EvaluationRules) -> list[Row]:
    total = rates.counts.sum(1)
    low, high = (100 * limit for limit in wilson_interval(rates.counts[:, 0], total, rules.confidence))
    rows = [
        _rate_row(direction, target, rates.counts[i], rates.percent[i], (low[i], high[i]), None)
        for i, target in enumerate(targets)
    ]
    rated = int((total > 0).sum())
    limits = mean_interval(rates.percent[:, 0], rules.confidence)
    return [_rate_row(direction, None, rates.counts.sum(0), rates.macro, limits, rated), *rows]


def _rate_row(
    direction: str,
    target: str | None,
    counts: NDArray[np.int64],
    percent: NDArray[np.float64],
    limits: tuple[float, float],
    rated: int | None,
) -> Row:
    def plain(x: float) -> float | None:
        return None if np.isnan(x) else float(x)

    numbers = dict(zip(("hits", "false_hits", "misses"), map(int, counts), strict=True))
    shares: Row = {name: plain(x) for name, x in zip(OUTCOMES, percent, strict=True)}
    return {
        "direction": direction, "target": target, "targets": rated, "biases": int(counts.sum()), **numbers, **shares,
        "hit_low": plain(limits[0]), "hit_high": plain(limits[1]),
    }  # fmt: skip

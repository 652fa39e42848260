"""A model beside the original it was made from: what is retained by benchmark and over all, items paired. Pure, but for reading tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from runner.errors import DataError
from runner.nodes.intervals import paired_difference_interval
from runner.nodes.vqa.aggregates import LIMITS, Estimate, estimate, full_scale, retained

if TYPE_CHECKING:
    from runner.artifacts import VqaScores

Row = Mapping[str, Any]
ALONE = ("mean", "yes_no")
"""Aggregates that are the mean score of items."""
SAME = 1e-12
"""Differences nearer than this are one but for rounding."""


class Pair(NamedTuple):
    """One benchmark asked of both: its entry, its largest score, estimates whose draws are paired, items in both, and the row of
    ``bench_score`` without model."""

    benchmark: Row
    scale: float
    ours: Estimate
    original: Estimate
    row: dict[str, Any]


def compare(original: VqaScores, other: VqaScores, label: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of ``bench_score`` of one model, and its row of ``bench_aggregate``.

    Only items that both were asked count (``n``); where one failed it scores 0, as in the benchmark's own score. Raises ``DataError``
    where there is no such item in any benchmark, or the two were scored by different rules.
    """
    first, second = joined(original), joined(other)
    pairs = [
        _pair(benchmark, first.get(name, {}), second[name])
        for benchmark in original.benchmarks
        if (name := str(benchmark["benchmark"])) in second and _same_rules(benchmark, other)
    ]
    pairs = [pair for pair in pairs if pair.row["n"]]
    if not pairs:
        raise DataError(f"{label}: no question was put to both it and the original {original.label}")
    return [{"model": label, **pair.row} for pair in pairs], {"model": label, **aggregate_row(pairs)}


def joined(scores: VqaScores) -> dict[str, dict[str, dict[str, Any]]]:
    """Items with what was answered, by benchmark and item."""
    told = {(r["benchmark"], r["item_id"]): r for r in scores.answers.to_pylist()}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for item in scores.items.to_pylist():
        answer = told.get((item["benchmark"], item["item_id"]))
        if answer is not None:
            found.setdefault(item["benchmark"], {})[item["item_id"]] = item | answer
    return found


def _same_rules(benchmark: Row, other: VqaScores) -> bool:
    theirs = next((b for b in other.benchmarks if b["benchmark"] == benchmark["benchmark"]), None)
    if theirs is None:
        return False
    if (theirs["metric"], theirs["aggregate"]) != (benchmark["metric"], benchmark["aggregate"]):
        raise DataError(
            f"{other.label}: {benchmark['benchmark']} was scored by {theirs['metric']}, the original by {benchmark['metric']}",
            hint="evaluate both on the same items",
        )
    return True


def _pair(benchmark: Row, first: Mapping[str, Row], second: Mapping[str, Row]) -> Pair:
    """``first``, ``second``: rows of the original and of the model, by item."""
    shared = [name for name in first if name in second]
    original, ours = (estimate(benchmark, [rows[name] for name in shared]) for rows in (first, second))
    scale = full_scale(benchmark, [first[name] for name in shared])
    low, high = difference_interval(benchmark, [(first[name], second[name]) for name in shared], ours, original, scale)
    known = bool(shared) and not np.isnan(ours.value - original.value)
    row = {
        "benchmark": benchmark["benchmark"], "metric": benchmark["metric"], "n": len(shared), "ci_low": low, "ci_high": high,
        "value": ours.value if known else None, "value_original": original.value if known else None,
        "retained": ours.value / original.value if known and original.value else None,
        "difference": (ours.value - original.value) / scale if known else None,
    }  # fmt: skip
    return Pair(benchmark, scale, ours, original, row)


def difference_interval(
    benchmark: Row, rows: Sequence[tuple[Row, Row]], ours: Estimate, original: Estimate, scale: float
) -> tuple[float | None, float | None]:
    """95 % limits of (ours - original) / scale. Shares of items that are right or wrong, each on its own: Newcombe's interval of a paired
    difference (method 10); all else: percentiles of paired bootstrap differences. Where mean scores of 0..1 differ by the same in every
    draw, which would leave no width, Newcombe's interval over the groups takes their place."""
    values = np.array([[a["score"] or 0.0, b["score"] or 0.0] for a, b in rows], np.float64).reshape(-1, 2)
    alone = all(a.get("pair_id") is None for a, _ in rows)
    if len(rows) and benchmark["aggregate"] in ALONE and alone and np.isin(values, (0.0, 1.0)).all():
        right = values.astype(bool)
        counts = [int((right == pattern).all(1).sum()) for pattern in ((1, 1), (1, 0), (0, 1), (0, 0))]
        low, high = paired_difference_interval(*counts)
        return float(low), float(high)
    draws = (ours.draws - original.draws) / scale
    if (
        len(rows)
        and benchmark["aggregate"] in ALONE
        and values.min() >= 0
        and values.max() <= 1
        and np.ptp(draws) < SAME
    ):
        groups = {a["item_id"] if a.get("pair_id") is None else ("pair", a["pair_id"]) for a, _ in rows}
        first, second = values.mean(0).tolist()
        return _without_spread(first, second, len(groups))
    return _limits(draws)


def _without_spread(original: float, ours: float, groups: int) -> tuple[float, float]:
    """Newcombe's limits of ours - original for shares of ``groups`` that differ in one direction only."""
    counts = [min(original, ours), max(original - ours, 0.0), max(ours - original, 0.0), 1 - max(original, ours)]
    low, high = paired_difference_interval(*(count * groups for count in counts))
    return float(low), float(high)


def aggregate_row(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Retained performance over benchmarks, in percent; the interval of the ratio of means pairs items within benchmarks."""
    ratio, mean = retained(
        [pair.ours.value for pair in pairs], [pair.original.value for pair in pairs], [pair.scale for pair in pairs]
    )
    ours, original = (
        np.mean([getattr(pair, side).draws / pair.scale for pair in pairs], axis=0) for side in ("ours", "original")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = _limits(100 * ours / original)
    return {
        "avg_ratio_of_means": _number(ratio), "ci_low": low, "ci_high": high, "avg_mean_of_ratios": _number(mean),
        "benchmarks": len(pairs),
    }  # fmt: skip


def _limits(draws: Any) -> tuple[float | None, float | None]:
    known = draws[np.isfinite(draws)]
    if not len(known):
        return None, None
    low, high = np.percentile(known, LIMITS)
    return float(low), float(high)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

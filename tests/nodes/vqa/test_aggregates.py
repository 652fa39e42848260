"""Scores of benchmarks: published rows, points by hand, intervals that cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.tables import arrow_table
from runner.nodes.intervals import wilson_interval
from runner.nodes.vqa.aggregates import aggregate, estimate, retained

# Cells of the papers' project page: MMMU, SQA, MathV, AI2D, MME-C, MME-P, POPE, DocVQA, GQA; the last one is its AVG-%.
ORIGINAL = [35.10, 68.67, 26.70, 54.80, 363.21, 1511.33, 86.99, 28.10, 61.98]
ROWS = {
    "width 15": ([32.40, 63.21, 23.10, 45.40, 268.93, 1432.47, 86.57, 23.90, 59.34], 90.87),
    "width 30": ([31.00, 54.29, 15.80, 37.80, 253.21, 1174.93, 86.29, 17.90, 52.59], 79.88),
    "layer 15": ([32.70, 59.64, 14.80, 32.10, 210.71, 921.88, 78.69, 16.50, 42.18], 72.22),
    "layer 30": ([31.80, 55.23, 13.50, 29.70, 202.14, 701.83, 86.38, 14.60, 42.77], 69.18),
}
SCALES = [100, 100, 100, 100, 800, 2000, 100, 100, 100]


@pytest.mark.parametrize("cut", ROWS)
def test_published_averages_come_out_of_their_cells(cut: str) -> None:
    values, expected = ROWS[cut]
    ratio, each = retained(values, ORIGINAL, SCALES)
    assert ratio == pytest.approx(expected, abs=0.02)
    assert each == pytest.approx(100 * np.mean([v / o for v, o in zip(values, ORIGINAL, strict=True)]))
    assert each != pytest.approx(expected, abs=0.1)  # it is not the mean of ratios


def test_retained_of_nothing_is_not_a_number() -> None:
    assert all(np.isnan(retained([], [])))
    ratio, each = retained([0.5, 0.5], [0.0, 1.0])
    assert ratio == pytest.approx(100) and np.isnan(each)


def benchmark(**changes: Any) -> dict[str, Any]:
    plain = {"benchmark": "own", "metric": "exact_match", "aggregate": "mean", "full_scale": 1.0, "n_total": 100}
    return {**plain, **changes}


def answered(scores: list[float | None], **columns: list[Any]) -> list[dict[str, Any]]:
    rows = [
        {"item_id": str(i), "category": None, "pair_id": None, "answers": ["x"], "parsed": "x", "score": s}
        for i, s in enumerate(scores)
    ]
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(rows)]


def test_rates_have_wilsons_interval_and_failures_count_0() -> None:
    [row] = aggregate(benchmark(), answered([1, 1, 0, None]))
    low, high = wilson_interval(2, 4)
    assert (row["value"], row["n"], row["n_failed"], row["n_total"]) == (0.5, 4, 1, 100)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((float(low), float(high)))
    arrow_table("vqa_score", [row | {"model": "m"}])


def test_categories_come_after_the_whole() -> None:
    rows = aggregate(benchmark(category_totals={"b": 60}), answered([1, 0, 1], category=["b", "b", "a"]))
    assert [(r["category"], r["value"], r["n_total"]) for r in rows] == [
        (None, pytest.approx(2 / 3), 100),
        ("b", 0.5, 60),
        ("a", 1, 1),
    ]


def test_mean_of_categories() -> None:
    rows = aggregate(benchmark(aggregate="category_mean"), answered([1, 0, 0, 1], category=["a", "a", "a", "b"]))
    assert rows[0]["value"] == pytest.approx((1 / 3 + 1) / 2)


def test_questions_of_one_picture_are_drawn_together() -> None:
    scores: list[float | None] = [1.0, 1.0, 0.0, 0.0] * 10
    alone = aggregate(benchmark(), answered(scores))[0]
    pairs = [str(i // 4) + str(i % 4 // 2) for i in range(40)]
    together = aggregate(benchmark(), answered(scores, pair_id=pairs))[0]
    assert alone["value"] == together["value"] == 0.5
    width = [row["ci_high"] - row["ci_low"] for row in (alone, together)]
    assert width[1] / width[0] == pytest.approx(np.sqrt(2), rel=0.15)


def test_the_bootstrap_has_the_error_of_a_mean() -> None:
    scores = list(np.random.default_rng(0).uniform(size=400))
    row = aggregate(benchmark(metric="anls"), answered(scores))[0]
    half = 1.96 * np.std(scores) / np.sqrt(400)
    assert (row["ci_high"] - row["ci_low"]) / 2 == pytest.approx(half, rel=0.1)


def test_all_alike_still_has_a_width() -> None:
    row = aggregate(benchmark(), answered([1.0] * 6, pair_id=["a", "a", "b", "b", "c", "c"]))[0]
    low, _ = wilson_interval(3, 3)
    assert row["ci_low"] == pytest.approx(float(low)) and row["ci_high"] == 1


def test_points_of_mme_by_hand() -> None:
    """Existence: three of four answers, one of two pictures whole; color: all."""
    scores: list[float | None] = [1, 1, 1, 0, 1, 1]
    category, pair = ["existence"] * 4 + ["color"] * 2, ["e1", "e1", "e2", "e2", "c1", "c1"]
    rows = aggregate(
        benchmark(metric="yes_no", aggregate="mme", full_scale=2000.0),
        answered(scores, category=category, pair_id=pair),
        draws=50,
    )
    points = {row["category"]: row for row in rows if row["metric"] == "yes_no"}
    assert points["existence"]["value"] == pytest.approx(75 + 50) and points["color"]["value"] == pytest.approx(200)
    assert points[None]["value"] == pytest.approx(325) and points[None]["share"] == pytest.approx(325 / 400)
    plus = {row["category"]: row["value"] for row in rows if row["metric"] == "accuracy_plus"}
    assert plus == {None: pytest.approx(2 / 3), "existence": 0.5, "color": 1}


def test_whole_pairs() -> None:
    rows = aggregate(benchmark(aggregate="pairs"), answered([1, 0, 1, 1], pair_id=["a", "a", "b", "b"]))
    assert {row["metric"]: row["value"] for row in rows} == {"exact_match": 0.5, "accuracy": 0.75}


@given(
    st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no", None])), min_size=1, max_size=30)
)
def test_yes_and_no_by_counting(pairs: list[tuple[str, str | None]]) -> None:
    rows = answered([float(t == s) for t, s in pairs], answers=[[t] for t, _ in pairs], parsed=[s for _, s in pairs])
    found = {
        row["metric"]: row["value"] for row in aggregate(benchmark(metric="yes_no", aggregate="yes_no"), rows, draws=5)
    }
    tp, said, true = (
        sum(test)
        for test in (
            [t == s == "yes" for t, s in pairs],
            [s == "yes" for _, s in pairs],
            [t == "yes" for t, _ in pairs],
        )
    )
    share = {
        "yes_no": sum(t == s for t, s in pairs) / len(pairs), "yes_ratio": said / len(pairs), "precision": tp / said if said else None,
        "recall": tp / true if true else None, "f1": 2 * tp / (said + true) if said + true else None,
    }  # fmt: skip
    assert found == {name: value if value is None else pytest.approx(value) for name, value in share.items()}


def test_draws_of_two_models_are_paired_and_do_not_hang_on_order() -> None:
    first: list[float | None] = [1, 0, 1, 1, 0, 1, 0, 0]
    one, other = answered(first), answered(first)[::-1]
    assert np.array_equal(estimate(benchmark(), one).draws, estimate(benchmark(), other).draws)
    worse = answered([s and 0.0 if i == 3 else s for i, s in enumerate(first)])
    assert (estimate(benchmark(), one).draws >= estimate(benchmark(), worse).draws).all()

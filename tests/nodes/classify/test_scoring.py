"""Accuracies and their intervals: golden numbers and identities."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import about

from results.tables import arrow_table
from runner.artifacts import ClosedAnswers
from runner.context import local_context
from runner.nodes.classify.matching import strict_match
from runner.nodes.classify.scoring import mean_accuracy, seed_accuracy
from runner.nodes.classify.steps import score

SEA = ["crab", "hermit crab", "dog", "cat", "Crab apple"]


def wilson(k, n, z=1.959963984540054):
    """The two solutions of (k/n - p)^2 = z^2 p (1 - p) / n."""
    return sorted(np.roots([1 + z * z / n, -2 * k / n - z * z / n, (k / n) ** 2]).real)


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("crab", 0), ("a hermit crab", 1), ("  HERMIT CRAB. ", 1), ("crab apple", 4), ("lobster", None), ("", None),
        (None, None), ("cat or dog", None), ("dog, hermit crab", 1),
    ],
)  # fmt: skip
def test_the_longest_name_is_what_is_meant(answer, index):
    assert strict_match(answer, SEA) == index


def test_a_name_of_two_classes_is_never_unique():
    assert strict_match("crane", ["crane", "Crane ", "dog"]) is None
    assert strict_match("anything", ["", "dog"]) is None


@given(st.integers(1, 60), st.data())
@settings(deadline=None)
def test_one_seed_has_wilsons_interval(n, data):
    k = data.draw(st.integers(0, n))
    found = seed_accuracy([[1.0] * k + [0.0] * (n - k)], [7])
    assert found.value == pytest.approx(k / n) and found.sd is None and found.by_seed == {7: pytest.approx(k / n)}
    np.testing.assert_allclose([found.low, found.high], wilson(k, n), atol=1e-7)


def test_several_seeds_have_a_mean_a_spread_and_a_wider_interval():
    a, b = [1, 1, 1, 0, 0, 1, 1, 1, 0, 1], [1, 1, 1, 0, 0, 1, 0, 0, 0, 1]
    found = seed_accuracy([a, b], [0, 1])
    assert found.value == pytest.approx(0.6)
    assert found.sd == pytest.approx(math.sqrt(2) * 0.1)
    by_picture = np.mean([a, b], axis=0)
    variance = by_picture.var() / 10 + 0.02 / 2
    effective = 0.6 * 0.4 / variance
    np.testing.assert_allclose([found.low, found.high], wilson(0.6 * effective, effective), atol=1e-9)
    same = seed_accuracy([a, a, a], [0, 1, 2])
    np.testing.assert_allclose(same[1:3], seed_accuracy([a], [0])[1:3], atol=1e-12)
    assert same.sd == pytest.approx(0, abs=1e-12)


def test_a_mean_of_datasets_counts_each_once():
    parts = [seed_accuracy([[1.0] * 9 + [0.0]], [0]), seed_accuracy([[1.0] * 50 + [0.0] * 50], [0])]
    found = mean_accuracy(parts)
    assert found.value == pytest.approx(0.7)
    (l1, u1), (l2, u2) = wilson(9, 10), wilson(50, 100)
    assert found.low == pytest.approx(0.7 - math.hypot(0.9 - l1, 0.5 - l2) / 2)
    assert found.high == pytest.approx(0.7 + math.hypot(u1 - 0.9, u2 - 0.5) / 2)
    one = mean_accuracy(parts[:1])
    np.testing.assert_allclose(one[:3], parts[0][:3], atol=1e-12)


def test_the_spread_of_a_mean_is_over_the_seeds_that_all_have():
    a = seed_accuracy([[1, 1], [1, 0], [0, 0]], [0, 1, 2])
    b = seed_accuracy([[1, 0], [1, 1]], [1, 0])
    found = mean_accuracy([a, b])
    assert found.by_seed == {0: 1.0, 1: 0.5}
    assert found.sd == pytest.approx(math.sqrt(0.125))


def answers(method, said, *, target="crab", seed=0, replied=False):
    rows = [
        {"method": method, "model": "m", "shots": 0, "dataset": "sea", "sample_id": f"s{i}", "seed": seed,
         "target": target, "prediction": text, "failure": None if text is not None else "refused",
         "reply": text if replied else None}
        for i, text in enumerate(said)
    ]  # fmt: skip
    return ClosedAnswers([about("sea", SEA, None)], method, {}, arrow_table("closed_world_answer", rows))


def test_inclusion_credits_nested_names_and_lists_and_the_strict_rule_does_not(tmp_path):
    ctx = local_context(tmp_path)
    said = ["crab", "Hermit Crab", "a crab, I think", "dog, crab", None, "cat"]
    scored = score(ctx, answers=[answers("lmm", said, replied=True)])
    rows = scored.predictions.to_pylist()
    assert [r["correct_inclusion"] for r in rows] == [True, True, True, True, False, False]
    assert [r["correct_strict"] for r in rows] == [True, False, True, True, False, False]
    summary = {(r["level"], r["metric"]): r for r in scored.summary.to_pylist()}
    assert {level for level, _ in summary} == {"dataset", "all"}  # a dataset without a group makes no group
    dataset = summary["dataset", "accuracy_inclusion"]
    assert (dataset["value"], dataset["n"], dataset["failures"], dataset["seeds"]) == (pytest.approx(4 / 6), 6, 1, 1)
    np.testing.assert_allclose([dataset["low"], dataset["high"]], wilson(4, 6), atol=1e-9)
    assert summary["dataset", "accuracy_strict"]["value"] == pytest.approx(0.5)


def test_without_a_reply_inclusion_is_top_1(tmp_path):
    ctx = local_context(tmp_path)
    said = ["crab", "hermit crab", "cat", None]  # as contrastive methods answer: a class, or nothing
    scored = score(ctx, answers=[answers("knn", said), answers("lmm", said, replied=True)])
    right = {"knn": [True, False, False, False], "lmm": [True, True, False, False]}
    for method, expected in right.items():
        rows = [row for row in scored.predictions.to_pylist() if row["method"] == method]
        assert [row["correct_inclusion"] for row in rows] == expected
    values = {r["method"]: r["value"] for r in scored.summary.to_pylist() if r["metric"] == "accuracy_inclusion"}
    assert values == {"knn": pytest.approx(0.25), "lmm": pytest.approx(0.5)}


def test_methods_that_saw_other_pictures_are_named(tmp_path):
    ctx = local_context(tmp_path)
    score(ctx, answers=[answers("one", ["crab"] * 3), answers("two", ["crab"] * 5)])
    assert [m["text"] for m in ctx.journal.messages] == [
        "methods answered about different pictures (one 3, two 5; in common 3)"
    ]

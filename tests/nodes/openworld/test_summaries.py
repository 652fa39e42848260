"""Means, their intervals, groups and error cells, against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_material import row

from runner.nodes.openworld import summaries
from runner.nodes.openworld.summaries import bootstrap_means, cell_rows, cube, summary_rows

LABELS = {"chunker": "rules", "judge": None, "encoder": "letters"}


def summary(rows, values, groups=None, draws=200, unscored=None):
    columns = {"m": np.array(values, float)}
    missing = {"m": np.isnan(columns["m"]) if unscored is None else np.array(unscored)}
    said = []
    made = summary_rows(rows, columns, missing, groups or {}, draws=draws, seed=1, labels=LABELS, say=said.append)
    return {(r["method"], r["level"], r["name"]): r for r in made}, said


def test_the_bootstrap_is_the_mean_over_drawn_pictures():
    values = np.array([[[1.0, 0.5], [2.0, np.nan], [4.0, 1.5]]])
    drawn = np.random.default_rng(5).integers(3, size=(50, 3))
    with np.errstate(invalid="ignore"):
        expected = [[np.mean(values[0, d, 0]), _known_mean(values[0, d, 1])] for d in drawn]
    made = bootstrap_means(values, 50, np.random.default_rng(5))
    np.testing.assert_allclose(made, expected, atol=1e-12)


def _known_mean(values):
    known = values[~np.isnan(values)]
    return known.mean() if len(known) else np.nan


def test_a_picture_is_drawn_with_all_its_seeds_in_blocks(monkeypatch):
    values = np.random.default_rng(0).normal(size=(3, 7, 2))
    drawn = np.random.default_rng(9).integers(7, size=(20, 7))
    expected = values[:, drawn].mean(2).mean(0)
    np.testing.assert_allclose(bootstrap_means(values, 20, np.random.default_rng(9)), expected, atol=1e-12)
    monkeypatch.setattr(summaries, "_WEIGHTS_AT_ONCE", 30)
    np.testing.assert_allclose(bootstrap_means(values, 20, np.random.default_rng(9)), expected, atol=1e-12)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for trial in range(200):
        rows = [row("t", "p", str(i)) for i in range(60)]
        found, _ = summary(rows, rng.random(60) < 0.3, draws=300)
        one = found["zero_shot", "dataset", "dtd"]
        hits += one["low"] <= 0.3 <= one["high"]
        assert trial or one["low"] <= one["value"] <= one["high"]
    assert 0.87 <= hits / 200 <= 0.99


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 4), st.floats(-1, 1)), min_size=1))
def test_group_values_are_plain_means_of_datasets(entries):
    entries = list({entry[:3]: entry for entry in entries}.values())
    rows = [row("t", "p", str(sample), dataset=d, seed=seed) for d, seed, sample, _ in entries]
    values = [value for *_, value in entries]
    found, said = summary(rows, values, {"g": ["a", "b"], "absent": ["z"]}, draws=20)
    means = {}
    for dataset in sorted({d for d, *_ in entries}):
        by_seed = {}
        for d, seed, _, value in entries:
            if d == dataset:
                by_seed.setdefault(seed, []).append(value)
        per_seed = [np.mean(own) for own in by_seed.values()]
        means[dataset] = np.mean(per_seed)
        one = found["zero_shot", "dataset", dataset]
        assert one["value"] == pytest.approx(means[dataset], abs=1e-9) and one["seeds"] == len(by_seed)
        assert one["sd"] == (None if len(per_seed) < 2 else pytest.approx(np.std(per_seed, ddof=1), abs=1e-9))
    assert found["zero_shot", "all", "all"]["value"] == pytest.approx(np.mean(list(means.values())), abs=1e-9)
    assert found["zero_shot", "all", "all"]["n"] == len(entries) and not said
    inside = [means[d] for d in "ab" if d in means]
    assert (("zero_shot", "group", "g") in found) == bool(inside)
    if inside:
        assert found["zero_shot", "group", "g"]["value"] == pytest.approx(np.mean(inside), abs=1e-9)
    assert ("zero_shot", "group", "absent") not in found


def test_printed_group_values_of_the_paper():
    """Qwen2-VL zero-shot: SS 55.8 and 48.1 give 51.95; LLaVA-OneVision: LI 81.3 and 25.0 give 53.15."""
    for first, second, printed in ((0.558, 0.481, 0.5195), (0.813, 0.250, 0.5315)):
        rows = [row("t", "p", "0", dataset="caltech101")] + [row("t", "p", str(i), dataset="sun397") for i in range(9)]
        found, _ = summary(rows, [first] + [second] * 9, {"prototypical": ["caltech101", "sun397"]})
        group = found["zero_shot", "group", "prototypical"]
        assert group["value"] == pytest.approx(printed) and group["low"] == group["high"] == pytest.approx(printed)


def test_a_player_without_a_dataset_has_no_mean_over_it():
    rows = [row("t", "p", dataset=d) for d in ("a", "b")] + [row("t", "p", dataset="a", method="other")]
    found, said = summary(rows, [0, 1, 1], {"g": ["a", "b"], "only": ["a"]})
    assert ("other", "group", "g") not in found and ("other", "all", "all") not in found
    assert found["other", "group", "only"]["value"] == 1 and found["zero_shot", "group", "g"]["value"] == 0.5
    assert len(said) == 2 and all("other/base/lmm has no answers on b" in text for text in said)


def test_what_has_no_score():
    rows = [row("t", "p", str(i)) for i in range(3)]
    found, _ = summary(rows, [1.0, np.nan, 0.0], unscored=[True, True, False])
    assert {k: found["zero_shot", "dataset", "dtd"][k] for k in ("value", "n", "unscored")} == {
        "value": 0.5,
        "n": 2,
        "unscored": 2,
    }
    found, _ = summary(rows, [np.nan] * 3)
    one = found["zero_shot", "dataset", "dtd"]
    assert one["value"] is None and one["low"] is None and one["n"] == 0
    found, _ = summary(rows, [1, 0, 1], draws=0)
    assert found["zero_shot", "dataset", "dtd"]["low"] is None


def test_draws_depend_on_seed_and_dataset_only():
    rows = [row("t", "p", str(i)) for i in range(20)]
    values = np.random.default_rng(0).random(20)
    alone, _ = summary(rows, values)
    beside, _ = summary([row("t", "p", "0", dataset="a"), *rows], [0.5, *values])
    assert alone["zero_shot", "dataset", "dtd"] == beside["zero_shot", "dataset", "dtd"]


def test_cube():
    rows = [row("t", "p", sample, seed=seed) for sample, seed in (("b", 3), ("a", 3), ("a", 1))]
    made = cube(rows, np.array([[1.0], [2.0], [3.0]]), np.zeros((3, 1), bool))
    assert made.seeds == (1, 3)
    np.testing.assert_array_equal(made.values[..., 0], [[3.0, np.nan], [2.0, 1.0]])


def test_cells():
    scores = [row("t", "p", str(i)) | {"error_cell": cell} for i, cell in enumerate(["x", "x", "y", None])]
    rows = cell_rows(scores, "quadrant", "error_cell", ["x", "y", "z"], 0.6)
    assert [(r["cell"], r["n"], r["share"], r["threshold"]) for r in rows] == [
        ("x", 2, 2 / 3, 0.6), ("y", 1, 1 / 3, 0.6), ("z", 0, 0.0, 0.6),
    ]  # fmt: skip
    assert cell_rows([scores[3]], "quadrant", "error_cell", ["x"], 0.6) == []


def test_a_share_that_never_varies_has_an_interval_all_the_same():
    rows = [row("t", "p", str(i)) for i in range(50)]
    values = {"text_inclusion": np.zeros(50), "exact_match": np.ones(50), "n_items": np.ones(50)}
    missing = {name: np.zeros(50, bool) for name in values}
    found = {
        row["metric"]: (row["low"], row["value"], row["high"])
        for row in summary_rows(
            rows, values, missing, {}, draws=4000, seed=1, labels=LABELS, say=lambda text: None,
        ) if row["level"] == "dataset"
    }  # fmt: skip
    # Jeffreys' interval for 0 of 50 ends at the 97.5 % point of Beta(1/2, 50 + 1/2), 0.0488.
    assert found["text_inclusion"][:2] == (0.0, 0.0) and found["text_inclusion"][2] == pytest.approx(0.0489, abs=0.006)
    assert found["exact_match"][1:] == (1.0, 1.0) and found["exact_match"][0] == pytest.approx(0.9511, abs=0.006)
    assert found["n_items"] == (1.0, 1.0, 1.0)

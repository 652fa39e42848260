"""Which samples are kept: votes, the threshold, and the file of kept ids."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.tables import arrow_table
from runner.artifacts import ProactiveEpisodes
from runner.errors import DataError
from runner.nodes.proactive.filtering import (
    hits_needed,
    is_kept,
    judged,
    probe_notes,
    probe_summary,
    read_kept,
    recall,
    votes_of,
    write_kept,
)
from runner.nodes.proactive.samples import sample_row
from tests.nodes.proactive.material import record


def test_six_of_the_papers_22_models_drop_a_sample() -> None:
    assert hits_needed(22) == 6
    assert is_kept(5, 22)
    assert not is_kept(6, 22)
    assert not is_kept(1, 1)
    assert is_kept(0, 1)
    assert is_kept(0, 0)


def test_recall_of_the_papers_filter_and_of_a_binomial_test() -> None:
    assert round(100 * recall(0.4, 22), 1) == 92.8
    assert round(100 * recall(0.4, 22, 10 / 22), 1) == 37.6


@given(st.floats(0, 1), st.integers(1, 9), st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1.0]))
def test_recall_counts_the_outcomes_that_drop(p: float, n: int, threshold: float) -> None:
    chance = 0.0
    for outcome in itertools.product([0, 1], repeat=n):
        weight = 1.0
        for hit in outcome:
            weight *= p if hit else 1 - p
        chance += weight * (not is_kept(sum(outcome), n, threshold))
    assert recall(p, n, threshold) == pytest.approx(chance, abs=1e-12)


@given(st.integers(1, 200), st.integers(1, 100))
def test_dropped_is_at_least_the_share_without_rounding(n: int, percent: int) -> None:
    for hits in range(n + 1):
        assert is_kept(hits, n, percent / 100) == (hits == 0 or 100 * hits < percent * n)


# --- the file --------------------------------------------------------------------------------------------------------


def rows_of(*kept: bool) -> list[dict[str, Any]]:
    return [sample_row(record("QD", i), source_id="s", kept=keep) for i, keep in enumerate(kept)]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rows = [*rows_of(True, False, True), sample_row(record("MVP-N", 9), source_id="s", kept=False)]
    write_kept(tmp_path / "kept.jsonl", rows)
    assert read_kept(tmp_path / "kept.jsonl") == {"QD": {"0", "2"}, "MVP-N": frozenset()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("k.json", '{"ROD": [1, "2"], "QuickDraw": []}'),
        ("k.jsonl", '{"scenario": "ROD", "id": 1}\n{"scenario": "Realistic-Occlusion-Dataset", "id": "2"}\n'
                    '{"scenario": "QD", "id": 5, "kept": false}\n'),
        ("k.csv", "\ufeffscenario,id,kept\nROD,1,true\nROD,2,1\nQD,9,False\n"),
        ("K.CSV", "id,scenario\n1,ROD\n2,ROD\n"),
    ],
)  # fmt: skip
def test_three_formats_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf8")
    found = read_kept(tmp_path / name)
    assert found["ROD"] == {"1", "2"}
    assert found.get("QD", frozenset()) == frozenset()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("k.txt", "1", "ends in .json, .jsonl, .csv"),
        ("k.json", "[1, 2]", "lists of ids by scenario"),
        ("k.json", '{"ROD": [1', "line 1, column"),
        ("k.json", '{"ROD": [true]}', r"'ROD'\[0\]: expected an id"),
        ("k.json", '{"RODE": []}', "no scenario 'RODE'"),
        ("k.json", "{}", "no id in it"),
        ("k.jsonl", '{"scenario": "ROD"}', "k.jsonl:1: expected an id"),
        ("k.jsonl", '{"scenario": ["ROD"], "id": 1}', "k.jsonl:1: no scenario"),
        ("k.jsonl", '{"scenario": "ROD", "id": 1, "kept": "maybe"}', "k.jsonl:1: `kept` is true or false"),
        ("k.csv", "scenario;id\nROD;1\n", "expected the columns scenario, id"),
        ("k.csv", "scenario,id\nROD\n", "k.csv:2: expected an id"),
        ("k.csv", "", "expected the columns"),
    ],
)
def test_a_file_that_is_wrong_is_one_error_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf8")
    with pytest.raises(DataError, match=message):
        read_kept(tmp_path / name)


def test_a_table_of_other_bytes_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "k.csv").write_bytes(b"scenario,id\nROD,\xff\n")
    with pytest.raises(DataError, match="no CSV in UTF-8"):
        read_kept(tmp_path / "k.csv")


# --- votes -----------------------------------------------------------------------------------------------------------


def probe(label: str, right: Sequence[tuple[str, bool | None]], **settings: Any) -> ProactiveEpisodes:
    """Episodes of one draw each, or of several where a sample is named again; None: it failed."""
    seen: dict[str, int] = {}
    rows = []
    for sample, first in right:
        draw = seen[sample] = seen.get(sample, -1) + 1
        rows.append({
            "model": label, "episode_id": f"QD/{sample}/{draw}", "scenario": "QD", "sample_id": sample, "draw": draw, "mode": "mcqa",
            "hint": False, "history": False, "shots": 0, "options_mode": "native", "match": "robust",
            "status": "error" if first is None else "ok", "first_turn_correct": first,
        })  # fmt: skip
    empty = {name: arrow_table(name, []) for name in ("pb_turns", "pb_judgements")}
    return ProactiveEpisodes(
        {"name": label}, label, {"mode": "mcqa", "split": "test"} | settings,
        arrow_table("pb_episodes", rows), empty["pb_turns"], empty["pb_judgements"],
    )  # fmt: skip


def test_each_model_votes_once_and_errors_do_not_vote() -> None:
    probes = [
        probe("a", [("0", True), ("1", False), ("2", None)]),
        probe("b", [("0", True), ("0", True), ("0", False), ("1", True), ("1", False)]),
        probe("c", [("0", False), ("2", True)]),
    ]
    rows = judged(rows_of(True, True, True, True), votes_of(probes), 0.5)
    assert [(row["probe_hits"], row["n_probes"], row["kept"]) for row in rows] == [
        (2, 3, False),  # two of three draws are a vote
        (0, 2, True),  # one of two draws is none
        (1, 1, False),
        (None, 0, True),
    ]


def test_what_was_dropped_before_stays_dropped_and_other_splits_are_left_alone() -> None:
    train = sample_row(record("QD", 0), source_id="s", split="train")
    votes = votes_of([probe("a", [("0", True), ("1", False)])])
    rows = judged([*rows_of(True, False), train], votes, 0.25)
    assert [row["kept"] for row in rows] == [False, False, True]
    assert votes_of([probe("a", [("0", True)], split="train")]) == {("QD", "0", "train"): (1, 1)}


def test_probes_of_another_mode_or_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="mode 'reference'"):
        votes_of([probe("a", [], mode="reference")])
    with pytest.raises(DataError, match="two probes are called 'a'"):
        votes_of([probe("a", []), probe("a", [])])


def test_summary_says_what_guessing_would_drop_and_notes_warn_of_few_probes() -> None:
    votes = votes_of([probe("a", [("0", True), ("1", True)])])
    rows = judged(rows_of(True, True, True), votes)
    summary = probe_summary(rows, ["a"], 0.25)
    assert summary["scenarios"]["QD"] == {"probed": 2, "kept": 0, "dropped_by_guessing": pytest.approx(1 / 6)}
    notes = "\n".join(probe_notes(json.loads(json.dumps(summary))))
    assert "one right guess drops a sample" in notes
    assert "1 samples were answered by no probe" in notes
    assert "QD: no probed sample is kept" in notes

"""Plain rows become items and conversations, or one error that says where."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.data.benchmarks.building import climbs, conversations, turns_problem, vqa_items
from runner.errors import DataError

CORPUS = [{"folder": "/somewhere", "name": "pictures"}]
BENCHMARK = {"benchmark": "own", "metric": "exact_match"}


def item(**changes: Any) -> dict[str, Any]:
    plain = {"benchmark": "own", "item_id": "1", "question": "What is it?", "answers": ["cat"], "uris": ["a.png"]}
    return {**plain, "source_id": "pictures", **changes}


def record(**changes: Any) -> dict[str, Any]:
    turns = [("user", "<image>\nWhat is it?"), ("assistant", "A cat.")]
    return {"record_id": "1", "domain": "d", "turns": turns, "uris": ["a.png"], "source_id": "pictures", **changes}


def test_items_are_filled_and_typed() -> None:
    items = vqa_items(
        [BENCHMARK], CORPUS, [item(extra={"unit": "cm"}), item(item_id=2, choices=["a", "b"], answers=["B"])]
    )
    assert (
        items.benchmarks[0] | {"n_total": 2, "limit": None, "aggregate": "mean", "full_scale": 1.0}
        == items.benchmarks[0]
    )
    rows = items.items.to_pylist()
    assert json.loads(rows[0]["extra"]) == {"unit": "cm"} and rows[0]["choices"] is None
    assert rows[1]["item_id"] == "2" and rows[1]["choices"] == ["a", "b"] and rows[1]["extra"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answers": []}, "answers"),
        ({"answers": [3]}, "answers"),
        ({"answers": "cat"}, "answers"),
        ({"question": " "}, "no question"),
        ({"choices": ["a"], "answers": ["A"]}, "2 to 26"),
        ({"choices": ["a", "b"], "answers": ["C"]}, "letter of AB"),
        ({"uris": ["../a.png"]}, "leads out"),
        ({"uris": ["/etc/a.png"]}, "leads out"),
        ({"source_id": "other"}, "no source 'other'"),
        ({"benchmark": "other"}, "not among the benchmarks"),
        ({"item_id": "a\nb"}, "cannot name"),
        ({"question": "broken \ud800"}, "not Unicode"),
    ],
)
def test_a_bad_item_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        vqa_items([BENCHMARK], CORPUS, [item(item_id="0"), item(**changes)])


def test_ids_metrics_and_totals_are_checked() -> None:
    for entries, rows, said in (
        ([BENCHMARK], [item(), item()], "more than once"),
        ([BENCHMARK, BENCHMARK], [item()], "more than once"),
        ([{**BENCHMARK, "metric": "luck"}], [item()], "no metric 'luck'"),
        ([{**BENCHMARK, "aggregate": "max"}], [item()], "no aggregate 'max'"),
        ([{**BENCHMARK, "n_total": 1}], [item(), item(item_id=2)], "n_total is 1"),
        ([BENCHMARK], [], "no item"),
    ):
        with pytest.raises(DataError, match=said):
            vqa_items(entries, CORPUS, rows)


def test_records_keep_their_order_and_text() -> None:
    rows = [
        record(record_id="b", split="eval"),
        record(record_id="a", turns=[("user", "Hé?"), ("assistant", "x")], uris=[]),
    ]
    made = conversations("mine", ["d"], rows, CORPUS, licences={"d": "own"})
    assert made.about["splits"] == ["train", "eval"] and made.about["licences"] == {"d": "own"}
    assert made.records["record_id"].to_pylist() == ["b", "a"]
    assert json.loads(made.records["turns"][1].as_py()) == [["user", "Hé?"], ["assistant", "x"]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"domain": "e"}, "domain 'e'"),
        ({"split": "test"}, "split 'test'"),
        ({"uris": []}, "1 times for 0 pictures"),
        ({"turns": [("assistant", "hello")]}, "turns go"),
        ({"turns": [("user", "<image>")]}, "turns go"),
        ({"turns": []}, "empty"),
        ({"turns": [("user", "<image>"), ("assistant", " ")]}, "turn is empty"),
        ({"turns": [("user", "<image>"), ("assistant", "<image>")]}, "only a user"),
        ({"turns": [("user", "<image>"), ("assistant", 3)]}, "pair of role"),
    ],
)
def test_a_bad_record_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        conversations("mine", ["d"], [record(**changes)], CORPUS)


def test_a_system_turn_may_come_first_only() -> None:
    talk = [("user", "a"), ("assistant", "b")]
    assert turns_problem([("system", "s"), *talk], 0) is None
    assert turns_problem([*talk, ("system", "s")], 0) is not None


def test_paths_that_climb() -> None:
    assert [climbs(uri) for uri in ("a/b.png", "a/../b", "/a", "", "..", "a\0b", "a..b/c")] == [
        False, True, True, True, True, True, False,
    ]  # fmt: skip

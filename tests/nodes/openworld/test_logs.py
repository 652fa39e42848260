"""Logs of earlier runs: miniature ones in the published layout, and hostile ones."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.openworld.logs import (
    LINE_BYTES,
    dataset_and_prompt,
    dataset_entries,
    log_files,
    longest,
    parse_record,
    prediction_rows,
    read_log,
)


def write(folder, task, model, lines, name="20250101_samples_x.jsonl"):
    path = folder / task / model / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines) + b"\n")
    return path


def record(doc_id, target="dog", answer="a dog"):
    return {"doc_id": doc_id, "target": target, "filtered_resps": [answer], "resps": [["ignored"]]}


@pytest.mark.parametrize(
    ("replies", "answer"),
    [
        (["a dog"], "a dog"),
        (["summary", "caption", "the answer"], "the answer"),
        ([["summary", "caption", "the answer"]], "the answer"),
        (["  Untouched \n"], "  Untouched \n"),
        ([""], ""),
    ],
)
def test_the_last_reply_is_the_answer(replies, answer):
    line = json.dumps({"doc_id": 7, "target": "dog", "filtered_resps": replies}).encode()
    assert parse_record(line) == ("7", "dog", answer)


BAD = {
    b"not json": "it is not JSON",
    b"[1, 2]": "not a JSON object",
    b"{}": "doc_id must be",
    b'{"doc_id": true, "target": "dog", "filtered_resps": ["x"]}': "doc_id must be",
    b'{"doc_id": 1, "target": " ", "filtered_resps": ["x"]}': "target must be",
    b'{"doc_id": 1, "target": ["dog"], "filtered_resps": ["x"]}': "target must be",
    b'{"doc_id": 1, "target": "dog", "filtered_resps": []}': "filtered_resps must be",
    b'{"doc_id": 1, "target": "dog", "filtered_resps": [[]]}': "filtered_resps must be",
    b'{"doc_id": 1, "target": "dog", "filtered_resps": [null]}': "filtered_resps must be",
    b'{"doc_id": 1, "target": "dog", "filtered_resps": "dog"}': "filtered_resps must be",
    b'{"doc_id": 1, "target": "dog"}': "filtered_resps must be",
    b"\xff\xfe{}": "not UTF-8",
    b"[" * 100_000: "nested too deeply",
    b'{"doc_id": ' + b"9" * 5000 + b', "target": "dog", "filtered_resps": ["x"]}': "",
}


def test_bad_lines_are_named_and_the_others_read(tmp_path):
    lines = [record(0), *BAD, record(1), record(0, answer="again"), b"", b'{"doc_id": 2, "tar']
    log = read_log(write(tmp_path, "dtd", "m", lines))
    assert [r.doc_id for r in log.records] == ["0", "1"] and log.records[0].answer == "a dog"
    reasons = dict(log.problems)
    for number, wanted in enumerate(BAD.values(), start=2):
        assert wanted in reasons.pop(number)
    end = len(BAD) + 2
    assert "stood in an earlier line" in reasons.pop(end + 1) and "not JSON" in reasons.pop(end + 3)
    assert not reasons


def test_a_line_without_end_is_one_bad_line(tmp_path):
    path = write(tmp_path, "dtd", "m", [b'{"doc_id": "' + b"x" * (3 * LINE_BYTES), record(5)])
    log = read_log(path)
    assert [r.doc_id for r in log.records] == ["5"]
    assert log.problems == [(1, f"it is longer than {LINE_BYTES} bytes")]


def test_half_characters_become_question_marks(tmp_path):
    log = read_log(
        write(
            tmp_path,
            "dtd",
            "m",
            [b'{"doc_id": 1, "target": "dog", "filtered_resps": ["a \\ud83e dog \\ud83e\\udd80"]}'],
        )
    )
    assert log.records[0].answer == "a ? dog 🦀"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_records_or_problems(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("log") / "a_samples_b.jsonl"
    path.write_bytes(data)
    log = read_log(path)
    assert len(log.records) + len(log.problems) <= data.count(b"\n") + 1


def test_files_are_regular_and_stand_in_folders(tmp_path):
    good = write(tmp_path, "dtd", "m", [record(0)])
    (tmp_path / "top_samples_.jsonl").write_text("{}")
    (good.parent / "dir_samples_.jsonl").mkdir()
    os.mkfifo(good.parent / "pipe_samples_.jsonl")
    (good.parent / "dead_samples_.jsonl").symlink_to(tmp_path / "nowhere")
    (good.parent / "results.json").write_text("{}")
    assert log_files(tmp_path) == [good]


def test_the_longest_run_wins_and_the_first_of_equals(tmp_path):
    short = write(tmp_path, "dtd", "m", [record(0)], "a_samples_.jsonl")
    long = write(tmp_path, "dtd", "m", [record(i) for i in range(3)], "b_samples_.jsonl")
    equal = write(tmp_path, "dtd", "m", [record(i) for i in range(3)], "c_samples_.jsonl")
    other = write(tmp_path, "dtd", "n", [record(0)])
    choices = longest([read_log(path) for path in log_files(tmp_path)])
    assert [choice.kept.path for choice in choices] == [long, other]
    assert [log.path for log in choices[0].others] == [short, equal]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("dtd", ("dtd", "base")),
        ("dtd_llava_cot", ("dtd", "llava_cot")),
        ("stanford_cars_list", ("stanford_cars", "list")),
        ("oxford_pets", ("oxford_pets", "base")),
        ("dtdx", ("dtdx", "base")),
        ("my_own", ("my_own", "base")),
    ],
)
def test_tasks_name_dataset_and_prompt(task, expected):
    assert dataset_and_prompt(task) == expected


def test_rows_and_datasets(tmp_path):
    rows = prediction_rows(
        read_log(write(tmp_path, "dtd_list", "m", [record("x", answer="dog, cat"), record("y", "cat", "")])), "old"
    )
    assert [(r["n_items"], r["first_item"], r["judged"]) for r in rows] == [(2, "dog", "dog, cat"), (0, "", "")]
    assert {(r["method"], r["prompt_key"], r["model"], r["dataset"], r["seed"]) for r in rows} == {
        ("old", "list", "m", "dtd", 0)
    }
    (entry,) = dataset_entries(rows)
    assert entry["group"] == "non-prototypical" and entry["classes"] == ["cat", "dog"]
    assert (entry["domain_noun"], entry["licence"]) == ("texture", "research and non-commercial use")

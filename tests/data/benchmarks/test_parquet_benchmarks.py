"""Benchmarks as Parquet files: pictures stay where they are, or are written out where a question has several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.data.benchmarks.archives import SPLITS
from runner.data.benchmarks.known import KNOWN
from runner.data.benchmarks.records import with_options
from runner.errors import DataError
from runner.nodes.vqa.scoring import score
from tests.data.benchmarks.made_archives import picture
from tests.data.benchmarks.test_archives import check_pictures, loaded


def struct(data: bytes | None) -> dict[str, Any] | None:
    return None if data is None else {"bytes": data, "path": "a.png"}


TEN = [{"answer": "cat", "answer_confidence": "yes", "answer_id": i} for i in range(10)]
ROWS: dict[str, dict[str, Any]] = {
    "vqav2": {"question_id": 1, "image_id": 4, "question": "What?", "answers": TEN, "answer_type": "other"},
    "okvqa": {"question_id": "1", "question": "What?", "answers": ["cat"] * 10, "answer_type": "other"},
    "vizwiz": {"question_id": "a.jpg", "question": "What?", "answers": ["cat"] * 10, "category": "other"},
    "textvqa": {"question_id": 1, "image_id": "b", "question": "What?", "answers": ["cat"] * 10},
    "docvqa": {"questionId": "1", "docId": 3, "question": "What?", "answers": ["cat"], "question_types": ["form", "layout"]},
    "infographicvqa": {"questionId": "1", "question": "What?", "answers": ["cat"], "answer_type": ["single span"]},
    "chartqa": {"type": "human_test", "question": "What?", "answer": "14"},
    "ai2d": {"question": "What?", "options": ["x", "y"], "answer": "1"},
    "scienceqa": {"question": "What?", "choices": ["x", "y"], "answer": 0, "hint": "", "subject": "language science"},
    "mathvista": {
        "pid": "1", "question": "What?", "answer": "3", "answer_type": "integer", "question_type": "free_form", "precision": None,
        "image": "images/1.jpg", "metadata": {"task": "figure"},
    },
    "mme_perception": {"question_id": "OCR/1.png", "question": "Is it?", "answer": "Yes", "category": "OCR"},
    "mme_cognition": {"question_id": "t/1.png", "question": "Is it?", "answer": "No", "category": "text_translation"},
    "pope": {"id": "0", "question_id": "1", "question": "Is it?", "answer": "no", "image_source": "COCO_1", "category": "random"},
    "ocrbench": {"dataset": "IIIT5K", "question": "What?", "question_type": "Text", "answer": ["STOP"]},
    "mmstar": {"index": 0, "question": "Which?\nOptions: A: red, B: blue, C: a B: c, D: 4", "answer": "B", "category": "math"},
    "cv_bench_count": {"idx": 0, "task": "Count", "question": "How many?", "choices": ["0", "3"], "answer": "(B)", "source": "COCO"},
    "vmcbench": {"index": 0, "question": "Which?", "A": "x", "B": "y", "C": "z", "D": "w", "answer": "D", "category": "general"},
}  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("kind", ROWS)
def test_parquet_of_the_hub(kind: str, tmp_path: Path) -> None:
    column = "decoded_image" if kind == "mathvista" else "image"
    split = {"val": "validation", "val2014": "validation"}.get(SPLITS.get(kind, "test"), SPLITS.get(kind, "test"))
    path = tmp_path / "data" / f"{split}-00000-of-00001.parquet"
    write(path, [ROWS[kind] | {column: struct(picture())}])
    write(path.with_name("train-00000-of-00001.parquet"), [{"other": 1}])
    items, ctx = loaded(tmp_path, path.parent, kind=kind)
    [row] = items.items.to_pylist()
    assert not ctx.failures and row["uris"] == [f"{path.name}#0"]
    assert score(KNOWN[kind].metric, row["answers"][0], row).score == 1
    check_pictures(items)


def test_every_benchmark_is_tried() -> None:
    assert {*ROWS, "gqa", "mmmu"} == {*KNOWN}


def test_rows_without_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    write(path, [{**ROWS["scienceqa"], "image": struct(data)} for data in (None, picture())])
    items, _ = loaded(tmp_path, path, kind="scienceqa")
    assert items.items["uris"].to_pylist() == [[], ["test.parquet#1"]]
    assert items.items["source_id"].to_pylist() == [None, "own"]
    check_pictures(items)


def test_two_questions_on_a_picture_of_mme_are_a_pair(tmp_path: Path) -> None:
    row = ROWS["mme_perception"] | {"image": struct(picture())}
    cognition = ROWS["mme_cognition"] | {"image": struct(picture())}
    write(tmp_path / "test.parquet", [row, {**row, "answer": "No"}, cognition])
    items, _ = loaded(tmp_path, tmp_path / "test.parquet", kind="mme_perception")
    assert items.items["pair_id"].to_pylist() == ["OCR/OCR/1.png"] * 2 and items.benchmarks[0]["n_total"] == 2


def test_mmmu_writes_the_pictures_of_drawn_questions_out(tmp_path: Path) -> None:
    plain = {
        "question": "What is in <image 1> and <image 2>?", "options": "['a <image 1>', 'b']", "answer": "B", "image_1": struct(picture(1)),
        "image_2": struct(picture(2)), "question_type": "multiple-choice",
    }  # fmt: skip
    free = {**plain, "options": "[]", "answer": "['3', 'three']", "image_2": None}
    rows = [
        {**plain, "id": "validation_Art_1"},
        {**free, "id": "validation_Art_Theory_2"},
        {**plain, "id": "validation_Art_3", "answer": "F"},
    ]
    for subject in ("Art", "Music"):
        write(
            tmp_path / "data" / subject / "validation-00000-of-00001.parquet",
            rows if subject == "Art" else [{**free, "id": "validation_Music_1"}],
        )
    items, ctx = loaded(tmp_path, tmp_path / "data", kind="mmmu")
    listed = items.items.to_pylist()
    assert [(r["category"], r["answers"], r["choices"], len(r["uris"])) for r in listed] == [
        ("Art", ["B"], ["a (picture 1)", "b"], 2), ("Art_Theory", ["3", "three"], None, 1), ("Music", ["3", "three"], None, 1),
    ]  # fmt: skip
    assert (
        listed[0]["question"] == "What is in (picture 1) and (picture 2)?"
        and listed[0]["uris"][0] == listed[1]["uris"][0]
    )
    assert len(ctx.failures) == 1 and "none of the options" in ctx.failures[0][1]
    check_pictures(items)


def test_pictures_of_gqa_stand_in_files_of_their_own(tmp_path: Path) -> None:
    asked = [
        {"id": str(i), "imageId": image, "question": "Is it?", "answer": "yes"}
        for i, image in enumerate(("n1", "n2", "n3"))
    ]
    write(tmp_path / "data/testdev_balanced_instructions/testdev-0.parquet", asked)
    write(
        tmp_path / "data/testdev_balanced_images/testdev-0.parquet",
        [{"id": n, "image": struct(picture())} for n in ("n2", "n1")],
    )
    items, ctx = loaded(tmp_path, tmp_path / "data", kind="gqa")
    assert items.items["uris"].to_pylist() == [["testdev-0.parquet#1"], ["testdev-0.parquet#0"]]
    assert "the picture is missing: 'n3'" in ctx.failures[0][1] and items.benchmarks[0]["n_total"] == 3
    check_pictures(items)


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "data/train-0.parquet", [{"a": 1}])
    with pytest.raises(DataError, match="split 'dev'") as refused:
        loaded(tmp_path, tmp_path / "data", kind="vmcbench")
    assert "train" in str(refused.value.hint)


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dev.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"dev\.parquet"):
        loaded(tmp_path, tmp_path / "dev.parquet", kind="vmcbench")


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path / "dev.parquet", [{"question": "What?"}])
    with pytest.raises(DataError, match="no column of pictures"):
        loaded(tmp_path, tmp_path / "dev.parquet", kind="vmcbench")
    write(tmp_path / "dev.parquet", [{"question": "What?", "image": struct(picture())}])
    with pytest.raises(DataError, match="no item can be used") as refused:
        loaded(tmp_path, tmp_path / "dev.parquet", kind="vmcbench")
    assert "malformed" in str(refused.value.hint)


def test_options_in_a_text() -> None:
    question, options = with_options("Which?\nOptions: A: red, or, B: so, B: blue, C: A")
    assert (question, options) == ("Which?", ["red, or", "so, B: blue", "A"])
    with pytest.raises(ValueError, match="lists no options"):
        with_options("Which?")


def test_no_item_is_lost_between_layouts(tmp_path: Path) -> None:
    """The same question from an archive and from Parquet asks and accepts the same."""
    from tests.data.benchmarks.made_archives import MADE

    MADE["scienceqa"](tmp_path / "archive")
    record = json.loads((tmp_path / "archive/problems.json").read_text())["3"]
    write(tmp_path / "test.parquet", [{**record, "id": "3", "image": struct(picture())}])
    one, other = (
        loaded(tmp_path, path, kind="scienceqa")[0].items.to_pylist()[0]
        for path in (tmp_path / "archive", tmp_path / "test.parquet")
    )
    same = ("item_id", "question", "choices", "answers", "category", "extra")
    assert [one[name] for name in same] == [other[name] for name in same]

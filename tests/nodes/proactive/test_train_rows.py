"""Published training rows as samples of one known frame: shown and judged as the row says."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from runner.context import local_context
from runner.data.benchmarks.files import Skipped
from runner.errors import DataError
from runner.nodes.proactive.data_steps import load
from runner.nodes.proactive.env import option_kind
from runner.nodes.proactive.pictures import FramePictures, place_of
from runner.nodes.proactive.samples import cases_of
from runner.nodes.proactive.train_rows import parquet_files, read_turns, record_of_turn, turn_of
from tests.nodes.proactive.published_folder import write_release

CATEGORIES = ["Cup.", "Camera.", "Boat.", "Tea pot."]
DETAILS, ABSTAIN = "Add more details to the drawing.", "I do not know."
LEFT, UP, FARTHER = "Move the camera to the left.", "Move the camera up.", "Move farther from the object."


def png(colour: tuple[int, int, int], size: tuple[int, int] = (30, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def row(shown: list[str], asks: list[str], answer: str = "Cup.", **changes: Any) -> dict[str, Any]:
    lines = "\n".join(f"{chr(65 + i)}. {option}" for i, option in enumerate(shown))
    text = f"What is in the image? Choose one of these.\n{lines}\nReturn one of them only."
    content = [{"type": "image", "text": None}, {"type": "text", "text": text}]
    return {
        "prompt": [{"role": "user", "content": content}], "images": [{"bytes": png((9, 9, 9)), "path": None}],
        "ground_truth": answer, "proactive_actions": asks, "options": shown, "qwen_conf": 0.5,
    } | changes  # fmt: skip


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path / "train-00000-of-00001.parquet", row_group_size=2)
    return path


ROWS = [
    ([DETAILS, ABSTAIN, *CATEGORIES], [DETAILS], "QD", ["ask_valid", "abstain", "category_true"]),
    ([ABSTAIN, DETAILS, *CATEGORIES], [], "QD", ["abstain", "ask_invalid", "category_true"]),
    ([ABSTAIN, LEFT, *CATEGORIES], [LEFT], "COCO", ["abstain", "ask_valid", "category_true"]),
    ([UP, ABSTAIN, LEFT, *CATEGORIES], [LEFT, UP], "COCO", ["ask_valid", "abstain", "ask_valid", "category_true"]),
    ([FARTHER, ABSTAIN, *CATEGORIES], [FARTHER], "COCO", ["ask_valid", "abstain", "category_true"]),
    ([ABSTAIN, *CATEGORIES], [], "COCO", ["abstain", "category_true"]),
]


def test_rows_are_shown_and_judged_as_they_say(tmp_path: Path) -> None:
    rows = [
        row(shown, asks, images=[{"bytes": png((i, 0, 0)), "path": None}]) for i, (shown, asks, _, _) in enumerate(ROWS)
    ]
    samples = load(local_context(tmp_path), train=str(written(tmp_path / "data", rows)))
    cases = {case.record.sample_id: case for case in cases_of(samples, split="train")}
    pictures = FramePictures(samples.corpus)
    for i, (shown, _, scenario, kinds) in enumerate(ROWS):
        case = cases[f"train-00000-of-00001-{i}"]
        state = case.env.initial()
        options = case.env.shown(state)
        assert case.record.scenario == scenario
        assert [option.text for option in options] == shown
        assert [option_kind(option) for option in options] == [*kinds, *["category_false"] * 3]
        assert case.env.ask_path() == (state,)
        assert case.env.observation(state).question == "What is in the image?"
        assert (case.env.place(state) == 1) == ("ask_valid" not in kinds)
        view = pictures.images([place_of(case, state)])[place_of(case, state)]
        assert isinstance(view, Image.Image)
        assert (view.size, view.getpixel((0, 0))) == ((30, 20), (i, 0, 0))


def test_words_of_categories_do_not_decide_the_scenario() -> None:
    assert turn_of(row([DETAILS, ABSTAIN, *CATEGORIES], [])).scenario == "QD"  # `Camera.` is drawn
    answer = "A drawing."
    assert turn_of(row([ABSTAIN, answer, *CATEGORIES], [], answer=answer)).scenario == "COCO"


def test_options_are_read_from_the_prompt_where_the_column_has_only_some() -> None:
    shown = [DETAILS, ABSTAIN, *CATEGORIES]
    assert turn_of(row(shown, [DETAILS], options=[DETAILS, ABSTAIN])).shown == tuple(shown)
    assert turn_of(row(shown, [DETAILS, "Sketch more."])).asks == (DETAILS,)


@pytest.mark.parametrize(
    ("shown", "asks", "changes", "message"),
    [
        ([DETAILS, ABSTAIN, *CATEGORIES], [DETAILS], {"ground_truth": "Nobody."}, "are not among the options"),
        ([ABSTAIN, *CATEGORIES], [DETAILS], {}, "are not among the options"),
        ([*CATEGORIES, DETAILS, ABSTAIN], [DETAILS], {}, "a category stands before"),
        ([DETAILS, *CATEGORIES], [DETAILS], {}, "abstention"),
        ([LEFT, "Move the camera to the right.", ABSTAIN, *CATEGORIES], [LEFT], {}, "does not help"),
        ([DETAILS, "Sketch more.", ABSTAIN, *CATEGORIES], [DETAILS], {}, "some requests help and some do not"),
        ([DETAILS, ABSTAIN, *CATEGORIES], [DETAILS], {"prompt": []}, "with text in `prompt`"),
        ([DETAILS, ABSTAIN, *CATEGORIES], [DETAILS], {"proactive_actions": [1]}, "expected texts"),
    ],
)
def test_a_row_that_the_scenario_cannot_say_is_refused(
    shown: list[str], asks: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        record_of_turn(turn_of(row(shown, asks, **changes)), "a", "aa/bb", (30, 20))


def test_bad_rows_are_left_out_counted_and_named(tmp_path: Path) -> None:
    good = row([DETAILS, ABSTAIN, *CATEGORIES], [DETAILS])
    rows = [good, good | {"ground_truth": "Nobody."}, good | {"images": []},
            good | {"images": [{"bytes": b"no picture", "path": None}]}, good | {"images": [{"bytes": None, "path": "x.png"}]}]  # fmt: skip
    ctx = local_context(tmp_path)
    samples = load(ctx, train=str(written(tmp_path / "data", rows)))
    assert samples.samples["sample_id"].to_pylist() == ["train-00000-of-00001-0"]
    notes = "\n".join(samples.about["notes"])
    assert "train-00000-of-00001-1" in notes
    assert "expected one picture, found 0" in notes
    assert "unreadable image" in notes
    with pytest.raises(DataError, match="no training row could be read"):
        load(ctx, train=str(written(tmp_path / "worse", rows[1:2])))


def test_both_splits_in_one_artifact_with_a_limit(tmp_path: Path) -> None:
    write_release(tmp_path / "test", 1, ["QD", "COCO"])
    rows = [row(*ROWS[i % 4][:2]) for i in range(20)]
    data = written(tmp_path / "data", rows)
    samples = load(local_context(tmp_path), root=str(tmp_path / "test"), train=str(data), limit=3, scenarios=["COCO"])
    listed = [(r["scenario"], r["split"], r["max_turns"] == 1) for r in samples.samples.to_pylist()]
    assert listed == [("COCO", "test", False), *[("COCO", "train", True)] * 3]
    assert [spec["name"] for spec in samples.corpus] == ["proactivebench", "proactivebench-train"]
    assert len([*Path(samples.corpus[1]["folder"]).rglob("*.png")]) == 1  # the same picture is kept once


def test_files_that_are_no_training_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        [*read_turns(parquet_files(tmp_path), Skipped())]
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="has no column ground_truth, proactive_actions, options"):
        [*read_turns(parquet_files(tmp_path / "train.parquet"), Skipped())]
    with pytest.raises(DataError, match="no Parquet file of training rows"):
        parquet_files(tmp_path / "nothing*.parquet")

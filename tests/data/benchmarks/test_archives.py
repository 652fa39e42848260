"""Every archive comes out as items whose pictures can be read; what is wrong is named."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from runner.artifacts import VqaItems
from runner.context import StepContext, local_context
from runner.data.benchmarks.archives import ARCHIVES
from runner.data.benchmarks.files import Skipped, read_json
from runner.data.benchmarks.loading import draw
from runner.data.benchmarks.specs import Benchmark
from runner.data.benchmarks.steps import load_benchmarks
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError
from runner.nodes.vqa.scoring import score
from tests.data.benchmarks.made_archives import MADE, picture, put


def loaded(tmp: Path, path: Path, **spec: Any) -> tuple[VqaItems, StepContext]:
    ctx = local_context(tmp / "run")
    limit = spec.pop("step_limit", None)
    return load_benchmarks(ctx, benchmarks={"own": Benchmark(path=str(path), **spec)}, limit=limit), ctx


def check_pictures(items: VqaItems) -> None:
    wanted = {Place(row["source_id"], uri) for row in items.items.to_pylist() for uri in row["uris"]}
    found = dict(read_pictures(open_sources(items.corpus), wanted))
    assert {*found} == wanted and all(data.startswith(b"\x89PNG") for data in found.values())


EXPECTED: dict[str, list[tuple[str, list[str], list[str] | None, str | None]]] = {
    "gqa": [("10", ["yes"], None, "verify"), ("11", ["no"], None, "verify")],
    "vqav2": [("420001", ["cat"] * 10, None, "other")],
    "okvqa": [("420001", ["cat"] * 10, None, "other")],
    "vizwiz": [("VizWiz_val_0.jpg", ["soup"] * 10, None, "other")],
    "textvqa": [("1", ["nokia"] * 10, None, None)],
    "docvqa": [("7", ["1/8/93"], None, "form")],
    "infographicvqa": [("9", ["4"], None, "single span")],
    "chartqa": [("human-0", ["14"], None, "human"), ("augmented-0", ["14"], None, "augmented")],
    "ai2d": [("0.png-0", ["A"], ["cow", "lion"], None)],
    "scienceqa": [("3", ["B"], ["x", "y"], "natural science"), ("4", ["B"], ["x", "y"], "natural science")],
    "mathvista": [("1", ["1.2"], None, "figure"), ("2", ["B"], ["yes", "no"], "geometry")],
    "mme_perception": [
        ("existence/a/0", ["yes"], None, "existence"), ("existence/a/1", ["no"], None, "existence"), ("color/b/0", ["yes"], None, "color"),
        ("color/b/1", ["no"], None, "color"), ("color/c/0", ["yes"], None, "color"), ("color/c/1", ["no"], None, "color"),
    ],
    "mme_cognition": [("code_reasoning/a/0", ["yes"], None, "code_reasoning"), ("code_reasoning/a/1", ["no"], None, "code_reasoning")],
    "pope": [(f"{kind}-1", ["no"], None, kind) for kind in ("adversarial", "popular", "random")],
    "ocrbench": [("0", ["STOP"], None, "Regular Text Recognition"), ("1", ["STOP"], None, "Regular Text Recognition")],
    "cv_bench_count": [("0", ["B"], ["0", "3"], "COCO")],
}  # fmt: skip


def test_every_archive_is_tried() -> None:
    assert {*MADE} == {*EXPECTED} == {*ARCHIVES}


@pytest.mark.parametrize("kind", MADE)
def test_archives(kind: str, tmp_path: Path) -> None:
    MADE[kind](tmp_path / "data")
    items, ctx = loaded(tmp_path, tmp_path / "data", kind=kind)
    rows = items.items.to_pylist()
    assert [(r["item_id"], r["answers"], r["choices"], r["category"]) for r in rows] == EXPECTED[kind]
    assert items.benchmarks[0]["n_total"] == len(rows) and items.benchmarks[0]["known"] == kind and not ctx.failures
    check_pictures(items)
    for row in rows:  # the truth itself is right
        assert score(items.benchmarks[0]["metric"], row["answers"][0], row).score == 1


def test_scorers_get_what_they_need(tmp_path: Path) -> None:
    for kind in ("mathvista", "ocrbench", "scienceqa"):
        MADE[kind](tmp_path / kind)
    maths, letters, science = (
        [json.loads(row["extra"] or "{}") for row in loaded(tmp_path, tmp_path / kind, kind=kind)[0].items.to_pylist()]
        for kind in ("mathvista", "ocrbench", "scienceqa")
    )
    assert maths[0] == {"answer_type": "float", "precision": 1, "context": "the answer is in m"}
    assert letters == [{}, {"spaces": False}] and science[0] == {"context": "Look."}


def test_questions_without_a_picture_can_be_left_out(tmp_path: Path) -> None:
    MADE["scienceqa"](tmp_path / "data")
    items, _ = loaded(tmp_path, tmp_path / "data", kind="scienceqa", pictures_only=True)
    assert items.items["item_id"].to_pylist() == ["3"] and items.benchmarks[0]["n_total"] == 1


def test_a_limit_is_recorded_and_keeps_pairs_whole(tmp_path: Path) -> None:
    MADE["mme_perception"](tmp_path / "data")
    items, _ = loaded(tmp_path, tmp_path / "data", kind="mme_perception", step_limit=5)
    pairs = items.items["pair_id"].to_pylist()
    assert len(pairs) == 4 and all(pairs.count(pair) == 2 for pair in pairs)
    assert (items.benchmarks[0]["limit"], items.benchmarks[0]["n_total"]) == (5, 6)
    assert items.benchmarks[0]["category_totals"] == {"existence": 2, "color": 4}


def test_draws_grow_and_depend_on_the_seed_alone() -> None:
    rows = [{"item_id": str(i), "pair_id": f"p{i // 2}"} for i in range(40)]
    few, more = ({row["item_id"] for row in draw(rows, n, 3, whole=whole)} for n, whole in ((6, False), (12, False)))
    assert few < more and len(few) == 6
    pairs = [draw(rows[::step], 10, 3, whole=True) for step in (1, -1)]
    assert {r["item_id"] for r in pairs[0]} == {r["item_id"] for r in pairs[1]} and len(pairs[0]) == 10
    assert draw(rows, 10, 4, whole=True) != pairs[0]


def test_missing_pictures_and_bad_records_are_counted_and_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    MADE["vizwiz"](root)
    good = {"image": "VizWiz_val_0.jpg", "question": "What?", "answers": [{"answer": "a"}] * 10}
    bad = [
        {**good, "image": "gone.jpg"}, {**good, "image": "../../etc/passwd"}, {**good, "image": "/etc/passwd"}, {**good, "image": "x", "answers": []},
        {**good, "image": "y", "question": None}, {**good, "image": "z", "answers": [{"reply": 1}]}, good,
    ]  # fmt: skip
    put(root, "val.json", [good, *bad])
    items, ctx = loaded(tmp_path, root, kind="vizwiz")
    said = " ".join(text for _, text in ctx.failures)
    assert items.items.num_rows == 1 and items.benchmarks[0]["n_total"] == 8
    assert "the picture is missing: 'val/gone.jpg'" in said and "2 left out, the picture's path leads out" in said
    assert "no answer" in said and "the id stands twice" in said and items.benchmarks[0]["notes"]


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    MADE["vizwiz"](root)
    put(tmp_path, "outside/VizWiz_val_0.jpg", picture())
    (root / "val/VizWiz_val_0.jpg").unlink()
    (root / "val").rmdir()
    (root / "val").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="no item") as refused:
        loaded(tmp_path, root, kind="vizwiz")
    assert "leads out of the folder" in str(refused.value.hint)
    items, _ = loaded(tmp_path, root, kind="vizwiz", pictures=str(tmp_path / "outside"))
    assert items.items["uris"].to_pylist() == [["VizWiz_val_0.jpg"]]
    check_pictures(items)


@pytest.mark.parametrize("text", ["[1, 2", '{"data": 3}', "[[1]]", "3", "[" * 100_000, ""])
def test_broken_files_give_one_error(text: str, tmp_path: Path) -> None:
    put(tmp_path, "data/TextVQA_0.5.1_val.json", text)
    with pytest.raises(DataError, match=r"TextVQA_0\.5\.1_val\.json"):
        loaded(tmp_path, tmp_path / "data", kind="textvqa")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for kind in ARCHIVES:
        with pytest.raises(DataError, match=r"has no|has none"):
            loaded(tmp_path, tmp_path / "data", kind=kind)
    with pytest.raises(DataError, match="holds no Parquet"):
        loaded(tmp_path, tmp_path / "data", kind="mmmu")


@pytest.mark.parametrize(
    "kind", ["gqa", "vqav2", "textvqa", "docvqa", "infographicvqa", "chartqa", "ocrbench", "mathvista", "pope"]
)
def test_records_of_rubbish_are_left_out(kind: str, tmp_path: Path) -> None:
    """Every field of a good record in turn becomes something else: an item fewer, or none, but never a crash."""
    root = tmp_path / "data"
    MADE[kind](root)
    for path in [*root.glob("*.json"), *root.glob("*/*.json")]:
        text = path.read_text()
        for rubbish in ("null", "[[]]", '{"a": 1}', '"' + "x" * 5000 + '"', '"a\\u0000b"', "-1e999", '"\\ud800"'):
            for key in sorted({*re.findall(r'"(\w+)":', text)} - {"data", "questions", "annotations"}):
                path.write_text(
                    re.sub(rf'"{key}": (?:"[^"]*"|[\d.]+)', lambda m, key=key, new=rubbish: f'"{key}": {new}', text)
                )
                with contextlib.suppress(DataError):
                    items, _ = loaded(tmp_path, root, kind=kind)
                    [score(items.benchmarks[0]["metric"], "1", row) for row in items.items.to_pylist()]
        path.write_text(text)


def test_not_utf8_is_no_json(tmp_path: Path) -> None:
    put(tmp_path, "a.json", b"\xff\xfe[")
    with pytest.raises(DataError, match="no JSON in UTF-8"):
        read_json(tmp_path / "a.json")


def test_only_a_few_names_are_kept() -> None:
    skipped = Skipped()
    for i in range(10):
        skipped.add("gone", f"name {i}\nnext")
    assert skipped.lines() == ["10 left out, gone: 'name 0 next', 'name 1 next', 'name 2 next' and 7 more"]


def test_a_manifest_of_ones_own(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "question": "What?", "answers": ["cat", "a cat"], "image": "1.png", "category": "animals"},
        {"id": "b", "question": "Which?", "choices": ["x", "y"], "answer": 1, "images": ["1.png", "2.png"], "pair": 7},
        {"id": "c", "question": "Why?", "answer": "so", "extra": {"strict": True}},
        {"id": "d", "question": "Odd", "answer": "x", "colour": "red"},
        {"id": "e", "question": "Which?", "choices": ["x", "y"], "answer": "C"},
    ]
    put(tmp_path, "data/mine.jsonl", "\n".join([*(json.dumps(line) for line in lines), "{broken"]))
    for i in (1, 2):
        put(tmp_path, f"data/{i}.png", picture(i))
    items, ctx = loaded(tmp_path, tmp_path / "data/mine.jsonl", kind="manifest", metric="exact_match")
    rows = items.items.to_pylist()
    assert [(r["item_id"], r["answers"], r["uris"], r["pair_id"]) for r in rows] == [
        ("a", ["cat", "a cat"], ["1.png"], None), ("b", ["B"], ["1.png", "2.png"], "7"), ("c", ["so"], [], None),
    ]  # fmt: skip
    said = " ".join(text for _, text in ctx.failures)
    assert "unknown field 'colour'" in said and "none of the options" in said and "mine.jsonl, line 6" in said
    assert items.benchmarks[0]["n_total"] == 6 and items.benchmarks[0]["known"] is None
    check_pictures(items)


def test_half_a_surrogate_pair_costs_one_question(tmp_path: Path) -> None:
    lines = [{"id": "a", "question": "broken \ud800", "answer": "x"}, {"id": "b\udc00", "question": "x", "answer": "x"}]
    lines += [{"id": "c", "question": "What?", "answer": "x"}, {"id": "d\ne", "question": "What?", "answer": "x"}]
    put(tmp_path, "mine.jsonl", "\n".join(json.dumps(line) for line in lines))
    items, ctx = loaded(tmp_path, tmp_path / "mine.jsonl", kind="manifest", metric="exact_match")
    assert items.items["item_id"].to_pylist() == ["c"]
    assert "2 left out, text that is not Unicode" in ctx.failures[0][1] and "printable" in ctx.failures[1][1]


def test_a_manifest_needs_a_metric() -> None:
    with pytest.raises(ValueError, match="needs `metric:`"):
        Benchmark(kind="manifest", path=".")

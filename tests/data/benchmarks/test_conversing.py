"""Conversations of training recipes: three forms, and what hostile files do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from runner.artifacts import Conversations
from runner.context import StepContext, local_context
from runner.data.benchmarks.building import turns_problem
from runner.data.benchmarks.conversing import marked
from runner.data.benchmarks.specs import ConversationSpec
from runner.data.benchmarks.steps import load_conversations
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError
from tests.data.benchmarks.made_archives import picture, put

TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
CHAT = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes."}]


def loaded(tmp: Path, spec: dict[str, Any], limit: int | None = None) -> tuple[Conversations, StepContext]:
    ctx = local_context(tmp / "run")
    source = TypeAdapter(ConversationSpec).validate_python(spec, context={"base": tmp})
    return load_conversations(ctx, source=source, limit=limit, name="mine"), ctx


def check_pictures(made: Conversations) -> None:
    wanted = {Place(row["source_id"], uri) for row in made.records.to_pylist() for uri in row["uris"]}
    assert wanted == {place for place, data in read_pictures(open_sources(made.corpus), wanted) if data}


def test_llavas_list(tmp_path: Path) -> None:
    records = [
        {"id": "1", "image": "coco/1.png", "conversations": TALK},
        {"id": "1", "image": "gqa/1.png", "conversations": [{**TALK[0], "value": "What?"}, TALK[1]]},
        {"id": "3", "conversations": CHAT},
    ]
    put(tmp_path, "mix.json", records)
    for name in ("coco/1.png", "gqa/1.png"):
        put(tmp_path, name, picture())
    made, ctx = loaded(tmp_path, {"llava": "mix.json", "licence": "CC BY 4.0"})
    rows = made.records.to_pylist()
    assert [(r["record_id"], r["domain"], r["uris"]) for r in rows] == [
        ("1", "coco", ["coco/1.png"]), ("2", "gqa", ["gqa/1.png"]), ("3", "text", []),
    ]  # fmt: skip
    assert json.loads(rows[1]["turns"])[0] == ["user", "<image>\nWhat?"] and rows[2]["source_id"] is None
    assert made.about["licences"] == dict.fromkeys(("coco", "gqa", "text"), "CC BY 4.0") and not ctx.failures
    check_pictures(made)


def test_a_limit_and_records_held_out(tmp_path: Path) -> None:
    put(tmp_path, "mix.json", [{"id": str(i), "conversations": CHAT} for i in range(20)])
    made, _ = loaded(tmp_path, {"llava": "mix.json", "domain": "chat", "eval": 4}, limit=10)
    splits = made.records["split"].to_pylist()
    assert (splits.count("train"), splits.count("eval")) == (10, 4) and "14 of 20" in made.about["notes"][0]
    more, _ = loaded(tmp_path, {"llava": "mix.json", "domain": "chat", "eval": 4}, limit=12)
    held = [{r["record_id"] for r in m.records.to_pylist() if r["split"] == "eval"} for m in (made, more)]
    assert held[0] == held[1]


def test_llama_factorys_folder(tmp_path: Path) -> None:
    columns = {"messages": "conversations", "images": "image"}
    entry = {"formatting": "sharegpt", "columns": columns}
    put(tmp_path, "dataset_info.json", {
        "ocr": {**entry, "file_name": "ocr.jsonl"}, "ocr_eval": {**entry, "file_name": "ocr_eval.jsonl"},
        "chat": {"formatting": "sharegpt", "file_name": "chat.json", "columns": {"messages": "messages"},
                 "tags": {"role_tag": "who", "content_tag": "said", "user_tag": "me", "assistant_tag": "bot"}},
    })  # fmt: skip
    put(tmp_path, "ocr.jsonl", json.dumps({"conversations": TALK, "image": ["a/1.png"]}) + "\n\n")
    put(tmp_path, "ocr_eval.jsonl", json.dumps({"conversations": TALK, "image": "a/1.png"}))
    put(
        tmp_path,
        "chat.json",
        [{"messages": [{"who": "me", "said": "Hello?"}, {"who": "bot", "said": "Yes."}], "system": "Be kind."}],
    )
    put(tmp_path, "pictures/a/1.png", picture())
    made, ctx = loaded(tmp_path, {"sharegpt": ".", "pictures": "pictures", "held_out": {"ocr": "ocr_eval"}})
    rows = [(r["record_id"], r["domain"], r["split"]) for r in made.records.to_pylist()]
    assert (
        rows == [("ocr/1", "ocr", "train"), ("ocr_eval/1", "ocr", "eval"), ("chat/1", "chat", "train")]
        and not ctx.failures
    )
    assert json.loads(made.records["turns"][2].as_py()) == [
        ["system", "Be kind."],
        ["user", "Hello?"],
        ["assistant", "Yes."],
    ]
    check_pictures(made)


def test_internvls_meta_file(tmp_path: Path) -> None:
    put(tmp_path, "meta.json", {
        "charts": {"root": "charts/", "annotation": "charts.jsonl", "data_augment": False, "repeat_time": 1, "length": 1},
        "docs": {"root": "docs", "annotation": "docs.jsonl", "length": 1},
    })  # fmt: skip
    for name in ("charts", "docs"):
        put(tmp_path, f"{name}.jsonl", json.dumps({"id": 0, "image": "1.png", "conversations": TALK}))
        put(tmp_path, f"{name}/1.png", picture())
    made, _ = loaded(tmp_path, {"internvl": "meta.json"})
    assert made.about["domains"] == ["charts", "docs"] and len({s["name"] for s in made.corpus}) == 2
    check_pictures(made)
    only, _ = loaded(tmp_path, {"internvl": "meta.json", "datasets": ["docs"]})
    assert only.about["domains"] == ["docs"]


def test_hostile_records_are_counted_and_named(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    good = {"image": "1.png", "conversations": TALK}
    lines: list[Any] = [
        good, {**good, "image": "../secret.png"}, {**good, "image": str(secret)}, {**good, "image": "gone.png"}, {**good, "image": [3]},
        {**good, "conversations": TALK[::-1]}, {**good, "conversations": TALK[:1]}, {**good, "conversations": "hello"}, {"image": "1.png"},
        {**good, "conversations": [{"from": "wizard", "value": "x"}]}, {**good, "conversations": [{"from": "human", "value": 3}]},
        {**good, "image": ["1.png", "1.png"]}, {"conversations": [CHAT[0], {"from": "gpt", "value": "broken \ud800"}]},
        {"conversations": [CHAT[0], {"from": "gpt", "value": "see <image>"}]}, [1], 3, {**good, "image": "x" * 5000},
    ]  # fmt: skip
    put(tmp_path, "data/mix.jsonl", "\n".join([*(json.dumps(line) for line in lines), "{broken", "[" * 100_000]))
    put(tmp_path, "data/1.png", picture())
    made, ctx = loaded(tmp_path, {"llava": "data/mix.jsonl"})
    assert made.records["uris"].to_pylist() == [["1.png"]]
    said = " ".join(text for _, text in ctx.failures)
    for part in (
        "leads out of the folder: '../secret.png'",
        "2 left out, the picture is missing: 'gone.png'",
        "role 'wizard'",
        "not Unicode",
        "4 left out, no JSON object",
        "1 times for 2 pictures",
    ):
        assert part in said, said
    assert sum(int(text.partition(" ")[0]) for _, text in ctx.failures) == len(lines) + 2 - 1


@pytest.mark.parametrize(
    ("name", "content", "spec"),
    [
        ("mix.json", "[{", {"llava": "mix.json"}),
        ("mix.json", "[]", {"llava": "mix.json"}),
        ("dataset_info.json", "{", {"sharegpt": "."}),
        ("dataset_info.json", {"a": {"file_name": "../a.json", "formatting": "sharegpt"}}, {"sharegpt": "."}),
        ("dataset_info.json", {"a": {"file_name": "a.json"}}, {"sharegpt": "."}),
        ("dataset_info.json", {"a": {"file_name": "gone.json", "formatting": "sharegpt"}}, {"sharegpt": "."}),
        ("dataset_info.json", {}, {"sharegpt": ".", "datasets": ["b"]}),
        ("meta.json", {"a": 3}, {"internvl": "meta.json"}),
        ("meta.json", {"a": {"root": "x"}}, {"internvl": "meta.json"}),
    ],
)
def test_broken_files_give_one_error(name: str, content: Any, spec: dict[str, Any], tmp_path: Path) -> None:
    put(tmp_path, name, content)
    with pytest.raises(DataError):
        loaded(tmp_path, spec)


@given(st.lists(st.text(alphabet="ab<image>", max_size=20), min_size=1, max_size=4), st.integers(0, 3))
def test_marks_are_put_in_only_where_there_are_none(texts: list[str], pictures: int) -> None:
    turns = [
        (("user", "assistant")[i % 2], text) for i, text in enumerate([*texts, "x"][: 2 * ((len(texts) + 1) // 2)])
    ]
    found = marked(turns, pictures)
    count = sum(text.count("<image>") for role, text in turns if role == "user")
    assert sum(text.count("<image>") for role, text in found if role == "user") == (count or pictures)
    assert [text.replace("<image>\n", "").replace("<image>", "") for _, text in found] == [
        text.replace("<image>\n", "").replace("<image>", "") for _, text in turns
    ]
    assert turns_problem([("user", "<image>"), ("assistant", "a")], 1) is None

"""The published JSON Schema and the pydantic judge say the same about everything a schema can say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_vocabulary import PROVIDERS, STEPS

from runner.errors import SpecError
from runner.spec import compile_text, json_schema
from runner.spec.source import Source
from runner.spec.yaml12 import read

SCHEMA = json_schema(STEPS, PROVIDERS)
JUDGE = jsonschema.Draft202012Validator(SCHEMA)
GOLDEN = Path(__file__).parents[1] / "golden" / "spec_errors"

BEYOND_A_SCHEMA = {
    "unknown-name", "unknown-output", "type-mismatch", "misplaced-reference", "unused-model", "unused-param", "cycle",
    "name-clash", "missing-path", "unknown-param", "reference", "params", "sweep", "override", "too-large",
}  # fmt: skip
"""What needs names, files or the whole graph."""

FIELDS: dict[str, dict[str, list[Any]]] = {
    "t.propose": {
        "llm": ["$llm", "$params.p", "llm", 5, None],
        "task": ["find", "$params.p", "$$x", 5, None, ["a"]],
        "classes": [["a"], [], "$params.p", "$ideas.targets", ["a", 5], "a", {"a": 1}],
        "n": [3, "$params.p", "3", True, 2.5, None],
    },
    "t.caption": {"ideas": ["$ideas", "x", {}], "llm": ["$llm", None, 5], "style": ["plain", "rich", "Plain", 5, None]},
    "t.search": {
        "encoder": ["$clip", None, ["$clip"]],
        "queries": ["$lines", ["a"], ["a", 5], "lines", 3, "$ideas.targets"],
        "corpus": [
            None, {"kind": "folder", "folder": "."}, {"kind": "folder", "folder": ""}, {"kind": "folder"},
            {"kind": "shards", "shards": ["a"]}, {"kind": "shards", "shards": ["a"], "size": [1, 2]},
            {"kind": "shards", "shards": ["a"], "size": [1, 2, 3]}, {"kind": "shards", "shards": ["a"], "size": [1]},
            {"kind": "tape"}, {}, 5, "$params.p", {"kind": "folder", "folder": ".", "limit": "$params.p"},
            {"kind": "folder", "folder": ".", "x": 1},
        ],
        "filters": [None, "none", "some", [1, 2], [1, "a"], {"side": 1}, {"side": 1, "blur": 2}, {"side": "1"}, {}, 5],
        "k": [1, 1000, 0, 1001, "5", 2.5, "$params.p", True],
        "rate": [0.5, 1, "0.5", None, False],
        "strict": [True, "no", 1, "$params.p"],
    },
    "t.few": {"images": ["$images", "$images.index", 5], "keep": [1, 0, "$params.p"]},
    "t.judge": {
        "classifier": ["$subject", "x"], "images": ["$images", None, 5], "table": ["$lines.captions", None, 5],
        "targets": [["a"], None, "$ideas.targets", "a"], "settings": [{}, {"a": [1, {"b": None}]}, None, 5, "$params.p"],
    },
    "t.compare": {
        "parts": [["$lines"], [], ["lines"], "$lines", [5]], "named": [{"a": "$lines"}, {}, None, {"a": 5}, ["$lines"]],
        "folder": ["$images.index", None, 5], "path": [".", None, "", 5, "$params.p"],
    },
}  # fmt: skip
MODELS: dict[str, dict[str, list[Any]]] = {
    "chat": {
        "model": ["q", 5, "$params.p", None], "base_url": ["u", 5], "temperature": [0, 0.5, -1, "0", "$params.p"],
        "api_key_env": ["K", None, 5],
    },
    "clip": {"name": ["x", 5, ["x"]]},
    "zero_shot": {"encoder": ["$clip", "clip", 5], "labels": [["a"], [], ["a", 5], "a"]},
    "fitted": {"head": ["$images.index", "images", None], "base": ["$clip", None, "clip", 3]},
}  # fmt: skip


@st.composite
def entries(draw: st.DrawFn, choice: str, kinds: dict[str, dict[str, list[Any]]]) -> dict[str, Any]:
    """One model or step: mostly the first (sound) value of each field, sometimes another, a field more or less."""
    kind = draw(st.sampled_from(sorted(kinds)))
    entry: dict[str, Any] = {choice: kind}
    for name, values in kinds[kind].items():
        if draw(st.integers(0, 7)):
            entry[name] = draw(st.sampled_from(values)) if draw(st.integers(0, 3)) == 0 else values[0]
    if draw(st.integers(0, 9)) == 0:
        entry[draw(st.sampled_from(["extra", "kk", choice]))] = draw(st.sampled_from([1, "x", "$params.p"]))
    return entry


TOP: dict[str, list[Any]] = {
    "name": ["a-b", "A b", "", 5], "description": ["x", 5], "profile": ["embedded", None, "other"],
    "params": [{"p": 1}, {"p": {"a": [1]}}, {"1p": 1}, None, []], "sweep": [{"p": [1, 2]}, {"p": []}, {"p": 1}],
    "seed": [0, 3, -1, "x", 2**32], "results": ["r.duckdb", "", 5],
    "budget": [{}, {"tokens": 5, "minutes": 0.5}, {"minutes": 0}, {"token": 1}, {"images": -1}, None],
    "fail_on": [{}, {"disfavoured": 1}, {"worse": 0}, {"no_evidence": 1}, {"favoured": True}, None],
}  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    document = {"name": "n"}
    for name, values in TOP.items():
        if draw(st.integers(0, 3)) == 0:
            document[name] = draw(st.sampled_from(values)) if draw(st.booleans()) else values[0]
    names = st.sampled_from(["a", "b-1", "_c", "1d", "e f"] if draw(st.integers(0, 9)) == 0 else ["a", "b-1", "_c"])
    document["models"] = draw(st.dictionaries(names, entries("provider", MODELS), max_size=2))
    document["steps"] = draw(
        st.dictionaries(names, entries("uses", FIELDS), min_size=draw(st.integers(0, 1)), max_size=3)
    )
    return document


def structural_problems(text: str) -> list[str]:
    """What the judge objects to, without what no schema could know."""
    try:
        compile_text(text, "spec.yaml", Path(__file__).parent, steps=STEPS, providers=PROVIDERS)
    except SpecError as error:
        return [f"{p.code} {p.message}" for p in error.problems if p.code not in BEYOND_A_SCHEMA]
    return []


@given(documents())
@settings(max_examples=400, deadline=None)
def test_schema_and_judge_agree(document: dict[str, Any]) -> None:
    declared = {"params": {"p": "x"}} if "$params.p" in json.dumps(document) else {}
    problems = [p for p in structural_problems(json.dumps({**declared, **document})) if "(from $params" not in p]
    errors = [e.message for e in JUDGE.iter_errors({**declared, **document})]
    assert bool(problems) == bool(errors), (problems, errors)


@pytest.mark.parametrize(
    "path", sorted(p for p in GOLDEN.glob("*.yaml") if p.stem != "validator_of_provider"), ids=lambda path: path.stem
)
def test_schema_and_judge_agree_on_the_golden_mistakes(path: Path) -> None:
    text = path.read_text("utf8")
    try:
        document = read(Source("s", text)).value()
    except SpecError:
        return
    problems = [p for p in structural_problems(text) if "(from $params" not in p]
    assert bool(problems) == (not JUDGE.is_valid(document)), problems


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_errors_of_the_schema_point_at_the_field() -> None:
    document = {"name": "n", "steps": {"a": {"uses": "t.search", "encoder": "$c", "queries": "$l", "k": "many"}}}
    (error,) = JUDGE.iter_errors(document)
    assert list(error.absolute_path) == ["steps", "a", "k"]
    document["steps"]["a"] = {"uses": "t.serch"}
    (error,) = JUDGE.iter_errors(document)
    assert list(error.absolute_path) == ["steps", "a", "uses"]


def test_it_teaches() -> None:
    search = SCHEMA["$defs"]["t_search"]
    assert search["description"] == "Find pictures."
    assert search["properties"]["k"]["description"] == "Images per line."
    assert search["properties"]["k"]["default"] == 10
    assert "a step that gives Lines" in json.dumps(search["properties"]["queries"])
    assert (
        "t.search: Find pictures."
        in SCHEMA["properties"]["steps"]["additionalProperties"]["properties"]["uses"]["description"]
    )


def test_the_shipped_schema_is_that_of_the_registered_steps() -> None:
    """Renew it with `python -m runner.spec.schema --write`. A process of its own: other tests register steps."""
    done = subprocess.run([sys.executable, "-m", "runner.spec.schema", "--check"], env=os.environ, check=False)
    assert done.returncode == 0

"""Content keys change exactly when content changes."""

import dataclasses
import datetime
import enum
import json
import math
import os
import time
from pathlib import Path

import graph_sample as sample
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from runner.graph import make_plan
from runner.graph.canonical import canonical, digest, dumps, references_outside
from runner.graph.fingerprint import fingerprint
from runner.references import AssetRef, ResolvedPath

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.text() | st.integers() | st.booleans()
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(keys, v, max_size=4), max_leaves=12)


def same(a, b):
    """Equality that tells 1 from 1.0 and True, and 0.0 from -0.0, as JSON and Python code do."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        rest = [(type(k), k, v) for k, v in b.items()]
        return len(a) == len(b) and all(any(type(k) is t and k == q and same(v, w) for t, q, w in rest)
                                        for k, v in a.items())  # fmt: skip
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@given(values, values)
def test_keys_are_equal_exactly_for_equal_values(a, b):
    assert (digest(canonical(a)) == digest(canonical(b))) == same(a, b)


@given(st.dictionaries(keys, values, max_size=6), st.randoms())
def test_the_order_of_keys_does_not_matter(mapping, chance):
    shuffled = list(mapping.items())
    chance.shuffle(shuffled)
    assert dumps(canonical(dict(shuffled))) == dumps(canonical(mapping))


@given(values)
def test_canonical_is_json(value):
    assert json.loads(dumps(canonical(value))) == canonical(value)


class Colour(enum.Enum):
    RED = "red"


class Inner(BaseModel):
    path: str
    day: datetime.date


@dataclasses.dataclass
class Outer:
    inner: Inner
    colours: set


def test_what_pydantic_validates_can_be_keyed():
    path, asset = ResolvedPath("/data/x"), AssetRef("asset:pets")
    inner = Inner.model_construct(path=path, day=datetime.date(2026, 1, 2))
    value = {"o": Outer(inner, {Colour.RED}), "a": asset, "f": math.inf, "p": Path("x"), "n": math.nan}
    assert canonical(value, lambda v: f"content of {v}") == {
        "a": {"$asset": "content of asset:pets"},
        "f": {"$float": "inf"},
        "n": {"$float": "nan"},
        "o": {
            "inner": {"day": {"$time": "2026-01-02"}, "path": {"$path": "content of /data/x"}},
            "colours": {"$set": ["red"]},
        },
        "p": {"$posixpath": "x"},
    }
    assert list(references_outside(value)) == [path, asset]


def test_a_dictionary_cannot_pass_for_a_path():
    assert canonical({"$path": "x"}) != canonical(ResolvedPath("x"))


def test_what_has_no_canonical_form_is_refused():
    with pytest.raises(TypeError, match="object"):
        canonical({"x": object()})


# --- contents of paths -----------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "b.txt").write_text("b")
    return folder


def of(path, workspace):
    return fingerprint(ResolvedPath(path), workspace.items)


def test_a_folder_is_what_its_files_hold(corpus, workspace, tmp_path):
    before = of(corpus, workspace)
    corpus.rename(tmp_path / "moved")
    assert of(tmp_path / "moved", workspace) == before
    (tmp_path / "moved" / "a.txt").write_text("A")
    changed = of(tmp_path / "moved", workspace)
    (tmp_path / "moved" / "a.txt").rename(tmp_path / "moved" / "c.txt")
    assert len({before, changed, of(tmp_path / "moved", workspace)}) == 3


def test_touching_a_file_does_not_change_it(corpus, workspace):
    before = of(corpus, workspace)
    os.utime(corpus / "a.txt", (1, 1))
    assert of(corpus, workspace) == before


def test_a_change_that_keeps_size_and_second_is_seen(corpus, workspace):
    """A file changed within the clock's grain keeps its stamp; its hash must not have been remembered."""
    before = of(corpus / "a.txt", workspace)
    stamp = (corpus / "a.txt").stat()
    (corpus / "a.txt").write_text("z")
    os.utime(corpus / "a.txt", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert of(corpus / "a.txt", workspace) != before


def test_hashes_of_settled_files_are_remembered(corpus, workspace, monkeypatch):
    old = time.time() - 100
    os.utime(corpus / "a.txt", (old, old))
    before = of(corpus / "a.txt", workspace)
    monkeypatch.setattr("runner.graph.items.sha256_of", lambda path: pytest.fail("hashed again"))
    assert of(corpus / "a.txt", workspace) == before


def test_a_pattern_is_the_files_it_matches(corpus, workspace):
    before = of(corpus / "*.txt", workspace)
    (corpus / "x.bin").write_text("not matched")
    assert of(corpus / "*.txt", workspace) == before
    (corpus / "c.txt").write_text("matched")
    assert of(corpus / "*.txt", workspace) != before


# --- keys of steps ---------------------------------------------------------------------------------------------------


def keys_of(tmp_path, workspace, spec, **changes):
    plan = make_plan(sample.sample_spec(tmp_path, spec | changes), workspace)
    return {node.first.step: node.key for node in plan.nodes}


CHAIN = {
    "name": "chain",
    "models": {"inner": {"provider": "sample_scale", "factor": 2.0}},
    "steps": {
        "a": {"uses": "sample.numbers", "count": 2},
        "b": {"uses": "sample.scaled", "numbers": "$a", "by": "$inner"},
        "c": {"uses": "sample.total", "parts": ["$a", "$b"]},
        "d": {"uses": "sample.everything", "numbers": "$a", "path": "corpus"},
    },
}


def edited(path, value):
    spec = json.loads(json.dumps(CHAIN))
    *parents, last = path
    place = spec
    for name in parents:
        place = place[name]
    place[last] = value
    return spec


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        (("steps", "a", "count"), 3, "abcd"),
        (("steps", "a", "start"), 0.0, ""),  # the default, written out
        (("models", "inner", "factor"), 3.0, "bc"),
        (("models", "inner", "port"), 8000, ""),  # not part of the model's identity
        (("steps", "c", "parts"), ["$b", "$a"], "c"),
        (("seed",), 1, "abcd"),
        (("name",), "other", ""),
    ],
)
def test_keys_change_for_what_depends_on_the_change(tmp_path, workspace, corpus, path, value, changed):
    before = keys_of(tmp_path, workspace, CHAIN)
    after = keys_of(tmp_path, workspace, edited(path, value))
    assert {name for name in before if before[name] != after[name]} == set(changed)


def test_names_and_order_do_not_enter_keys(tmp_path, workspace, corpus):
    before = keys_of(tmp_path, workspace, CHAIN)
    text = json.dumps(CHAIN).replace("$a", "$first").replace('"a":', '"first":').replace("inner", "outer")
    renamed = keys_of(tmp_path, workspace, json.loads(text))
    assert renamed == {"first": before["a"]} | {name: before[name] for name in "bcd"}


def test_contents_of_paths_enter_keys(tmp_path, workspace, corpus):
    before = keys_of(tmp_path, workspace, CHAIN)
    (corpus / "a.txt").write_text("changed")
    after = keys_of(tmp_path, workspace, CHAIN)
    assert {name for name in before if before[name] != after[name]} == {"d"}


def test_linked_models_and_outputs_enter_keys(tmp_path, workspace):
    def spec(factor, count):
        return {
            "name": "links",
            "models": {
                "base": {"provider": "sample_scale", "factor": factor},
                "top": {"provider": "sample_scale", "factor": 1.0, "base": "$base", "head": "$fit.weights"},
            },
            "steps": {
                "n": {"uses": "sample.numbers", "count": count},
                "m": {"uses": "sample.numbers", "count": 2},
                "fit": {"uses": "sample.everything", "numbers": "$n"},
                "use": {"uses": "sample.scaled", "numbers": "$m", "by": "$top"},
            },
        }

    before = keys_of(tmp_path, workspace, spec(2.0, 3))
    assert keys_of(tmp_path, workspace, spec(2.5, 3))["use"] != before["use"]
    assert keys_of(tmp_path, workspace, spec(2.0, 4))["use"] != before["use"]
    plan = make_plan(sample.sample_spec(tmp_path, spec(2.0, 3)), workspace)
    (use,) = [node for node in plan.nodes if node.first.step == "use"]
    assert set(use.depends_on) == {before["m"], before["fit"]}

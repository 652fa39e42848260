"""YAML by the 1.2 core rules, with places, and nothing that could hurt."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import SpecError
from runner.spec.source import Source, Span
from runner.spec.yaml12 import DEFAULT_LIMITS, Limits, Node, decode, read


def tree(text: str, limits: Limits = DEFAULT_LIMITS) -> Node:
    return read(Source("spec.yaml", text), limits)


def refusal(text: str, limits: Limits = DEFAULT_LIMITS) -> str:
    with pytest.raises(SpecError) as caught:
        tree(text, limits)
    (problem,) = caught.value.problems
    return f"{problem.position}: {problem.code}"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4), ("1E3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-1.5e+2", -150.0), ("3.10", 3.1),
        (".inf", math.inf), ("-.INF", -math.inf), ("010", 10), ("0o17", 15), ("0x1F", 31), ("-7", -7), ("+7", 7),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"), ("1_000", "1_000"), ("0b11", "0b11"), ("1.2.3", "1.2.3"), ("=", "="),
        ("true", True), ("TRUE", True), ("False", False), ("tRUE", "tRUE"),
        ("null", None), ("~", None), ("", None), ("nULL", "nULL"),
        ("'5'", "5"), ('"true"', "true"), ("!!str 5", "5"), ("! 5", "5"), ("!!int '5'", 5), ("!!float '5'", 5.0),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(written: str, value: object) -> None:
    found = tree(f"key: {written}").value()["key"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(tree("key: .nan").value()["key"])


def test_keys_are_text_as_written() -> None:
    assert tree("{1: a, no: b, 1e-4: c, null: d, true: e}").value() == {
        "1": "a", "no": "b", "1e-4": "c", "null": "d", "true": "e"
    }  # fmt: skip


def test_anchors_and_merges() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {x: 3}\nc: {<<: [*b, *a], z: 4}\nd: {<<: *a, x: 5}\ne: *a\n"
    value = tree(text).value()
    assert value["c"] == {"x": 3, "y": 2, "z": 4}
    assert value["d"] == {"x": 5, "y": 2}
    assert value["e"] == {"x": 1, "y": 2}


def test_a_quoted_merge_key_is_a_key() -> None:
    assert tree('"<<": text').value() == {"<<": "text"}


def test_places_of_keys_and_values() -> None:
    root = tree("a: &a {x: 1,  y: [7, 8]}\nb:\n  <<: *a\n  z: *a\n")
    assert root.key_span(("a", "y")) == Span(1, 15, 1)
    assert root.at(("a", "y", 1)).span == Span(1, 22, 1)
    assert root.key_span(("b", "x")) == Span(1, 8, 1)
    assert root.at(("b", "z")).span == Span(4, 6, 2)
    assert root.at(("b", "z", "x")).span == Span(1, 11, 1)
    assert root.at(("b", "nothing")) is None
    assert root.key_span(("nothing", "here")) is None


def test_columns_count_characters_and_lines_all_kinds_of_ends() -> None:
    source = Source("s", "ä: 1\r\nb: 2\rc: ü\x85d: 3\u2028e: @\n")
    assert len(source.lines) == 6
    with pytest.raises(SpecError) as caught:
        read(source)
    assert (caught.value.problems[0].position.line, caught.value.problems[0].position.column) == (5, 4)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: 1\nb: 2\na: 3\n", "spec.yaml:3:1: duplicate-key"),
        ("x: {<<: {a: 1}, <<: {b: 1}}", "spec.yaml:1:17: duplicate-key"),
        ("1: a\n'1': b\n", "spec.yaml:2:1: duplicate-key"),
        ("a: 1\n---\nb: 2\n", "spec.yaml:2:1: several-documents"),
        ("", "spec.yaml:1:1: empty"),
        ("  \n# only a comment\n", "spec.yaml:1:1: empty"),
        ("a: !!python/name:os.system x", "spec.yaml:1:4: tag"),
        ("a: !local x", "spec.yaml:1:4: tag"),
        ("a: !!binary aGk=", "spec.yaml:1:4: tag"),
        ("a: !!set {x}", "spec.yaml:1:4: tag"),
        ("a: !!timestamp 2024-01-01", "spec.yaml:1:4: tag"),
        ("a: !!int ten", "spec.yaml:1:4: scalar"),
        ("a: !!bool no", "spec.yaml:1:4: scalar"),
        ("a: &x [*x]", "spec.yaml:1:8: alias"),
        ("a: *x", "spec.yaml:1:4: alias"),
        ("{[a]: 1}", "spec.yaml:1:2: key"),
        ("a: {<<: 5}", "spec.yaml:1:9: merge"),
        ('a: "\\0"', "spec.yaml:1:4: character"),
        ("a: \x1b", "spec.yaml:1:4: character"),
        ("a: \ud800", "spec.yaml:1:4: character"),
        ("a: 1\n\tb: 2\n", "spec.yaml:2:1: yaml"),
        ("a: @b", "spec.yaml:1:4: yaml"),
    ],
)
def test_what_is_refused_and_where(text: str, where: str) -> None:
    assert refusal(text) == where


def test_the_message_on_a_duplicate_names_both_lines() -> None:
    with pytest.raises(SpecError, match=r"spec.yaml:3:1: \"a\" is set twice: first in line 1"):
        tree("a: 1\nb: 2\na: 3\n")


def test_limits_hold_before_anything_is_built() -> None:
    assert refusal("a: " + "x" * 100, Limits(bytes=100)) == "spec.yaml:1:1: too-large"
    assert refusal("a: " + "ä" * 60, Limits(bytes=100)) == "spec.yaml:1:1: too-large"
    assert refusal("[" * 100_000) == "spec.yaml:1:65: too-deep"
    assert refusal("{a: " * 100_000).endswith("too-deep")
    assert refusal("[1, 2, 3, 4]", Limits(nodes=4)).endswith("too-large")
    assert tree("[1, 2, 3, 4]", Limits(nodes=5)).size == 5


def test_aliases_count_as_often_as_they_stand_and_as_deep() -> None:
    text = "a: &a [x, x, x, x]\nb: [*a, *a, *a]\n"
    assert tree(text, Limits(nodes=24)).size == 24
    assert refusal(text, Limits(nodes=23)).endswith("too-large")
    assert refusal("a: &a [[[1]]]\nb: [*a]\n", Limits(depth=4)).endswith("too-deep")


def test_a_merge_bomb_is_a_bomb() -> None:
    rows = ["m0: &m0 {" + ", ".join(f"k{i}: 1" for i in range(100)) + "}"]
    rows += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 100)}]}}" for n in range(1, 40)]
    assert refusal("\n".join(rows)).endswith("too-large")


def test_bytes_that_are_not_utf8_are_placed() -> None:
    with pytest.raises(SpecError, match=r"s.yaml:2:5: this is not UTF-8 text \(byte 0xe4\)"):
        decode("name: ok\nb: \xfcber\n".encode("latin-1").replace(b"\xfc", b"x\xe4"), "s.yaml")
    assert decode(b"\xef\xbb\xbfname: x", "s").text == "name: x"


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0", max_codepoint=0xFFFF), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    SCALARS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
@settings(deadline=None)
def test_json_is_read_as_json(value: object) -> None:
    """YAML 1.2 holds JSON (characters beyond U+FFFF aside: JSON escapes them as surrogate pairs)."""
    assert tree(json.dumps(value)).value() == value

"""What counts as a usable reply."""

from __future__ import annotations

import json
import re
import select
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.models.chat.parse import MAX_CHARACTERS, InvalidReply, loads, parse_reply

ANY: dict[str, Any] = {}
OBJECT: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "values": {"type": "array", "items": {"type": "string"}, "maxItems": 3}},
    "required": ["name"],
    "additionalProperties": False,
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
plain_objects = st.fixed_dictionaries({"name": st.text(max_size=30)})
prose = st.text(alphabet=st.characters(blacklist_characters="{}[]`<", blacklist_categories=["Cs"]), max_size=60)


@given(json_values)
def test_strict_json_reads_what_json_writes(value: Any) -> None:
    assert loads(json.dumps(value)) == value


@given(plain_objects, prose, prose)
def test_wrapping_changes_nothing(value: dict[str, str], before: str, after: str) -> None:
    text = json.dumps(value)
    assert parse_reply(f"{before}{text}{after}", OBJECT) == value
    assert parse_reply(f"{before}\n```json\n{text}\n```\n{after}", OBJECT) == value
    assert parse_reply(f"<think>{before} {{</think>{text}", OBJECT) == value


@given(st.text(max_size=200))
def test_any_text_gives_data_that_obeys_or_one_error(text: str) -> None:
    try:
        data = parse_reply(text, OBJECT)
    except InvalidReply as error:
        assert str(error)
    else:
        assert set(data) <= {"name", "values"} and isinstance(data["name"], str)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"name": NaN}', "NaN"),
        ('{"name": "a", "score": Infinity}', "Infinity"),
        ('{"name": "a", "name": "b"}', "twice"),
        ('{"name": "a", "values": [1e999]}', "too large"),
        ('{"name": 3}', "3 is not of type 'string'"),
        ('{"name": "a", "values": ["a", "b", "c", "d"]}', "at $.values"),
        ('{"name": "a", "other": 1}', "other"),
        ('{"values": []}', "'name' is a required property"),
        ('{"name": "\\ud800"}', "half a character"),
        ('{"name": "a"', "not valid JSON"),
        ("I would rather not.", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not usable JSON"),
        ('{"name": ' + "9" * 5000 + "}", "not usable JSON"),
        ("x" * (MAX_CHARACTERS + 1), "1,000,001 characters"),
        (json.dumps(OBJECT), "the JSON Schema itself"),
        ('{"type": "object", "properties": {"name": {"type": "string"}}}', "the JSON Schema itself"),
    ],
)
def test_what_is_refused_says_why(text: str, said: str) -> None:
    with pytest.raises(InvalidReply) as error:
        parse_reply(text, OBJECT)
    assert said in str(error.value)
    assert len(str(error.value)) < 600


def test_an_echo_is_seen_through_a_schema_that_admits_anything() -> None:
    schema = {"type": "object", "description": "anything"}
    with pytest.raises(InvalidReply, match="Schema itself"):
        parse_reply(json.dumps(schema), schema)
    assert parse_reply('{"type": "cat"}', schema) == {"type": "cat"}


def test_among_several_values_the_one_that_obeys_is_taken() -> None:
    text = f'The schema is {json.dumps(OBJECT)}; see [1]. So: {{"name": "frog"}} (not {{"name": 7}})'
    assert parse_reply(text, OBJECT) == {"name": "frog"}


def test_enums_at_the_top_are_data_too() -> None:
    assert parse_reply('"yes"', {"enum": ["yes", "no"]}) == "yes"
    with pytest.raises(InvalidReply):
        parse_reply('"maybe"', {"enum": ["yes", "no"]})


def test_of_a_cut_reply_nothing_is_picked_out() -> None:
    cut = '[["a", "b"], ["c"'
    lists = {"type": "array", "items": {"type": "string"}}
    assert parse_reply(cut, lists) == ["a", "b"]
    with pytest.raises(InvalidReply):
        parse_reply(cut, lists, whole=True)
    assert parse_reply(' ["a"]\n\n', lists, whole=True) == ["a"]


def test_a_remote_reference_is_not_followed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"
        with pytest.raises(Exception, match=re.escape(place)):
            parse_reply("{}", {"$ref": place})
        assert select.select([listener], [], [], 0)[0] == []

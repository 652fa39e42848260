"""What a reply says besides its text: log-likelihood and cached tokens; and replies that may be cut."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import EndpointError
from runner.models.base import ChatRequest, ImagePart, Message
from runner.models.chat.cache import ReplyCache
from runner.models.chat.keys import reply_key
from runner.models.chat.outcomes import reply_of_body
from runner.models.chat.wire import Payload, RawReply
from tests.chat.fault_server import serving
from tests.chat.picture_server import with_details

BASE = Payload((Message("user", ("look", ImagePart(b"jpeg"))),), {"type": "object"}, "reply", 0.5, 100)


def question(text: str = "Which animal?", **changes: Any) -> ChatRequest:
    return ChatRequest((Message("user", text),), "test", **changes)


# --- cut replies -----------------------------------------------------------------------------------------------------


async def test_a_cut_reply_is_an_answer_where_it_may_be(make_client: Any, ctx: Any) -> None:
    with serving(rate=1.0, faults=("length",)) as server:
        for attempts in (1, 0):
            reply = await make_client(server.base_url).complete(question(allow_cut=True), ctx)
            assert (reply.text, reply.finish_reason, reply.attempts) == ("You said: Which anima", "length", attempts)
        with pytest.raises(EndpointError, match="cut off"):
            await make_client(server.base_url).complete(question(), ctx)
    assert [body["max_tokens"] for body in server.bodies] == [1024, 1024, 2048]


async def test_a_cut_reply_still_has_to_obey_its_schema(make_client: Any, ctx: Any, schema: Any) -> None:
    with serving(script=("length",)) as server:
        reply = await make_client(server.base_url).complete(question(allow_cut=True, schema=schema), ctx)
    assert reply.attempts == 2 and ctx.journal.calls[0]["outcome"] == "repaired"
    assert reply.data["animal"] in ("cat", "dog", "frog")


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys_of_what_sets_neither_are_those_of_old() -> None:
    picture = hashlib.sha256(b"jpeg").hexdigest()
    written = reply_key({"model": "tiny"}, BASE, 3, 1)
    text = json.dumps(
        {
            "messages": [["user", ["look", {"image": picture, "media_type": "image/jpeg"}]]],
            "model": {"model": "tiny"},
            "sampling": [0.5, 100, 3, 1],
            "schema": ["reply", {"type": "object"}],
        },
        separators=(",", ":"),
    )
    assert written == hashlib.sha256(text.encode()).hexdigest()


def test_each_enters_the_key_when_set() -> None:
    set_ = [{}, {"allow_cut": True}, {"logprobs": True}, {"allow_cut": True, "logprobs": True}]
    assert len({reply_key({}, dataclasses.replace(BASE, **changes), 0, 0) for changes in set_}) == 4


# --- log-likelihood and cached tokens --------------------------------------------------------------------------------


async def test_likelihood_and_cached_tokens_come_through_and_stay(make_client: Any, ctx: Any) -> None:
    with serving(rate=1.0, faults=("detailed",)) as server:
        for attempts in (1, 0):
            reply = await make_client(server.base_url).complete(question(logprobs=True), ctx)
            assert (reply.log_likelihood, reply.cached_tokens, reply.attempts) == (-1.75, 5, attempts)
        plain = await make_client(server.base_url).complete(question(), ctx)
    assert [body.get("logprobs") for body in server.bodies] == [True, None]
    assert (plain.log_likelihood, plain.cached_tokens) == (None, 5)
    assert [row["cached_tokens"] for row in ctx.journal.calls] == [5, 5, 5]
    assert [row["n_images"] for row in ctx.journal.calls] == [0, 0, 0]


async def test_a_server_without_logprobs_is_asked_without(make_client: Any, ctx: Any) -> None:
    with serving(rate=1.0, faults=("no_logprobs",)) as server:
        client = make_client(server.base_url)
        replies = [await client.complete(question(text, logprobs=True), ctx) for text in "ab"]
    assert [(reply.text, reply.log_likelihood) for reply in replies] == [("You said: a", None), ("You said: b", None)]
    assert [body.get("logprobs") for body in server.bodies] == [True, None, None]


def likelihood_of(values: list[Any], tokens: int = 3) -> float | None:
    body = with_details({"logprobs": True}, "text", values, 0)
    body["usage"]["completion_tokens"] = tokens
    return reply_of_body(json.dumps(body).encode()).log_likelihood


@pytest.mark.parametrize(
    "values",
    [
        [], [-1.0], [-1.0, None, -1.0], [-1.0, "-1.0", -1.0], [-1.0, True, -1.0], [0.5, -1.0, -1.0],
        [-9999.0, -1.0, -1.0], [-math.inf, -1.0, -1.0], [math.nan, -1.0, -1.0],
    ],
)  # fmt: skip
def test_an_incomplete_or_impossible_likelihood_is_none(values: list[Any]) -> None:
    assert likelihood_of(values) is None


@pytest.mark.parametrize("logprobs", [None, [], {}, {"content": None}, {"content": [1, 2, 3]}, {"content": "abc"}, 7])
def test_odd_shapes_are_none(logprobs: Any) -> None:
    body = with_details({}, "text", [], "five")
    body["choices"][0]["logprobs"] = logprobs
    reply = reply_of_body(body)
    assert (reply.log_likelihood, reply.cached_tokens) == (None, None)


@given(st.lists(st.floats(-50.0, 0.0), min_size=1, max_size=30), st.booleans())
def test_the_likelihood_is_the_sum_with_or_without_the_end_token(values: list[float], is_end_listed: bool) -> None:
    tokens = len(values) + (0 if is_end_listed else 1)
    assert likelihood_of(values, tokens) == pytest.approx(sum(values), abs=1e-9)


# --- the cache file --------------------------------------------------------------------------------------------------

OLD_SCHEMA = """
CREATE TABLE sealed_replies (
  key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL, model TEXT NOT NULL,
  prompt_tokens INTEGER, completion_tokens INTEGER, created REAL NOT NULL, digest BLOB NOT NULL
) WITHOUT ROWID
"""


def old_file(path: Path) -> None:
    """A cache as it was written before replies had a likelihood: one whole reply, one with a changed text."""
    with sqlite3.connect(path) as connection:
        connection.execute(OLD_SCHEMA)
        for key, text in (("whole", "hello"), ("damaged", "other")):
            sealed = json.dumps([key, "hello", "stop", "tiny", 3, None])
            row = (key, text, "stop", "tiny", 3, None, 1.0, hashlib.sha256(sealed.encode()).digest())
            connection.execute("INSERT INTO sealed_replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def test_files_of_old_are_read_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    old_file(path)
    one, other = ReplyCache(path), ReplyCache(path)
    assert one.get("whole") == other.get("whole") == RawReply("hello", "stop", "tiny", 3, None)
    assert one.get("damaged") is None
    reply = RawReply("new", "stop", "tiny", 3, 4, 2, -1.5)
    one.put("new", reply)
    one.put("damaged", reply)
    assert other.get("new") == other.get("damaged") == reply


@pytest.mark.parametrize("change", ["log_likelihood = -1.4", "log_likelihood = NULL", "cached_tokens = 3"])
def test_a_changed_likelihood_is_no_reply(change: str, tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "replies.sqlite")
    cache.put("key", RawReply("text", "stop", "tiny", 3, 4, 2, -1.5))
    with sqlite3.connect(tmp_path / "replies.sqlite") as connection:
        connection.execute(f"UPDATE sealed_replies SET {change}")
    assert cache.get("key") is None


@given(
    likelihood=st.none() | st.floats(max_value=0.0, allow_infinity=False, allow_nan=False),
    cached=st.none() | st.integers(0, 2**62 - 1),
)
def test_any_numbers_come_back(tmp_path_factory: Any, likelihood: float | None, cached: int | None) -> None:
    cache = ReplyCache(tmp_path_factory.mktemp("cache") / "replies.sqlite")
    cache.put("key", RawReply("text", "stop", "tiny", 3, 4, cached, likelihood))
    found = cache.get("key")
    cache.close()
    assert found is not None and (found.cached_tokens, found.log_likelihood) == (cached, likelihood)

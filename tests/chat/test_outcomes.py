"""What statuses, headers and bodies mean, without a server."""

from __future__ import annotations

import email.utils
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.models.chat.outcomes import failure_of_status, reply_of_body, retry_after_seconds
from runner.models.chat.wire import SendFailed

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1.0),
        ("2.5", 2.5),
        ("3600", 3600.0),
        (email.utils.formatdate(NOW + 90, usegmt=True), 90.0),
        (email.utils.formatdate(NOW - 90, usegmt=True), 0.0),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("1e400", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
        ("", None),
    ],
)
def test_retry_after_in_every_form(text: str, seconds: float | None) -> None:
    assert retry_after_seconds({"retry-after": text}, NOW) == seconds


@given(st.text(max_size=40))
def test_no_retry_after_breaks_anything(text: str) -> None:
    seconds = retry_after_seconds({"retry-after": text}, NOW)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("status", "error", "scope"),
    [
        (400, {"code": "context_length_exceeded"}, "item"),
        (413, {}, "item"),
        (422, {}, "item"),
        (401, {}, "run"),
        (402, {}, "run"),
        (403, {}, "run"),
        (404, {"code": "model_not_found"}, "run"),
        (301, {}, "run"),
        (408, {}, "retry"),
        (429, {"code": "rate_limit_exceeded"}, "retry"),
        (429, {"code": "insufficient_quota"}, "run"),
        (429, {"type": "insufficient_quota"}, "run"),
        (500, {}, "retry"),
        (529, {}, "retry"),
    ],
)
def test_scope_of_statuses(status: int, error: dict[str, Any], scope: str) -> None:
    body = json.dumps({"error": error | {"message": "said so"}}).encode()
    failure = failure_of_status(status, {}, body, NOW)
    assert (failure.scope, failure.status) == (scope, status)
    assert "said so" in failure.message
    assert (failure.hint is not None) == (scope == "run")


def test_a_page_is_quoted_briefly() -> None:
    failure = failure_of_status(503, {}, b"<html>" + b"x " * 10_000, NOW)
    assert failure.scope == "retry" and len(failure.message) < 400


def test_an_error_inside_a_200_keeps_its_code() -> None:
    with pytest.raises(SendFailed) as error:
        reply_of_body({"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}})
    assert (error.value.scope, error.value.status) == ("item", 400)
    with pytest.raises(SendFailed) as error:
        reply_of_body({"object": "error", "message": "not now", "code": 50001})
    assert error.value.scope == "retry"


def test_half_characters_do_not_reach_the_cache() -> None:
    body = b'{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}'
    assert reply_of_body(body).text == "a?b"


def test_a_reply_cut_before_its_first_word_is_a_cut_reply() -> None:
    body = {"choices": [{"message": {"content": None}, "finish_reason": "length"}], "usage": {"prompt_tokens": True}}
    reply = reply_of_body(body)
    assert (reply.text, reply.finish_reason, reply.prompt_tokens) == ("", "length", None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "error", "usage", "code"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(json_values)
def test_any_body_is_a_reply_or_a_failure(value: Any) -> None:
    try:
        reply = reply_of_body(json.dumps(value).encode())
    except SendFailed as failure:
        assert failure.scope in ("retry", "item", "run")
    else:
        assert reply.text and reply.finish_reason

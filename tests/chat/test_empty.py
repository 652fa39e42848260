"""Blank replies: passing faults where something must be said, answers where silence is one."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from runner.errors import EndpointError
from runner.models.base import ChatRequest, Message
from runner.models.chat.keys import reply_key
from runner.models.chat.sender import BLANK_RETRIES
from runner.models.chat.transformers_backend import LoadedModel
from runner.models.chat.vllm_backend import VllmBackend
from runner.models.chat.wire import Payload, RawReply, SendFailed
from tests.chat.fault_server import serving

TRIES = 1 + BLANK_RETRIES


def question(text: str = "Which animal?", **changes: Any) -> ChatRequest:
    return ChatRequest((Message("user", text),), "test", **{"allow_empty": True, **changes})


@pytest.mark.parametrize("blank", ["", " \n"])
async def test_a_blank_reply_that_stays_is_an_answer_and_is_kept(blank: str, make_client: Any, ctx: Any) -> None:
    with serving(answer=lambda body: blank) as server:
        for attempts in (TRIES, 0):
            reply = await make_client(server.base_url).complete(question(), ctx)
            assert (reply.text, reply.finish_reason, reply.attempts) == (blank, "stop", attempts)
            assert reply.cached == (attempts == 0)
    assert server.requests == TRIES and [row["outcome"] for row in ctx.journal.calls] == ["ok", "ok"]


async def test_text_that_is_missing_counts_as_blank(make_client: Any, ctx: Any) -> None:
    with serving(rate=1.0, faults=("null_content",)) as server:
        assert (await make_client(server.base_url).complete(question(), ctx)).text == ""


async def test_a_blank_reply_that_passes_is_none(make_client: Any, ctx: Any) -> None:
    with serving(script=("null_content",) * BLANK_RETRIES) as server:
        reply = await make_client(server.base_url).complete(question(), ctx)
    assert (reply.text, reply.attempts) == ("You said: Which animal?", TRIES)


@pytest.mark.parametrize("patience", [{"max_retries": 0}, {"max_wait": 0.0}])
async def test_where_patience_ends_first_it_is_taken_as_it_came(patience: Any, make_client: Any, ctx: Any) -> None:
    with serving(answer=lambda body: "") as server:
        client = make_client(server.base_url, patience=patience)
        replies = [await client.complete(question(str(i)), ctx) for i in range(8)]  # more than end a run
    assert {(reply.text, reply.attempts) for reply in replies} == {("", 1)}


async def test_what_did_not_end_by_itself_is_no_answer(make_client: Any, ctx: Any) -> None:
    for name in ("content_filter", "refusal", "empty_choices", "broken_json"):
        with serving(rate=1.0, faults=(name,)) as server:
            client = make_client(server.base_url, patience={"max_retries": 3})
            with pytest.raises(EndpointError) as error:
                await client.complete(question(name), ctx)
        assert error.value.scope == "item"


async def test_a_reply_to_a_schema_must_obey_it_all_the_same(make_client: Any, ctx: Any, schema: Any) -> None:
    with serving(answer=lambda body: "") as server, pytest.raises(EndpointError, match="after 2 repairs"):
        await make_client(server.base_url).complete(question(schema=schema), ctx)
    assert server.requests == 3 * TRIES


def test_it_enters_the_key_when_set_alone() -> None:
    base = Payload((Message("user", "look"),))
    set_: list[dict[str, Any]] = [{}, {"allow_cut": True}, {"allow_empty": True}, {"logprobs": True}]
    assert len({reply_key({}, dataclasses.replace(base, **changes), 0, 0) for changes in set_}) == 4


# --- models inside this process --------------------------------------------------------------------------------------

ENDS = [(False, "stop", SendFailed), (True, "stop", RawReply), (True, "length", RawReply), (False, "length", RawReply)]


@pytest.mark.parametrize(("allowed", "finish", "kind"), ENDS)
def test_transformers(allowed: bool, finish: str, kind: type) -> None:
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: "")
    payload = Payload((Message("user", "look"),), allow_empty=allowed)
    row: Any = SimpleNamespace(payload=payload, finish=finish, written=[0], log_likelihood=-0.5, text_ids=list)
    loaded: Any = LoadedModel(None, tokenizer, None, frozenset({0}), None)  # type: ignore[arg-type]
    assert isinstance(loaded._reply(row, 3, "tiny"), kind)


@pytest.mark.parametrize(("allowed", "finish", "kind"), [*ENDS, (True, "abort", SendFailed)])
def test_vllm(allowed: bool, finish: str, kind: type) -> None:
    first = SimpleNamespace(text="", finish_reason=finish, token_ids=[0], cumulative_logprob=-0.5)
    output = SimpleNamespace(outputs=[first], prompt_token_ids=[1, 2], num_cached_tokens=0)
    backend: Any = VllmBackend.__new__(VllmBackend)
    backend._model_name = "tiny"
    payload = Payload((Message("user", "look"),), allow_empty=allowed)
    assert isinstance(backend._reply(output, payload), kind)


async def test_a_server_that_ignores_the_limit_is_cut_where_the_limit_cannot_reach(make_client: Any, ctx: Any) -> None:
    with serving(answer=lambda body: "x" * 500_000) as server:
        reply = await make_client(server.base_url).complete(question(max_tokens=16, allow_cut=True), ctx)
    assert reply.finish_reason == "length" and 1000 < len(reply.text) < 5000

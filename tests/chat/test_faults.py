"""Every fault of a real server on loopback ends as it should: answered, given up with a reason, or the run stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runner.errors import EndpointError
from runner.models.base import ChatRequest, Message


def question(text: str = "Which animal?", **changes: Any) -> ChatRequest:
    return ChatRequest((Message("system", "You answer."), Message("user", text)), "test", item=text, **changes)


PASSING = [
    "rate_limit", "rate_limit_short", "http_500", "http_503_html", "reset", "cut_body", "broken_json", "html_200",
    "error_200", "empty_choices", "null_content", "no_finish_reason", "huge", "compressed",
]  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
async def test_what_passes_is_asked_again(name: str, faults: Any, make_client: Any, ctx: Any, schema: Any) -> None:
    with faults.serving(script=(name,)) as server:
        reply = await make_client(server.base_url).complete(question(schema=schema), ctx)
    assert reply.data["animal"] in ("cat", "dog", "frog")
    assert (server.requests, reply.attempts) == (2, 2)
    row = ctx.journal.calls[0]
    assert (row["outcome"], row["attempts"], row["cached"]) == ("ok", 2, False)
    assert row["error"]


@pytest.mark.parametrize("name", ["wrong_schema", "schema_echo", "duplicate_keys", "attributes_400", "nan"])
async def test_what_cannot_be_used_is_repaired_once(
    name: str, faults: Any, make_client: Any, ctx: Any, schema: Any
) -> None:
    with faults.serving(script=(name,)) as server:
        reply = await make_client(server.base_url).complete(question(schema=schema), ctx)
    assert reply.data["animal"] in ("cat", "dog", "frog")
    assert server.requests == 2
    assert ctx.journal.calls[0]["outcome"] == "repaired"
    repair = server.bodies[1]["messages"]
    assert [m["role"] for m in repair] == ["system", "user", "assistant", "user"]
    assert "cannot be used" in repair[-1]["content"]


@pytest.mark.parametrize("name", ["prose", "fences", "no_usage"])
async def test_what_is_only_wrapped_is_taken(name: str, faults: Any, make_client: Any, ctx: Any, schema: Any) -> None:
    with faults.serving(script=(name,)) as server:
        reply = await make_client(server.base_url).complete(question(schema=schema), ctx)
    assert reply.data["animal"] in ("cat", "dog", "frog")
    assert server.requests == 1
    assert ctx.journal.calls[0]["prompt_tokens"] == (None if name == "no_usage" else 7)


@pytest.mark.parametrize("name", ["http_400", "refusal", "content_filter"])
async def test_what_cannot_succeed_is_given_up_at_once(name: str, faults: Any, make_client: Any, ctx: Any) -> None:
    with faults.serving(script=(name,)) as server:
        client = make_client(server.base_url)
        with pytest.raises(EndpointError) as error:
            await client.complete(question(), ctx)
        assert error.value.scope == "item"
        assert (await client.complete(question("another"), ctx)).text == "You said: another"
    assert server.requests == 2
    assert [row["outcome"] for row in ctx.journal.calls] == ["item", "ok"]


@pytest.mark.parametrize("name", ["http_401", "http_403", "http_404", "quota", "redirect"])
async def test_what_fails_everything_stops_the_run(name: str, faults: Any, make_client: Any, ctx: Any) -> None:
    with faults.serving(script=(name,)) as server:
        client = make_client(server.base_url)
        for text in ("first", "second", "third"):
            with pytest.raises(EndpointError) as error:
                await client.complete(question(text), ctx)
            assert error.value.scope == "run"
            assert error.value.hint
    assert server.requests == 1
    assert [row["outcome"] for row in ctx.journal.calls] == ["run"] * 3
    assert [row["attempts"] for row in ctx.journal.calls] == [1, 0, 0]


async def test_a_cut_reply_is_asked_for_once_more_with_more_room(
    faults: Any, make_client: Any, ctx: Any, schema: Any
) -> None:
    with faults.serving(script=("length",)) as server:
        client = make_client(server.base_url)
        reply = await client.complete(question(schema=schema, max_tokens=50), ctx)
        assert [body["max_tokens"] for body in server.bodies] == [50, 100]
        again = await client.complete(question(schema=schema, max_tokens=50), ctx)
    assert (again.cached, again.data, server.requests) == (True, reply.data, 2)
    assert ctx.journal.calls[0]["outcome"] == "ok"


async def test_a_reply_cut_twice_is_given_up(faults: Any, make_client: Any, ctx: Any) -> None:
    with faults.serving(script=("length", "length")) as server:
        client = make_client(server.base_url)
        with pytest.raises(EndpointError, match="cut off at 2048 tokens") as error:
            await client.complete(question(), ctx)
    assert (error.value.scope, server.requests) == ("item", 2)


async def test_repairs_are_bounded(faults: Any, make_client: Any, ctx: Any, schema: Any) -> None:
    with faults.serving(rate=1.0, faults=("wrong_schema",)) as server:
        client = make_client(server.base_url)
        with pytest.raises(EndpointError, match="after 2 repairs") as error:
            await client.complete(question(schema=schema), ctx)
    assert (error.value.scope, server.requests) == ("item", 3)


async def test_the_semantic_check_is_quoted_to_the_model(faults: Any, make_client: Any, ctx: Any) -> None:
    def accept(text: str) -> None:
        if "cannot be used" not in text:
            raise ValueError("the words must rhyme")

    with faults.serving() as server:
        reply = await make_client(server.base_url).complete(question(accept=accept), ctx)
    assert "the words must rhyme" in server.bodies[1]["messages"][-1]["content"]
    assert "cannot be used" in reply.text


async def test_a_server_without_response_format_is_instructed(
    faults: Any, make_client: Any, ctx: Any, schema: Any
) -> None:
    def answer(body: dict[str, Any]) -> str:
        return '{"animal": "cat", "why": "it says so"}'

    with faults.serving(rate=1.0, faults=("no_response_format",), answer=answer) as server:
        client = make_client(server.base_url)
        first = await client.complete(question("one", schema=schema), ctx)
        second = await client.complete(question("two", schema=schema), ctx)
    assert first.data == second.data == {"animal": "cat", "why": "it says so"}
    assert ["response_format" in body for body in server.bodies] == [True, False, False]
    assert '"enum": ["cat", "dog", "frog"]' in server.bodies[1]["messages"][0]["content"]


async def test_parameters_a_server_does_not_take_are_dropped(faults: Any, make_client: Any, ctx: Any) -> None:
    with faults.serving(rate=1.0, faults=("strict_parameters",)) as server:
        client = make_client(server.base_url)
        await client.complete(question("one"), ctx)
        await client.complete(question("two"), ctx)
    assert server.requests == 4
    assert "max_completion_tokens" in server.bodies[-1]
    assert not {"max_tokens", "temperature"} & server.bodies[-1].keys()


async def test_a_silent_server_ends_in_time(faults: Any, make_client: Any, ctx: Any) -> None:
    for name in ("hang", "drip"):
        with faults.serving(rate=1.0, faults=(name,)) as server:
            client = make_client(server.base_url, patience={"timeout": 0.2, "deadline": 1.0, "max_retries": 2})
            with pytest.raises(EndpointError, match=r"no complete answer|did not answer") as error:
                await client.complete(question(name), ctx)
        assert error.value.scope == "item"
        assert server.requests <= 3


async def test_waiting_an_hour_is_declined_and_said(faults: Any, make_client: Any, ctx: Any) -> None:
    with faults.serving(rate=1.0, faults=("rate_limit_3600",)) as server:
        client = make_client(server.base_url)
        with pytest.raises(EndpointError, match="3600 s"):
            await client.complete(question(), ctx)
    assert server.requests == 1


@pytest.mark.parametrize("name", ["rate_limit_1", "rate_limit_date"])
async def test_retry_after_is_obeyed_and_shown(name: str, faults: Any, make_client: Any, ctx: Any) -> None:
    shown: list[str] = []

    class Sink:
        def message(self, step: str, level: str, text: str, item: str | None) -> None:
            shown.append(f"{level}: {text}")

        def usage(self, *args: Any) -> None:
            pass

    ctx.sink = Sink()
    with faults.serving(script=(name,)) as server:
        client = make_client(server.base_url, patience={"say_from": 0.0})
        assert (await client.complete(question(), ctx)).attempts == 2
    assert len(shown) == 1 and shown[0].startswith("info: rate limited, next try in ")
    assert ctx.journal.messages == []


async def test_nobody_there_ends_in_a_clear_error(make_client: Any, ctx: Any) -> None:
    client = make_client("http://127.0.0.1:9/v1", patience={"max_retries": 1, "give_ups": 2})
    scopes = []
    for text in ("a", "b", "c"):
        with pytest.raises(EndpointError, match=r"no answer from http://127\.0\.0\.1:9") as error:
            await client.complete(question(text), ctx)
        scopes.append(error.value.scope)
    assert scopes == ["item", "item", "run"]


async def test_with_faults_the_replies_are_those_without(faults: Any, make_client: Any, ctx: Any, schema: Any) -> None:
    """30 % of all answers are faults of every passing kind; what is told from the run is the same."""
    questions = [question(f"Which animal is number {i}?", schema=schema, max_repairs=6) for i in range(60)]
    replies = []
    for rate, cache in ((0.0, "calm.sqlite"), (0.3, "stormy.sqlite")):
        with faults.serving(rate=rate, seed=5) as server:
            client = make_client(server.base_url, cache=cache)
            replies.append([r.data for r in await asyncio.gather(*(client.complete(q, ctx) for q in questions))])
    assert replies[0] == replies[1]
    assert server.requests > 60 and len(server.seen) > 10


@pytest.mark.parametrize("seed", range(3))
async def test_with_nothing_but_faults_it_ends(seed: int, faults: Any, make_client: Any, ctx: Any, schema: Any) -> None:
    hopeless = tuple(set(faults.PASSING) - {"no_usage", "prose", "fences"})
    with faults.serving(rate=1.0, seed=seed, faults=hopeless) as server:
        client = make_client(server.base_url, patience={"max_retries": 2})
        tasks = [client.complete(question(f"{i}", schema=schema), ctx) for i in range(20)]
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, EndpointError) for end in ends)
    assert server.requests <= 20 * 3 * 2 * 3  # turns x cut replies asked again x tries
    assert len(ctx.journal.calls) == 20

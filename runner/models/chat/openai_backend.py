"""Any server that speaks the chat-completions protocol, through the official client with its own retries switched off.

The body of every answer is bounded, never decompressed, and judged by ``outcomes``; no key reaches a message.
"""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai

from runner.models.chat.controller import PerLoop
from runner.models.chat.dialect import Dialect
from runner.models.chat.outcomes import failure_of_status, reply_of_body
from runner.models.chat.wire import Payload, RawReply, SendFailed

MAX_BODY_BYTES = 4 << 20


class UnusableBody(httpx2.TransportError):
    """The body is larger than allowed, or compressed although that was not asked for."""


class OpenAIBackend:
    """One model at one server. ``key`` is sent as a bearer token and appears nowhere else; None sends none."""

    def __init__(
        self, base_url: str, model: str, key: str | None, timeout: float | None = 300.0, *, image_ids: bool = False
    ) -> None:
        self._base_url, self._key, self._timeout = base_url, key, timeout
        self._dialect = Dialect(model, image_ids=image_ids)
        self._clients = PerLoop(self._open)

    def __repr__(self) -> str:
        return f"OpenAIBackend({self._base_url!r})"

    async def send(self, payload: Payload) -> RawReply:
        """One request. Raises ``SendFailed``; with ``at_once`` when the server's dialect was just learnt."""
        body = self._dialect.body(payload)
        try:
            return reply_of_body(await self._exchange("/chat/completions", body))
        except SendFailed as failure:
            failure = self._redacted(failure)
            if self._dialect.learn(failure, payload, body):
                failure.at_once, failure.scope = True, "retry"
            raise failure from None

    def named(self, model: str) -> OpenAIBackend:
        """The same server, asked for ``model``, over the same connections."""
        other = copy.copy(self)
        other._dialect = self._dialect.named(model)
        return other

    async def models(self) -> list[str]:
        """Identifiers that the server lists. Raises ``SendFailed``."""
        try:
            listed = json.loads(await self._exchange("/models"))["data"]
            return [str(entry["id"]) for entry in listed]
        except SendFailed as failure:
            raise self._redacted(failure) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SendFailed(f"{self._base_url}/models lists no models", scope="run") from error

    async def administer(self, path: str, body: dict[str, Any]) -> None:
        """POST ``body`` to ``path`` below the base address. Raises ``SendFailed`` unless the status is 200."""
        try:
            await self._exchange(path, body)
        except SendFailed as failure:
            raise self._redacted(failure) from None

    async def disconnect(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.take()
        if client is not None:
            await client.close()

    def reads_text_only(self) -> bool:
        """Only the server knows."""
        return False

    def close(self) -> None:
        """Close the connections of every event loop that is still open."""
        for loop, client in self._clients.take_all():
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(client.close(), loop)
            elif not loop.is_closed():
                loop.run_until_complete(client.close())

    async def _exchange(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """The body of a 200; without a ``body`` the request is a GET."""
        headers: dict[str, str | openai.Omit] = {"Authorization": openai.Omit()} if self._key is None else {}
        try:
            client = self._clients.get()
            if body is None:
                answer = await client.get(path, cast_to=httpx2.Response, options={"headers": headers})
            else:
                answer = await client.post(path, cast_to=httpx2.Response, body=body, options={"headers": headers})
        except openai.APIStatusError as error:
            raise failure_of_status(
                error.status_code, error.response.headers, error.response.content, time.time()
            ) from None
        except openai.APIConnectionError as error:
            raise SendFailed(_unreachable(error, self._base_url), scope="retry") from None
        except openai.OpenAIError as error:
            raise SendFailed(f"the request could not be made: {error}", scope="item") from None
        if answer.status_code != 200:
            raise failure_of_status(answer.status_code, answer.headers, answer.content, time.time())
        return answer.content

    def _redacted(self, failure: SendFailed) -> SendFailed:
        if self._key:
            failure.message = failure.message.replace(self._key, "***")
            failure.args = (failure.message,)
        return failure

    def _open(self) -> openai.AsyncOpenAI:
        http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(self._timeout, connect=min(self._timeout or 30.0, 30.0)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            event_hooks={"response": [_bound_body]},
            follow_redirects=False,
        )
        return openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._key or "none",
            max_retries=0,
            http_client=http,
            default_headers={"Accept-Encoding": "identity"},
        )


class _BoundedStream(httpx2.AsyncByteStream):
    """Passes a body on until it is too long."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._inner:
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise UnusableBody(f"an answer of more than {MAX_BODY_BYTES >> 20} MiB")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _bound_body(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnusableBody("a compressed answer, which was not asked for")
    stream = response.stream
    if isinstance(stream, httpx2.AsyncByteStream):
        response.stream = _BoundedStream(stream)


def _unreachable(error: openai.APIConnectionError, base_url: str) -> str:
    cause = error.__cause__
    if isinstance(cause, UnusableBody):
        return f"{base_url} sent {cause}"
    if isinstance(cause, httpx2.TimeoutException):
        return f"{base_url} did not answer in time"
    detail = f" ({cause})" if cause and str(cause) else ""
    return f"no answer from {base_url}: {type(cause).__name__ if cause else 'connection error'}{detail}"

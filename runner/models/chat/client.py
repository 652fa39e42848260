"""The one chat client: reply cache, validation, bounded repair and accounting around any backend.

Invariant: a reply is in the cache before it is used, and only whole replies are. Resuming therefore repeats no answered
question; what failed is asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.context import StepContext
from runner.errors import EndpointError
from runner.models.base import ChatModel, ChatReply, ChatRequest, ImageSupport, Message
from runner.models.chat import probing
from runner.models.chat.accounting import Ledger
from runner.models.chat.cache import ReplyCache
from runner.models.chat.controller import PerLoop, gate_for
from runner.models.chat.keys import draw_seed, reply_key
from runner.models.chat.parse import InvalidReply, check_schema, parse_reply
from runner.models.chat.prices import Price
from runner.models.chat.sender import Patience, Sender
from runner.models.chat.wire import AdapterBackend, Backend, Payload, RawReply

LENGTHEN = 2  # a reply cut off at the token limit is asked for once more with this many times the limit
_QUOTED = 600
_TOKEN_CHARACTERS, _SPARE_CHARACTERS = 64, 1000


@dataclass(frozen=True)
class ClientSettings:
    """Who is asked and how.

    ``provider`` and ``model`` name the model in ``llm_calls``; ``identity`` gives, on first use, what enters the keys of
    the reply cache; ``endpoint`` tells apart what shares one rate limit; ``concurrency`` is the most requests in
    flight; ``temperature`` replaces that of every request.
    """

    provider: str
    model: str
    identity: Callable[[], dict[str, Any]]
    endpoint: str = ""
    concurrency: int = 16
    patience: Patience = field(default_factory=Patience)
    temperature: float | None = None
    price: Price | None = None


class InFlight:
    """Makes equal questions wait for one another: the second then finds the first one's reply in the cache."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """Hold ``key``; whoever else wants it waits."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)


class Client(ChatModel):
    """A chat model behind ``backend``. One client may serve several event loops, one after the other or at once."""

    def __init__(self, backend: Backend, cache: ReplyCache, settings: ClientSettings) -> None:
        self.name = settings.model
        self._cache = cache
        endpoint = settings.endpoint or hashlib.sha256(repr(id(backend)).encode()).hexdigest()
        self.settings = replace(settings, endpoint=endpoint)
        self._sender = Sender(backend, gate_for(endpoint, settings.concurrency), settings.patience)
        self._in_flight = PerLoop(InFlight)
        self._identity: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Client({self.settings.provider}, {self.name!r})"

    async def complete(self, request: ChatRequest, ctx: StepContext) -> ChatReply:
        """Answer ``request``; one row in ``llm_calls`` whatever happens. See ``ChatModel.complete``."""
        with self._recorded(request, ctx) as ledger:
            reply, data = await self._converse(request, ledger)
            ledger.outcome = "repaired" if ledger.repairs else "ok"
            return ChatReply(
                text=reply.text,
                data=data,
                finish_reason=reply.finish_reason,
                prompt_tokens=ledger.prompt_tokens or 0,
                completion_tokens=ledger.completion_tokens or 0,
                attempts=ledger.sent,
                cached=ledger.cached,
                model=reply.model or self.name,
                cached_tokens=ledger.cached_tokens,
                log_likelihood=reply.log_likelihood,
            )

    async def check_images(self, count: int, ctx: StepContext, *, interleaving: bool = False) -> ImageSupport:
        """Ask with ``count`` small pictures; the answers are cached as any others. See ``ChatModel.check_images``."""
        if self._sender.backend.reads_text_only():
            raise probing.text_only(self.name)
        await probing.accepts(self, count, ctx)
        return ImageSupport(count, await probing.keeps_order(self, ctx) if interleaving else None)

    def with_adapter(self, name: str, sha256: str) -> Client:
        """See ``ChatModel.with_adapter``; cache, connections and rate limit are shared."""
        own = self.settings.identity
        settings = replace(self.settings, model=name, identity=lambda: own() | {"adapter": sha256})
        return Client(self._adapters().named(name), self._cache, settings)

    async def served_models(self) -> list[str]:
        """See ``ChatModel.served_models``."""
        return await self._adapters().models()

    async def load_adapter(self, name: str, folder: Path) -> None:
        """See ``ChatModel.load_adapter``; by the endpoint of vLLM."""
        await self._adapters().administer("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    async def unload_adapter(self, name: str) -> None:
        """See ``ChatModel.unload_adapter``; by the endpoint of vLLM."""
        await self._adapters().administer("/unload_lora_adapter", {"lora_name": name})

    async def disconnect(self) -> None:
        """See ``ChatModel.disconnect``."""
        if isinstance(self._sender.backend, AdapterBackend):
            await self._sender.backend.disconnect()

    def _adapters(self) -> AdapterBackend:
        backend = self._sender.backend
        if not isinstance(backend, AdapterBackend):
            raise self._no_adapters()
        return backend

    def close(self) -> None:
        """Close the backend and the cache file."""
        self._sender.backend.close()
        self._cache.close()

    @contextlib.contextmanager
    def _recorded(self, request: ChatRequest, ctx: StepContext) -> Iterator[Ledger]:
        ledger = Ledger(request, ctx, self.settings.price)
        try:
            yield ledger
        except EndpointError as error:
            ledger.outcome, ledger.error = ("item" if error.scope == "item" else "run"), error.message
            raise
        except BaseException as error:
            ledger.error = str(error) or type(error).__name__
            raise
        finally:
            ledger.close(self.settings.provider, self.name)

    async def _converse(self, request: ChatRequest, ledger: Ledger) -> tuple[RawReply, Any]:
        """Ask; while the reply cannot be used and repairs are left, say why and ask again."""
        payload = self._payload(request)
        while True:
            reply = await self._answer(payload, request, ledger)
            try:
                return reply, _accepted(reply, request)
            except ValueError as error:
                if ledger.repairs >= request.max_repairs:
                    reason = f"no usable reply after {ledger.repairs} repairs: {error}"
                    raise EndpointError(reason, scope="item") from error
                ledger.repairs += 1
                payload = replace(payload, messages=payload.messages + _repair(reply, error, request))

    def _payload(self, request: ChatRequest) -> Payload:
        if request.schema is not None:
            try:
                check_schema(request.schema)
            except ValueError as error:
                raise EndpointError(f"the question's schema is {error}", scope="item") from error
        temperature = request.temperature if self.settings.temperature is None else self.settings.temperature
        return Payload(
            messages=request.messages,
            schema=request.schema,
            schema_name=request.schema_name,
            temperature=temperature,
            max_tokens=request.max_tokens,
            seed=draw_seed(request.seed, request.sample),
            allow_cut=request.allow_cut,
            allow_empty=request.allow_empty,
            logprobs=request.logprobs,
        )

    async def _answer(self, payload: Payload, request: ChatRequest, ledger: Ledger) -> RawReply:
        """One turn, from the cache or from the model; a whole reply."""
        key = reply_key(await self._identify(), payload, request.seed, request.sample)
        ledger.cache_key = ledger.cache_key or key
        async with self._in_flight.get().alone(key):
            stored = self._cache.get(key)
            if stored is not None:
                ledger.hit(stored)
                return stored
            return await self._whole_reply(payload, ledger, lambda whole: self._cache.put(key, whole))

    async def _whole_reply(self, payload: Payload, ledger: Ledger, keep: Callable[[RawReply], None]) -> RawReply:
        """The model's reply, kept before it is counted; asked for once more with a larger limit when it was cut off."""
        for factor in (1, LENGTHEN):
            longer = replace(payload, max_tokens=payload.max_tokens * factor)
            ledger.ctx.check()
            ledger.ctx.budget.spend("llm_calls", 1)
            reply = _bounded(await self._sender.send(longer, ledger.turn()), longer.max_tokens)
            whole = _is_whole(reply, payload)
            if whole:
                keep(reply)
            ledger.paid(reply)
            if whole:
                return reply
        raise EndpointError(f"the reply was still cut off at {longer.max_tokens} tokens", scope="item")

    async def _identify(self) -> dict[str, Any]:
        """What enters the keys; found once, in a thread, since it may mean hashing a file of gigabytes."""
        if self._identity is None:
            self._identity = await asyncio.to_thread(self.settings.identity)
        return self._identity


def _bounded(reply: RawReply, max_tokens: int) -> RawReply:
    """The reply, cut where no ``max_tokens`` tokens can reach: a server that ignores the limit fills no database."""
    most = _SPARE_CHARACTERS + _TOKEN_CHARACTERS * max_tokens
    return reply if len(reply.text) <= most else replace(reply, text=reply.text[:most], finish_reason="length")


def _is_whole(reply: RawReply, payload: Payload) -> bool:
    """Whether the reply ended by itself, may end anywhere, or is a complete answer although it ran into the limit."""
    if reply.finish_reason != "length" or payload.allow_cut:
        return True
    if payload.schema is None:
        return False
    try:
        parse_reply(reply.text, payload.schema, whole=True)
    except InvalidReply:
        return False
    return True


def _accepted(reply: RawReply, request: ChatRequest) -> Any:
    """The parsed reply (None without a schema). Raises ``ValueError`` saying why it cannot be used."""
    data = parse_reply(reply.text, request.schema) if request.schema is not None else None
    if request.accept is not None:
        request.accept(reply.text if request.schema is None else data)
    return data


def _repair(reply: RawReply, error: ValueError, request: ChatRequest) -> tuple[Message, Message]:
    """The two turns that ask again: what was said, and what is wrong with it."""
    form = "with the corrected JSON only" if request.schema is not None else "again"
    shown = reply.text if len(reply.text) <= 20_000 else reply.text[:20_000]
    text = f"That reply cannot be used: {str(error)[:_QUOTED]}\nPlease answer {form}."
    return Message("assistant", shown), Message("user", text)

"""Patience: one turn is sent until it is answered, given up, or known to be hopeless.

A turn waits for a slot (unbounded: a queue is no failure). From its first request on, ``Patience.deadline`` bounds
everything: requests, waiting between them, and what the server asks for with ``Retry-After``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from runner.context import StepContext
from runner.errors import EndpointError, EndpointScope
from runner.models.chat.controller import Gate, PerLoop
from runner.models.chat.wire import Backend, Payload, RawReply, SendFailed, may_be_blank

_random = random.SystemRandom()
BLANK_RETRIES = 2  # a blank reply that may be the answer is asked for so many times more
_SLICE = 0.5  # seconds between two looks at whether the run should stop


@dataclass(frozen=True)
class Patience:
    """How long to try. Times in seconds; None = no bound.

    ``timeout``: one request; ``deadline``: one turn, from its first request on; ``max_retries``: further requests after
    the first; ``max_wait``: sum of the waiting between them; ``base``, ``cap``: backoff before retry n is drawn from
    [0, min(cap, base * 2^n)]; ``give_ups``: turns given up in a row until the endpoint is taken to be down;
    ``say_from``: waits at least this long are shown.
    """

    timeout: float | None = 300.0
    deadline: float | None = 900.0
    max_retries: int = 6
    max_wait: float = 300.0
    base: float = 0.5
    cap: float = 30.0
    give_ups: int = 5
    say_from: float = 2.0

    def backoff(self, retry: int, failure: SendFailed) -> float:
        """Seconds before retry number ``retry`` (0 = first): full jitter, never less than the server asked for."""
        if failure.at_once:
            return 0.0
        if failure.retry_after is not None:
            return failure.retry_after + _random.uniform(0.0, self.base)
        return _random.uniform(0.0, min(self.cap, self.base * 2.0 ** min(retry, 30)))


class Breaker:
    """Remembers that asking further is useless, so that a thousand questions do not each find out."""

    def __init__(self, give_ups: int) -> None:
        self._allowed, self._in_a_row = give_ups, 0
        self._open: EndpointError | None = None

    def check(self) -> None:
        """Raise the error that opened the breaker, if one did."""
        if self._open is not None:
            raise EndpointError(self._open.message, scope="run", status=self._open.status, hint=self._open.hint)

    def succeeded(self) -> None:
        """The endpoint works."""
        self._in_a_row = 0

    def gave_up(self, failure: EndpointError) -> None:
        """A turn failed for good; open on a run-level failure, or when too many are given up in a row."""
        if failure.scope == "run":
            self._open = self._open or failure
        elif failure.scope == "item":
            self._in_a_row = 0
        else:
            self._in_a_row += 1
            if self._in_a_row >= self._allowed:
                text = f"{self._in_a_row} questions in a row got no usable answer; the last: {failure.message}"
                hint = failure.hint or "is the server up? The same command goes on from here"
                self._open = self._open or EndpointError(text, scope="run", status=failure.status, hint=hint)


@dataclass
class Attempts:
    """How one turn is going: requests sent, blank replies, seconds waited between them, when the first one started."""

    ctx: StepContext
    item: str
    sent: int = 0
    retries: int = 0
    blanks: int = 0
    waited: float = 0.0
    started: float | None = None
    last_error: str | None = None


class Sender:
    """Sends turns through a backend, within the gate's limit, with retries and a circuit breaker."""

    def __init__(self, backend: Backend, gates: PerLoop[Gate], patience: Patience) -> None:
        self.backend, self.patience = backend, patience
        self._gates = gates
        self._breaker = Breaker(patience.give_ups)

    async def send(self, payload: Payload, attempts: Attempts) -> RawReply:
        """The reply. Raises ``EndpointError`` with scope ``item`` or ``run`` when there will be none."""
        gate = self._gates.get()
        while True:
            failure = await self._try(gate, payload, attempts)
            if isinstance(failure, RawReply):
                return failure
            attempts.last_error = failure.message
            wait = self.patience.backoff(attempts.retries, failure)
            blank = self._settled_blank(failure, payload, attempts, wait)
            if blank is not None:
                return blank
            self._give_up_unless_worthwhile(failure, attempts, wait)
            await self._pause(gate, failure, attempts, wait)

    async def _try(self, gate: Gate, payload: Payload, attempts: Attempts) -> RawReply | SendFailed:
        async with gate.slot(ahead=attempts.sent > 0):
            await self._wait_until(lambda: gate.closed_until, attempts)
            attempts.ctx.check()
            self._breaker.check()
            attempts.started = attempts.started or time.monotonic()
            attempts.sent += 1
            try:
                reply = await self._once(payload, attempts)
            except SendFailed as failure:
                self._learn(gate, failure)
                return failure
            gate.limit.succeeded(gate.in_flight)
            self._breaker.succeeded()
            return reply

    async def _once(self, payload: Payload, attempts: Attempts) -> RawReply:
        bounds = [b for b in (self.patience.timeout, self._remaining(attempts)) if b is not None]
        bound = max(0.0, min(bounds)) if bounds else None
        try:
            async with asyncio.timeout(bound):
                return await self.backend.send(payload)
        except TimeoutError:
            raise SendFailed(f"no complete answer within {bound:g} s", scope="retry") from None

    def _remaining(self, attempts: Attempts) -> float | None:
        if self.patience.deadline is None:
            return None
        started = time.monotonic() if attempts.started is None else attempts.started
        return self.patience.deadline - (time.monotonic() - started)

    @staticmethod
    def _learn(gate: Gate, failure: SendFailed) -> None:
        if failure.limited:
            gate.limit.limited(failure.retry_after)
        elif failure.scope == "retry" and not failure.at_once and failure.blank is None:  # silence is no overload
            gate.limit.faltered()

    def _settled_blank(self, failure: SendFailed, payload: Payload, attempts: Attempts, wait: float) -> RawReply | None:
        """The blank reply that came, where it may be the answer and came often enough or cannot be asked for again."""
        blank = failure.blank
        if blank is None or not may_be_blank(payload, blank.finish_reason):
            return None
        attempts.blanks += 1
        if attempts.blanks <= BLANK_RETRIES and self._why_not_again(failure, attempts, wait) is None:
            return None
        self._breaker.succeeded()
        return blank

    def _give_up_unless_worthwhile(self, failure: SendFailed, attempts: Attempts, wait: float) -> None:
        if failure.at_once:
            return
        reason = self._why_not_again(failure, attempts, wait)
        if reason is None:
            return
        self._breaker.gave_up(failure)
        scope: EndpointScope = "run" if failure.scope == "run" else "item"
        text = f"{failure.message} ({reason})" if reason else failure.message
        raise EndpointError(text, scope=scope, status=failure.status, hint=failure.hint)

    def _why_not_again(self, failure: SendFailed, attempts: Attempts, wait: float) -> str | None:
        """Why the turn is given up ('' when the failure says it all), or None to try again."""
        remaining = self._remaining(attempts)
        if failure.scope != "retry":
            return ""
        if attempts.retries >= self.patience.max_retries:
            return f"given up after {attempts.sent} requests"
        if attempts.waited + wait > self.patience.max_wait:
            return f"the next try would be in {wait:.0f} s, past the {self.patience.max_wait:g} s allowed for waiting"
        if remaining is not None and wait >= remaining:
            return f"the deadline of {self.patience.deadline:g} s would pass"
        return None

    async def _pause(self, gate: Gate, failure: SendFailed, attempts: Attempts, wait: float) -> None:
        if failure.at_once:
            return
        attempts.retries += 1
        attempts.waited += wait
        if failure.retry_after is not None:
            gate.closed_until = max(gate.closed_until, time.monotonic() + failure.retry_after)
        if wait >= self.patience.say_from:
            what = "rate limited" if failure.limited else failure.message
            attempts.ctx.sink.message(attempts.ctx.step, "info", f"{what}, next try in {wait:.0f} s", attempts.item)
        end = time.monotonic() + wait
        await self._wait_until(lambda: end, attempts)

    @staticmethod
    async def _wait_until(end: Callable[[], float], attempts: Attempts) -> None:
        """Sleep in short slices, so that a request to stop is heard."""
        while (left := end() - time.monotonic()) > 0:
            attempts.ctx.check()
            await asyncio.sleep(min(left, _SLICE))

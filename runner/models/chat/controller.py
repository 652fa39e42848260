"""How many requests may be in flight at one endpoint, learnt from how it answers.

The limit doubles after every clean round (as many successes as the limit, with at least 80 % of it in use) until the
first rate limit, and grows by 5 % later. An episode of rate limits multiplies it by 0.8 once. Server errors and
timeouts stop the growth for a while, but say nothing about the rate and cut nothing.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

START = 8
EPISODE_SECONDS = 15.0

T = TypeVar("T")


class Limit:
    """The rule alone, without waiting: ``value`` requests may be in flight, at most ``most``."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.value = most, min(START, most)
        self._clock = clock
        self._successes, self._peak = 0, 0
        self._limited_before = False
        self._no_cut_until = self._no_growth_until = -math.inf

    def succeeded(self, in_flight: int) -> None:
        """One request succeeded while ``in_flight`` (itself included) were under way."""
        if self._clock() < self._no_growth_until:
            return
        self._successes, self._peak = self._successes + 1, max(self._peak, in_flight)
        if self._successes >= self.value:
            if self._peak >= 0.8 * self.value:
                grown = math.ceil(self.value * 1.05) if self._limited_before else self.value * 2
                self.value = min(self.most, grown)
            self._new_round()

    def limited(self, retry_after: float | None = None) -> None:
        """The endpoint said that requests come too fast."""
        now = self._clock()
        self._limited_before = True
        self._new_round()
        if now >= self._no_cut_until:
            self.value = max(1, math.floor(self.value * 0.8))
            self._no_cut_until = now + max(EPISODE_SECONDS, retry_after or 0.0)

    def faltered(self) -> None:
        """The endpoint failed for another reason."""
        self._new_round()
        self._no_growth_until = self._clock() + EPISODE_SECONDS

    def _new_round(self) -> None:
        self._successes, self._peak = 0, 0


class Gate:
    """Lets ``limit.value`` holders in at a time, first come first served. Belongs to one event loop."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.in_flight = 0
        self.closed_until = -math.inf
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    @contextlib.asynccontextmanager
    async def slot(self, *, ahead: bool = False) -> AsyncIterator[None]:
        """Wait for a free slot and hold it; ``ahead`` of all others when a deadline is running already."""
        await self._enter(ahead)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, ahead: bool) -> None:
        if self.in_flight < self.limit.value and not self._waiting:
            self.in_flight += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if ahead else self._waiting.append)(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # the slot was handed over in the same moment
            raise

    def _leave(self) -> None:
        self.in_flight -= 1
        while self._waiting and self.in_flight < self.limit.value:
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)


class PerLoop(Generic[T]):
    """One ``T`` for each event loop that asks; those of closed loops are forgotten."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._held: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """The value of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._held:
            self._held = {other: value for other, value in self._held.items() if not other.is_closed()}
            self._held[loop] = self._make()
        return self._held[loop]

    def take(self) -> T | None:
        """The value of the running loop, forgotten here; None where it never asked."""
        return self._held.pop(asyncio.get_running_loop(), None)

    def take_all(self) -> list[tuple[asyncio.AbstractEventLoop, T]]:
        """All values with their loops; they are forgotten here."""
        held, self._held = self._held, {}
        return list(held.items())


_gates: dict[tuple[str, int], PerLoop[Gate]] = {}


def gate_for(endpoint: str, most: int) -> PerLoop[Gate]:
    """The gates of ``endpoint`` (a digest of address and key), shared by all models asked there with this ``most``."""
    return _gates.setdefault((endpoint, most), PerLoop(lambda: Gate(Limit(most))))

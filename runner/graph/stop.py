"""When a run must end: asked to by a person, out of budget, out of time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from runner.errors import EXIT_INTERRUPTED, BudgetExceeded, Interrupted

LIMITS = ("llm_calls", "tokens", "images", "minutes")


class StopSwitch:
    """Turned once, from a signal handler or any thread; steps ask it between items."""

    def __init__(self) -> None:
        self._turned = threading.Event()
        self._listeners: list[Callable[[], None]] = []

    def request(self) -> None:
        """Ask the run to stop."""
        self._turned.set()
        for listener in list(self._listeners):
            listener()

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._turned.is_set()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when a stop is asked for."""
        self._listeners.append(listener)

    def check(self) -> None:
        """Raise ``Interrupted`` when a stop was asked for."""
        if self._turned.is_set():
            raise Interrupted("stopped on request; what was finished is kept")


class RunBudget:
    """Limits of a run over all its attempts. Thread-safe; also the ``Stop`` that the steps see.

    ``limits`` and ``spent`` by kind; ``seconds`` is what earlier attempts took.
    """

    def __init__(
        self, limits: Mapping[str, float], spent: Mapping[str, float], seconds: float, switch: StopSwitch
    ) -> None:
        self.limits = {kind: limit for kind, limit in limits.items() if limit is not None}
        self.spent = {kind: float(spent.get(kind, 0)) for kind in LIMITS}
        self._switch, self._lock = switch, threading.Lock()
        self._earlier, self._started = seconds, time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of all attempts so far."""
        return self._earlier + time.monotonic() - self._started

    def spend(self, kind: str, amount: float) -> None:
        """Count; raises ``BudgetExceeded`` once more than the limit is spent."""
        with self._lock:
            self.spent[kind] = self.spent.get(kind, 0.0) + amount
            self._judge(kind, self.spent[kind])

    def check(self) -> None:
        """Raise ``Interrupted`` or ``BudgetExceeded`` (minutes) when the run should end."""
        self._switch.check()
        self._judge("minutes", self.seconds / 60)

    def _judge(self, kind: str, value: float) -> None:
        limit = self.limits.get(kind)
        if limit is not None and value > limit:
            raise BudgetExceeded(kind, value, limit, "the spec's budget, over all attempts of this run")


@contextmanager
def signals_turn(switch: StopSwitch, say: Callable[[str], None]) -> Iterator[None]:
    """While inside, SIGINT and SIGTERM turn ``switch``; a second one ends the process at once.

    Outside the main thread, where no handlers can be set, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if switch.requested:
            import os

            os._exit(EXIT_INTERRUPTED)
        say("stopping; the running steps keep what they have finished (again: stop at once)")
        switch.request()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

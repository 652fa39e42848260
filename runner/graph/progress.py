"""How far a run is, for a person: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from runner.context import ProgressSink
from runner.shown import on_one_line, shown

if TYPE_CHECKING:
    from rich.console import RenderableType

_LINE_SECONDS = 5.0
_RATE_SECONDS = 1.0


class RunSink(ProgressSink, Protocol):
    """A ``ProgressSink`` that is also told of whole steps. ``step`` is a label: the name, with its variant in a sweep."""

    def plan(self, steps: Sequence[str]) -> None:
        """The run begins; these are its steps."""

    def state(self, step: str, status: str, seconds: float | None) -> None:
        """``running``, ``done``, ``cached``, ``failed``, ``interrupted``, ``waiting`` or ``not run``."""

    def say(self, text: str) -> None:
        """A line about the run as a whole."""

    def close(self) -> None:
        """The run ended."""


@dataclass
class LabelledSink:
    """The ``ProgressSink`` of one node: whatever name a step gives itself, ``label`` is shown."""

    sink: ProgressSink
    label: str

    def progress(self, step: str, unit: str, advance: int, total: int | None) -> None:
        """See ``ProgressSink``."""
        self.sink.progress(self.label, unit, advance, total)

    def usage(
        self, step: str, calls: int, cached: int, prompt_tokens: int, completion_tokens: int, cost: float | None
    ) -> None:
        """See ``ProgressSink``."""
        self.sink.usage(self.label, calls, cached, prompt_tokens, completion_tokens, cost)

    def message(self, step: str, level: str, text: str, item: str | None) -> None:
        """See ``ProgressSink``."""
        self.sink.message(self.label, level, text, item)


@dataclass
class Counter:
    """Items of one unit in one step. ``rate`` counts from the first item, so that loading a model does not weigh."""

    done: int = 0
    total: int | None = None
    first: float = 0.0

    def add(self, advance: int, total: int | None) -> None:
        """Count further items, or learn how many there will be."""
        if advance and not self.done:
            self.first = time.monotonic()
        self.done += advance
        self.total = total if total is not None else self.total

    def text(self, unit: str) -> str:
        """Such as ``120/400 images, 31/s, 9 s left``."""
        parts = [f"{self.done}/{self.total} {unit}" if self.total else f"{self.done} {unit}"]
        elapsed = time.monotonic() - self.first
        if self.done > 1 and elapsed > _RATE_SECONDS:
            rate = self.done / elapsed
            parts.append(f"{rate:.3g}/s")
            if self.total and self.done < self.total:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join(parts)


@dataclass
class StepProgress:
    """What is known of one step."""

    status: str = "to do"
    seconds: float | None = None
    started: float = 0.0
    counters: dict[str, Counter] = field(default_factory=dict)

    def text(self) -> str:
        """The counters that moved, or were announced."""
        return "; ".join(c.text(unit) for unit, c in self.counters.items() if c.done or c.total)


def duration(seconds: float) -> str:
    """Seconds as people say them: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Tally:
    """Everything the sinks are told, added up. Thread-safe; subclasses show it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.steps: dict[str, StepProgress] = {}
        self.calls = self.cached = self.tokens = 0
        self.cost: float | None = None

    def plan(self, steps: Sequence[str]) -> None:
        """The run begins."""
        with self.lock:
            self.steps = {name: StepProgress() for name in steps}

    def state(self, step: str, status: str, seconds: float | None) -> None:
        """A step changed."""
        with self.lock:
            known = self.steps.setdefault(step, StepProgress())
            known.status, known.seconds = status, seconds
            if status == "running":
                known.started, known.counters = time.monotonic(), {}

    def progress(self, step: str, unit: str, advance: int, total: int | None) -> None:
        """Items."""
        with self.lock:
            self.steps.setdefault(step, StepProgress()).counters.setdefault(unit, Counter()).add(advance, total)

    def usage(
        self, step: str, calls: int, cached: int, prompt_tokens: int, completion_tokens: int, cost: float | None
    ) -> None:
        """A language-model call."""
        with self.lock:
            self.calls, self.cached = self.calls + calls, self.cached + cached
            self.tokens += prompt_tokens + completion_tokens
            self.cost = self.cost if cost is None else (self.cost or 0.0) + cost

    def spent(self) -> str:
        """Calls, tokens and cost so far; '' before the first call."""
        if not self.calls + self.cached:
            return ""
        money = "" if self.cost is None else f", cost {self.cost:.4g}"
        return f"{self.calls} model calls, {self.cached} from the cache, {self.tokens} tokens{money}"

    def message(self, step: str, level: str, text: str, item: str | None) -> None:
        """Shown by subclasses."""

    def say(self, text: str) -> None:
        """Shown by subclasses."""

    def close(self) -> None:
        """Nothing to end."""


class Quiet(Tally):
    """Counts and shows nothing."""


class PlainLines(Tally):
    """One line an event with the time of day; progress of a step at most every five seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self.stream = stream or sys.stderr
        self._last: dict[str, float] = {}

    def _print(self, text: str) -> None:
        with self.lock:
            # A second line must not look like a line of its own: file names may hold line breaks.
            said = shown(text).replace("\n", "\n         ")
            print(f"{time.strftime('%H:%M:%S')} {said}", file=self.stream, flush=True)

    def state(self, step: str, status: str, seconds: float | None) -> None:
        """A line for every change."""
        super().state(step, status, seconds)
        self._last[step] = time.monotonic()
        took = "" if seconds is None else f" ({duration(seconds)})"
        self._print(f"{step}: {status}{took}")

    def progress(self, step: str, unit: str, advance: int, total: int | None) -> None:
        """A line now and then."""
        super().progress(step, unit, advance, total)
        if time.monotonic() - self._last.setdefault(step, time.monotonic()) >= _LINE_SECONDS:
            self._last[step] = time.monotonic()
            spent = self.spent()
            self._print(f"{step}: {self.steps[step].text()}{'; ' + spent if spent else ''}")

    def message(self, step: str, level: str, text: str, item: str | None) -> None:
        """A line."""
        self._print(f"{step}: {level}: {on_one_line(item) + ': ' if item else ''}{text}")

    def say(self, text: str) -> None:
        """A line."""
        self._print(text)

    def close(self) -> None:
        """What was spent."""
        if self.spent():
            self._print(self.spent())


class LiveDisplay(Tally):
    """A table of the steps that redraws itself, messages scrolling above it (rich)."""

    def __init__(self, console: Any = None) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live

        self.console = console or Console(stderr=True)
        self._begun = time.monotonic()
        self._live = Live(console=self.console, refresh_per_second=4, get_renderable=self._table, transient=False)

    def plan(self, steps: Sequence[str]) -> None:
        """Show the steps."""
        super().plan(steps)
        self._live.start()

    def message(self, step: str, level: str, text: str, item: str | None) -> None:
        """Above the table."""
        from rich.markup import escape

        style = "red" if level == "failed" else "yellow"
        about = f"{step}: {on_one_line(item)}: " if item else f"{step}: "
        self.console.print(f"[{style}]{level}[/] {escape(about + shown(text))}", highlight=False)

    def say(self, text: str) -> None:
        """Above the table."""
        self.console.print(shown(text), markup=False, highlight=False)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._live.stop()

    def _table(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        with self.lock:
            for name, step in self._visible():
                style = _STYLES.get(step.status, "")
                table.add_row(Text(step.status, style), Text(name), Text(_time(step)), Text(step.text()))
            table.add_row("", Text("total"), Text(duration(time.monotonic() - self._begun)), Text(self.spent()))
        return table

    def _visible(self) -> list[tuple[str, StepProgress]]:
        """All steps where they fit; otherwise those at work and as many of the others as the screen holds."""
        room = max(5, self.console.size.height - 4)
        steps = list(self.steps.items())
        if len(steps) <= room:
            return steps
        busy = [pair for pair in steps if pair[1].status in ("running", "failed", "waiting")]
        rest = [pair for pair in steps if pair[1].status == "to do"]
        return (busy + rest)[:room]


_STYLES = {"running": "cyan", "done": "green", "cached": "dim", "failed": "bold red", "waiting": "yellow"}


def _time(step: StepProgress) -> str:
    if step.status == "running":
        return duration(time.monotonic() - step.started)
    return "" if step.seconds is None else duration(step.seconds)


def default_sink() -> RunSink:
    """A live display where standard error is a terminal that wants one, plain lines otherwise."""
    plain = not sys.stderr.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return PlainLines() if plain else LiveDisplay()

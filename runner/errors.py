"""Every error a user can meet, as one tree.

    RunnerError                  base: one clear message, an optional hint, an exit code
    |-- SpecError                the spec is wrong; holds every problem, each with its place        exit 2
    |-- UsageError               a command was called wrongly (unknown run, unreadable file)        exit 2
    |-- StepError                a step failed; names step, item and place in the spec              exit 1
    |-- ModelRefused             a model file is not loaded because that would not be safe or sure  exit 1
    |   `-- SandboxFailure       its confined process crashed, hung or sent what is no reply         exit 1
    |-- DataError                a corpus, image or table is not what it claims to be               exit 1
    |-- AssetError               a packaged model or image set is missing or does not match its hash exit 1
    |-- EndpointError            a language-model endpoint failed                                   exit 1
    |-- BudgetExceeded           a limit that the spec set was reached                              exit 1
    |-- ResultsError             the results file and its artifacts disagree, or it cannot be read  exit 1
    |   `-- ResultsBusy          another process keeps the results file or run folder               exit 1
    `-- Interrupted              stopped on request; the same command goes on from here             exit 130

Exit codes of the command line: 0 fine, 1 broke, 2 wrong spec or usage, 3 finished with failed items,
4 waiting for a person, 5 a `fail_on` bar was crossed, 130 interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EXIT_OK = 0
EXIT_BROKE = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_WAITING = 4
EXIT_FAIL_ON = 5
EXIT_INTERRUPTED = 130


class RunnerError(Exception):
    """Base of all errors shown to users: ``message`` says what and where, ``hint`` what to do."""

    exit_code = EXIT_BROKE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


@dataclass(frozen=True, order=True)
class Position:
    """A place in a text file; line and column count from 1."""

    line: int
    column: int
    file: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.file else f"{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec.

    ``code`` is a stable short name (``unknown-field``, ``type-mismatch``, ...), ``path`` the place as keys
    (``("steps", "images", "k")``), ``suggestion`` the nearest existing name, ``allowed`` what would have been right.
    """

    code: str
    message: str
    position: Position
    path: tuple[str | int, ...] = ()
    suggestion: str | None = None
    allowed: str | None = None
    snippet: str | None = None


class SpecError(RunnerError):
    """The spec cannot be run; ``problems`` holds everything found, sorted by place."""

    exit_code = EXIT_USAGE

    def __init__(self, problems: list[Problem], *, hint: str | None = None) -> None:
        self.problems = sorted(problems, key=lambda p: (p.position, p.message))
        super().__init__("\n".join(f"{p.position}: {p.message}" for p in self.problems), hint=hint)


class UsageError(RunnerError):
    """A command was called with something that does not exist or cannot be used."""

    exit_code = EXIT_USAGE


class StepError(RunnerError):
    """A step failed. ``step`` is its name in the spec, ``item`` the piece of work, ``position`` its place."""

    def __init__(
        self,
        message: str,
        *,
        step: str = "",
        item: str | None = None,
        position: Position | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.step, self.item, self.position = step, item, position


class ModelRefused(RunnerError):
    """A model file was not loaded: its format could run code, or it does not match what was declared."""


class DataError(RunnerError):
    """Input data is missing, damaged or of the wrong shape."""


class AssetError(RunnerError):
    """A packaged asset could not be fetched, or its bytes do not match the registered hash."""


EndpointScope = Literal["retry", "item", "run"]


class EndpointError(RunnerError):
    """A language-model call failed.

    ``scope`` says what to give up: ``retry`` nothing yet, ``item`` this request, ``run`` every further request
    (bad key, unknown model, quota).
    """

    def __init__(
        self, message: str, *, scope: EndpointScope, status: int | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.scope, self.status = scope, status


class BudgetExceeded(RunnerError):
    """A limit was reached. ``kind`` is what was limited (``llm_calls``, ``tokens``, ``images``, ``minutes``)."""

    def __init__(self, kind: str, value: float, limit: float, source: str) -> None:
        super().__init__(f"budget.{kind}: {value:g} reached the limit {limit:g} set by {source}")
        self.kind, self.value, self.limit, self.source = kind, value, limit, source


class ResultsError(RunnerError):
    """The results database is damaged, foreign, or disagrees with the artifacts."""


class ResultsBusy(ResultsError):
    """Another process holds the lock; the message names its pid where that is known."""


class Interrupted(RunnerError):
    """Stopped by Ctrl-C or SIGTERM; what was finished is kept."""

    exit_code = EXIT_INTERRUPTED

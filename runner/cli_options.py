"""Options that several commands share, and what they mean. Light."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.errors import UsageError

if TYPE_CHECKING:
    from results.store import ResultsStore

ResultsFile = Annotated[
    Path | None,
    typer.Option(
        "--results", "-r", help="The results file; else $RUNNER_RESULTS, else out/results.duckdb.", metavar="FILE"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def results_path(given: Path | None) -> Path:
    """The results file: as given, else by the environment, else the default."""
    return given or Path(os.environ.get("RUNNER_RESULTS", "out/results.duckdb"))


def open_store(given: Path | None) -> ResultsStore:
    """The results file, opened. Raises ``UsageError`` where there is none."""
    path = results_path(given)
    if not path.is_file():
        raise UsageError(f"no results file {path}", hint="name it: --results FILE, or set RUNNER_RESULTS")
    from results.store import ResultsStore

    return ResultsStore(path)

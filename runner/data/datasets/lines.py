"""Text files of labels, line by line, with errors that name the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runner.errors import DataError


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Non-empty lines with their numbers from 1. Raises ``DataError`` where the file cannot be read as UTF-8 text."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line := line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file: {error.reason} at byte {error.start}") from error


def malformed(path: Path, line: int, problem: str, *, hint: str | None = None) -> DataError:
    """The one error for a line that is not what it should be."""
    return DataError(f"{path}, line {line}: {problem}", hint=hint)

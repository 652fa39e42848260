"""JSON and JSON lines that others wrote: read, or one error that says where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.errors import DataError


class Skipped:
    """What was left out, by reason: how often, and the first few names."""

    SHOWN = 3

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: object) -> None:
        """One more item left out for a reason."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        shown = self.names.setdefault(reason, [])
        if len(shown) < self.SHOWN:
            shown.append(" ".join(str(name).split())[:120])

    def lines(self) -> list[str]:
        """A sentence a reason."""
        found = []
        for reason, count in self.counts.items():
            more = f" and {count - self.SHOWN} more" if count > self.SHOWN else ""
            found.append(f"{count} left out, {reason}: {', '.join(map(repr, self.names[reason]))}{more}")
        return found


def read_json(path: Path) -> Any:
    """The JSON value of a file. Raises ``DataError`` with file and place."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: broken JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON in UTF-8: {str(error)[:200]}") from error


def read_lines(path: Path, skipped: Skipped) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects, one a line, with their line numbers from 1; broken lines go to ``skipped``."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError):
                    value = None
                if isinstance(value, dict):
                    yield number, value
                else:
                    skipped.add("no JSON object", f"{path.name}, line {number}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def read_records(path: Path, skipped: Skipped) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON list or of JSON lines, whichever the file is, with their numbers from 1."""
    if not starts_as_list(path):
        yield from read_lines(path, skipped)
        return
    for number, value in enumerate(read_json(path), start=1):
        if isinstance(value, dict):
            yield number, value
        else:
            skipped.add("no JSON object", f"{path.name}, entry {number}")


def starts_as_list(path: Path) -> bool:
    """Whether the first character of a file is ``[``."""
    try:
        with path.open("rb") as file:
            return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def listed(value: Any, path: Path, key: str | None = None) -> list[dict[str, Any]]:
    """The objects below ``key`` (None: the value itself) as a list. Raises ``DataError`` where there is no list of objects."""
    held = value.get(key) if key is not None and isinstance(value, Mapping) else value
    if not isinstance(held, list) or not all(isinstance(entry, dict) for entry in held):
        raise DataError(
            f"{path}: {f'`{key}`' if key else 'the file'} is a list of objects, as the benchmark publishes it"
        )
    return held


def mapped(value: Any, path: Path) -> dict[str, dict[str, Any]]:
    """An object of objects. Raises ``DataError`` where it is none."""
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise DataError(f"{path}: the file is an object of objects, as the benchmark publishes it")
    return value


def one_file(root: Path, *patterns: str) -> Path:
    """The first file below a folder that a pattern finds. Raises ``DataError`` naming the patterns."""
    if root.is_file():
        return root
    for pattern in patterns:
        found = sorted(path for path in root.glob(pattern) if path.is_file())
        if found:
            return found[0]
    raise DataError(
        f"{root} has no file {' or '.join(patterns)}", hint="Unpack the benchmark there, or name another `split:`."
    )


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False

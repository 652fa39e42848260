"""The Parquet file that img2dataset writes beside each shard: one row for every link it tried."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.data.sources.base import CAPTION_FIELDS
from runner.data.sources.tars import split_name
from runner.errors import DataError

SUCCESS = "success"
FAILURES = ("failed_to_download", "failed_to_resize")
_SIZES = ("width", "height", "original_width", "original_height")
_COLUMNS = ("key", "status", "error_message", "url", "sha256", *_SIZES, "caption", *CAPTION_FIELDS)
_EXAMPLES = 3


class Sidecar:
    """Rows by key (``00000.tar``, ``00000/``) or, ``by_number``, by their number (pictures in the Parquet file itself)."""

    def __init__(self, path: Path, *, by_number: bool = False) -> None:
        """Raises ``DataError`` where the file is damaged or is no img2dataset output."""
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                self._table = file.read(columns=[name for name in dict.fromkeys(_COLUMNS) if name in names])
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path.name} cannot be read ({error})") from error
        absent = {"key", "status"} - set(names)
        if absent:
            raise DataError(f"{path.name} has no column {min(absent)!r}; it has {', '.join(names)}")
        self._by_number = by_number

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        return dict(self._table.to_pydict())

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {str(key): number for number, key in enumerate(self._columns["key"])}

    @cached_property
    def successes(self) -> frozenset[int]:
        """Numbers of the rows whose picture was stored."""
        return frozenset(n for n, status in enumerate(self._columns["status"]) if status == SUCCESS)

    @property
    def repeated_keys(self) -> int:
        """Rows whose key another row has too."""
        return 0 if self._by_number else len(self) - len(self._numbers)

    def row(self, uri: str) -> int | None:
        """Number of the row that belongs to a picture; None where the file does not list it."""
        name = uri.rpartition("#")[2]
        if self._by_number:
            return int(name) if int(name) < len(self) else None
        return self._numbers.get(split_name(name)[0].rpartition("/")[2])

    def key(self, row: int) -> str:
        """Key of a row."""
        return str(self._columns["key"][row])

    def failures(self) -> Iterator[tuple[str, int, str]]:
        """Of the rows without a picture: reason, how many, and the commonest messages."""
        found: dict[str, Counter[str]] = {}
        messages = self._columns.get("error_message") or [None] * len(self)
        for status, message in zip(self._columns["status"], messages, strict=True):
            if status != SUCCESS:
                reason = status if status in FAILURES else "other_status"
                text = message if reason in FAILURES else f"status {status}"
                found.setdefault(reason, Counter())[str(text or "no message")[:100]] += 1
        for reason, texts in sorted(found.items()):
            yield reason, texts.total(), ", ".join(f"{text} ({n})" for text, n in texts.most_common(_EXAMPLES))

    def caption(self, row: int) -> str | None:
        """Caption of a row, where the file has one."""
        columns = (self._columns.get(name) for name in ("caption", *CAPTION_FIELDS))
        value = next((column[row] for column in columns if column is not None), None)
        return None if value is None else str(value)

    def value(self, name: str, row: int) -> Any:
        """A further column's value, None where the file has no such column."""
        column = self._columns.get(name)
        return None if column is None else column[row]

    def original_size(self, row: int) -> tuple[int, int] | None:
        """Width and height before resizing, where they are known."""
        width, height = self.value("original_width", row), self.value("original_height", row)
        return (int(width), int(height)) if width and height else None

    def count_oblong(self) -> int:
        """Stored pictures whose original was not square."""
        sizes = (self.original_size(row) for row in self.successes)
        return sum(size is not None and size[0] != size[1] for size in sizes)

    def stored_as_downloaded(self, row: int) -> bool:
        """Whether the stored bytes are the downloaded ones, whose hash the file holds: they were never decoded."""
        return self.value("width", row) is None


def count_successes(path: Path) -> int | None:
    """Rows whose picture was stored, from one column; None where the file does not say."""
    try:
        return pq.read_table(path, columns=["status"])["status"].to_pylist().count(SUCCESS)
    except (pa.ArrowException, OSError, KeyError):
        return None


def recorded_successes(path: Path) -> int | None:
    """What ``NNNNN_stats.json`` says of a shard; None where there is no such file or it does not say."""
    try:
        value = json.loads(path.read_bytes())
        return int(value["successes"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None

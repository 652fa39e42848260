"""What every image source offers. Light: no pyarrow, no Pillow."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

MAX_RECORD_BYTES = 256 * 2**20
"""Larger files and members are reported and skipped: no photograph is that large."""

MAX_CAPTION = 10_000
"""Characters of a caption that are kept."""

CAPTION_FIELDS = ("txt", "caption", "text")
IMAGE_FIELDS = ("jpg", "jpeg", "png", "webp", "bmp", "gif")


@dataclass(frozen=True)
class Record:
    """One picture: the encoded bytes as found, and the caption that came with it (never a label)."""

    source_id: str
    uri: str
    data: bytes
    caption: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """A part of a source that is read in one go and indexed whole or not at all.

    ``name`` is stable and unique in the source, ``fingerprint`` changes when the part's content changes, ``records`` is
    the number of records where that is known beforehand. ``content`` belongs to the source.
    """

    name: str
    fingerprint: str
    records: int | None = None
    content: Any = field(default=None, repr=False, compare=False)


NOTES = frozenset({"count_mismatch", "damaged_parquet", "missing_parquet", "white_borders"})
"""Reasons that leave nothing out: the pictures are used, and a reader should know."""


@dataclass(frozen=True)
class Problem:
    """Something in a source that could not be used, or one of ``NOTES``: ``reason`` is a stable short name, ``where`` the
    place."""

    reason: str
    where: str
    detail: str = ""
    shard: str = ""


class Problems:
    """Everything in a source that could not be used. Nothing is left out without an entry here."""

    def __init__(self) -> None:
        self._found: dict[str, list[Problem]] = {}

    def __iter__(self) -> Iterator[Problem]:
        return itertools.chain.from_iterable(self._found.values())

    def __len__(self) -> int:
        return sum(len(found) for found in self._found.values())

    def add(self, reason: str, where: str, detail: str = "", *, shard: str = "", count: int = 1) -> None:
        """Note a problem, or ``count`` alike."""
        self._found.setdefault(shard, []).extend([Problem(reason, where, detail, shard)] * count)

    def restart(self, shard: str) -> None:
        """Forget what was found in a shard that is read again."""
        self._found.pop(shard, None)

    def of(self, shard: str) -> list[Problem]:
        """Those of one shard; ``""`` gives those found while listing the source."""
        return list(self._found.get(shard, ()))

    def counts(self) -> dict[str, int]:
        """Number of problems by reason."""
        return dict(sorted(Counter(p.reason for p in self).items()))


class Source(ABC):
    """A stream of pictures in a stable order, cut into shards, with random access by ``uri``.

    ``licence`` is known for packaged sets only. ``spec`` is the plain dict that ``open_source`` takes to open the same
    source again under the same ``source_id``.
    """

    kind: str
    licence: str | None = None

    def __init__(self, source_id: str, spec: dict[str, Any]) -> None:
        self.source_id = source_id
        self.spec = {**spec, "name": source_id}
        self.problems = Problems()

    @abstractmethod
    def shards(self) -> Sequence[Shard]:
        """The parts, sorted by name. May raise ``DataError`` where the source cannot be read at all."""

    @abstractmethod
    def _records(self, shard: Shard) -> Iterator[Record]:
        """Records of one shard, in a stable order; what cannot be used goes to ``problems`` under the shard's name."""

    @abstractmethod
    def read_many(self, uris: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Bytes of some records, each file opened once, so not in the order asked for.

        Raises ``DataError`` where a record is no longer there: the source changed after its uris were taken.
        """

    def labels(self) -> dict[str, str] | None:
        """True labels by uri where the source has them, else None. For checking an audit afterwards, never for one."""
        return None

    def records(self, shard: Shard) -> Iterator[Record]:
        """Records of one shard; starts the shard's list of problems afresh."""
        self.problems.restart(shard.name)
        return self._records(shard)

    def fingerprint(self) -> str:
        """Changes when the content changes: hash of the shards' names and fingerprints, in any order."""
        return digest([self.kind, sorted((s.name, s.fingerprint) for s in self.shards())])

    def __iter__(self) -> Iterator[Record]:
        for shard in self.shards():
            yield from self.records(shard)


class FileSource(Source):
    """A source that is a set of files; each file's name in a uri is its quoted path below their common folder.

    ``fields`` names what holds picture, caption and label (keys ``image``, ``caption``, ``label``; None = find it).
    """

    def __init__(
        self,
        files: Sequence[Path],
        source_id: str,
        spec: dict[str, Any],
        *,
        limit: int | None = None,
        fields: dict[str, str | None],
    ) -> None:
        super().__init__(source_id, spec)
        root = Path(os.path.commonpath([file.parent for file in files]))
        self._paths = {file_name(file, root): file for file in files}
        self._limit, self._fields = limit, fields


def file_name(file: Path, root: Path) -> str:
    """A file's name in uris: its path below ``root``, quoted so that ``#`` stays a separator."""
    return quote(file.relative_to(root).as_posix(), safe="/ ")


def file_stamp(file: Path) -> list[int]:
    """Size and change time (ns): what a fingerprint takes from a file that is too large to hash."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON value."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":"), default=str).encode()).hexdigest()


def clean_caption(text: str | bytes | None) -> str | None:
    """A caption as it is kept: text, trimmed, bounded; None where nothing is left."""
    if isinstance(text, bytes):
        text = text[: 4 * MAX_CAPTION].decode("utf-8-sig", errors="replace")
    return (text or "").strip()[:MAX_CAPTION] or None


def chunked(names: Iterable[str], *, mean: int = 512, largest: int = 2048) -> Iterator[tuple[int, int]]:
    """Cut sorted names into runs [start, end) whose borders depend on the names alone.

    An added or removed name therefore changes one run, not all that follow it.
    """
    start = end = 0
    for end, name in enumerate(names, start=1):
        if zlib.crc32(name.encode("utf8", "surrogateescape")) % mean == 0 or end - start >= largest:
            yield start, end
            start = end
    if start < end:
        yield start, end

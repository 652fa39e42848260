"""Parquet files whose rows carry encoded pictures.

The picture stands in a column of bytes (``jpg``, ``png``, ``image``, ...) or in a struct with a ``bytes`` member, as
data sets on model hubs have it. The uri is ``FILE#ROW`` with the row's number in the file. A shard is a run of row groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.data.sources.base import (
    CAPTION_FIELDS,
    IMAGE_FIELDS,
    MAX_RECORD_BYTES,
    FileSource,
    Record,
    Shard,
    clean_caption,
    digest,
    file_stamp,
)
from runner.errors import DataError

_SHARD_ROWS = 2048
_BATCH_ROWS = 64
_READ_ERRORS = (pa.ArrowException, OSError)


@dataclass(frozen=True)
class _Part:
    """Row groups ``groups`` of ``file``, starting at row ``first``; at most ``rows`` rows are used."""

    file: str
    groups: list[int]
    first: int
    rows: int


class Parquet(FileSource):
    """Parquet with bytes. ``fields`` names the columns of picture, caption and label (None = find picture, caption)."""

    kind = "parquet"

    def shards(self) -> Sequence[Shard]:
        """Runs of row groups of about 2,000 rows; a damaged file becomes a problem and the others are read."""
        found, left = [], self._limit
        for part in self._parts:
            rows = part.rows if left is None else min(left, part.rows)
            left = None if left is None else left - rows
            if rows:
                stamp = digest([part.file, *file_stamp(self._paths[part.file]), part.groups, rows, self._fields])
                part = _Part(part.file, part.groups, part.first, rows)
                found.append(Shard(f"{part.file}#{part.first:09d}", stamp, rows, part))
        return found

    @cached_property
    def _parts(self) -> list[_Part]:
        parts: list[_Part] = []
        for name in sorted(self._paths):
            try:
                with pq.ParquetFile(self._paths[name]) as file:
                    parts += _cut(name, [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)])
                    self._column(file, "image", name)
            except _READ_ERRORS as error:
                self.problems.add("damaged_file", name, str(error))
        return parts

    def _column(self, file: pq.ParquetFile, role: str, name: str) -> str | None:
        """Name of the column with this role. A column that the spec names must be there, and so must a picture."""
        schema, wanted = file.schema_arrow, self._fields[role]
        if wanted is not None:
            if wanted not in schema.names:
                raise DataError(f"{name} has no column {wanted!r}; it has {', '.join(schema.names)}")
            return wanted
        if role == "label":
            return None
        usual = (*IMAGE_FIELDS, "image", "image_bytes", "bytes", "img") if role == "image" else CAPTION_FIELDS
        folded = {column.lower(): column for column in reversed(schema.names)}
        found = [folded[c] for c in usual if c in folded and (role != "image" or holds_bytes(schema, folded[c]))]
        if role == "image" and not found:
            raise DataError(
                f"{name} has no column of picture bytes; it has {', '.join(schema.names)}",
                hint="Name the column with `image_field:`.",
            )
        return found[0] if found else None

    def _records(self, shard: Shard) -> Iterator[Record]:
        part: _Part = shard.content
        row = part.first
        try:
            with pq.ParquetFile(self._paths[part.file]) as file:
                image, caption = self._column(file, "image", part.file), self._column(file, "caption", part.file)
                for pictures, texts in _batches(file, part.groups, image, caption):
                    for data, text in zip(pictures, texts, strict=True):
                        if row - part.first >= part.rows:
                            return
                        uri = f"{part.file}#{row}"
                        row += 1
                        if data is None:
                            self.problems.add("null_bytes", uri, shard=shard.name)
                        elif self._is_small(data, uri, shard):
                            yield Record(self.source_id, uri, data, clean_caption(text))
        except _READ_ERRORS as error:
            self.problems.add("damaged_shard", f"{part.file}#{row}", str(error), shard=shard.name)

    def _is_small(self, data: bytes, uri: str, shard: Shard) -> bool:
        if len(data) > MAX_RECORD_BYTES:
            self.problems.add("large_member", uri, f"{len(data)} bytes", shard=shard.name)
        return len(data) <= MAX_RECORD_BYTES

    def read_many(self, uris: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Bytes by uri, file by file in the order of their rows; only row groups that are needed are read."""
        wanted: dict[str, set[int]] = defaultdict(set)
        for uri in uris:
            name, _, row = uri.rpartition("#")
            if name not in self._paths or not row.isdecimal():
                raise DataError(f"source {self.source_id} has no record {uri}")
            wanted[name].add(int(row))
        for name, rows in sorted(wanted.items()):
            try:
                with pq.ParquetFile(self._paths[name]) as file:
                    yield from self._read_rows(file, name, rows)
            except _READ_ERRORS as error:
                raise DataError(f"source {self.source_id}: {name} cannot be read ({error})") from error

    def _read_rows(self, file: pq.ParquetFile, name: str, rows: set[int]) -> Iterator[tuple[str, bytes]]:
        image = self._column(file, "image", name)
        left = set(rows)
        first = 0
        for number in range(file.num_row_groups):
            end = first + file.metadata.row_group(number).num_rows
            if any(first <= row < end for row in left):
                row = first
                for pictures, _ in _batches(file, [number], image, None):
                    for data in pictures:
                        if row in left and data is not None:
                            yield f"{name}#{row}", data
                            left.discard(row)
                        row += 1
            first = end
        if left:
            raise DataError(
                f"source {self.source_id}: {name} has no picture in row {min(left)}",
                hint="The file changed since it was indexed; run again.",
            )

    def labels(self) -> dict[str, str] | None:
        """Label column by uri (as text), where the spec names one."""
        if self._fields["label"] is None:
            return None
        found: dict[str, str] = {}
        for shard in self.shards():
            part: _Part = shard.content
            with pq.ParquetFile(self._paths[part.file]) as file:
                column = file.read_row_groups(part.groups, columns=[self._column(file, "label", part.file)])
            values = column.column(0).slice(0, part.rows).to_pylist()
            found |= {f"{part.file}#{part.first + i}": str(v) for i, v in enumerate(values) if v is not None}
        return found


def _cut(file: str, group_rows: list[int]) -> Iterator[_Part]:
    groups: list[int] = []
    first = rows = 0
    for number, count in enumerate(group_rows):
        groups.append(number)
        rows += count
        if rows >= _SHARD_ROWS or number == len(group_rows) - 1:
            yield _Part(file, groups, first, rows)
            groups, first, rows = [], first + rows, 0


def holds_bytes(schema: pa.Schema, name: str) -> bool:
    """Whether a column holds bytes, bare or as a struct with a ``bytes`` member."""
    kind = schema.field(name).type
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _batches(
    file: pq.ParquetFile, groups: list[int], image: str | None, caption: str | None
) -> Iterator[tuple[list[bytes | None], list[Any]]]:
    """Pictures and texts of some row groups, few rows at a time: pictures may be large."""
    columns = [column for column in (image, caption) if column is not None]
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns):
        rows = batch.to_pydict()
        texts = [None] * batch.num_rows if caption is None else [_text(value) for value in rows[caption]]
        yield [value["bytes"] if isinstance(value, dict) else value for value in rows[str(image)]], texts


def _text(value: Any) -> str | bytes | None:
    return value if value is None or isinstance(value, (str, bytes)) else str(value)

"""What img2dataset leaves: ``00000.tar`` or ``00000/`` with ``00000.parquet`` and ``00000_stats.json`` beside it.

A picture's key is the shard's number followed by its row's. The Parquet file says which rows succeeded; with the output
format ``parquet`` it holds the pictures too. The uri of a picture is that of the container: ``00000.tar#000000012.jpg``,
``00000/000000012.jpg``, ``00000.parquet#12``.

By default img2dataset pads pictures with white to squares. Such bars are cut off where bytes are handed out, so that the
encoder and the classifier see the same picture; what is delivered then is a PNG.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from runner.data.images import UnreadableImage, decode
from runner.data.sources.base import Record, Shard, Source, clean_caption, digest, file_stamp
from runner.data.sources.borders import Box, content_box, cut, letterbox, white_bars
from runner.data.sources.folder import Folder
from runner.data.sources.parquet import Parquet, holds_bytes
from runner.data.sources.sidecar import Sidecar, count_successes, recorded_successes
from runner.data.sources.webdataset import WebDataset
from runner.errors import DataError

Choice = Literal["auto", "true", "false"]

_PROBED = 16
_PROBED_SHARE = 0.9
_NUMBER = re.compile(r"\d+")
_FIELDS: dict[str, str | None] = {"image": None, "caption": "txt", "label": None}


@dataclass(frozen=True)
class _Part:
    """One shard of img2dataset: ``source`` holds its pictures; ``prefix`` comes before their uris there."""

    name: str
    source: Source
    prefix: str
    sidecar: Path | None
    by_number: bool = False


class Img2Dataset(Source):
    """Output folder of img2dataset. ``crop``: cut white bars off where they were put on, wherever there are, or never.

    ``verify``: compare SHA-256 where the stored bytes are the downloaded ones (``auto``), always, or never. img2dataset
    hashes what it downloaded, so resized pictures cannot match.
    """

    kind = "img2dataset"

    def __init__(
        self,
        root: Path,
        source_id: str,
        spec: dict[str, Any],
        *,
        limit: int | None = None,
        crop: Choice = "auto",
        verify: Choice = "auto",
    ) -> None:
        super().__init__(source_id, spec)
        if not root.is_dir():
            raise DataError(f"{root} is not an output folder of img2dataset")
        self._root, self._limit, self._crop, self._verify = root, limit, crop, verify
        # Of the shard in hand; the next one takes its place.
        self._sidecar = lru_cache(maxsize=2)(self._read_sidecar)
        self._bordered = lru_cache(maxsize=None)(self._look_for_borders)

    @cached_property
    def _parts(self) -> dict[str, _Part]:
        entries = {entry.name: entry for entry in sorted(self._root.iterdir())}
        numbers = sorted({m[0] for m in map(_NUMBER.match, entries) if m})
        found = {number: part for number in numbers if (part := self._part(number, entries)) is not None}
        if not found:
            raise DataError(
                f"{self._root} holds no shard of img2dataset",
                hint="Expected 00000.tar, a folder 00000 or 00000.parquet with pictures.",
            )
        return found

    def _part(self, number: str, entries: dict[str, Path]) -> _Part | None:
        tar, folder, parquet = (entries.get(f"{number}{ending}") for ending in (".tar", "", ".parquet"))
        if tar is not None and tar.is_file():
            return _Part(number, WebDataset([tar], self.source_id, {}, fields=_FIELDS), "", parquet)
        if folder is not None and folder.is_dir() and not folder.is_symlink():
            return _Part(number, Folder(folder, self.source_id, {}), f"{number}/", parquet)
        if parquet is not None and _has_pictures(parquet):
            source = Parquet([parquet], self.source_id, {}, fields={**_FIELDS, "caption": None})
            return _Part(number, source, "", parquet, by_number=True)
        if parquet is not None or f"{number}.tfrecord" in entries:
            self.problems.add("missing_shard", number, "no tar file, folder or column with pictures")
        return None

    def shards(self) -> Sequence[Shard]:
        """One shard for each of img2dataset's; the fingerprint covers pictures, Parquet file and options."""
        found, left = [], self._limit
        for part in self._parts.values():
            if left == 0:
                break
            records = self._count(part)
            if left is not None:
                records = left if records is None else min(left, records)
                left -= records
            pictures = [shard.fingerprint for shard in part.source.shards()]
            sidecar = [] if part.sidecar is None else file_stamp(part.sidecar)
            stamp = digest([part.name, pictures, sidecar, records, self._crop, self._verify])
            found.append(Shard(part.name, stamp, records, part))
        return found

    def _count(self, part: _Part) -> int | None:
        successes = None if part.sidecar is None else count_successes(part.sidecar)
        if successes is not None:
            return successes
        counts = [shard.records for shard in part.source.shards()]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def _read_sidecar(self, part: _Part) -> Sidecar | str:
        """The shard's Parquet file, or what is wrong with it."""
        if part.sidecar is None:
            return ""
        try:
            return Sidecar(part.sidecar, by_number=part.by_number)
        except DataError as error:
            return error.message

    def _records(self, shard: Shard) -> Iterator[Record]:
        part: _Part = shard.content
        sidecar = self._sidecar(part)
        seen: set[int] = set()
        delivered = 0
        for record in self._found(part, shard, sidecar):
            if self._limit is not None and delivered == shard.records:
                return
            row = self._accept(record, sidecar, shard, seen)
            if row is None:
                continue
            delivered += 1
            yield self._finished(record, part, sidecar, row)
        self._report(part, shard, sidecar, seen)

    def _found(self, part: _Part, shard: Shard, sidecar: Sidecar | str) -> Iterator[Record]:
        """Everything in the container, with what it complains of."""
        for inner in part.source.shards():
            yield from part.source.records(inner)
            for problem in part.source.problems.of(inner.name):
                if problem.reason != "null_bytes" or not isinstance(sidecar, Sidecar):
                    self.problems.add(problem.reason, part.prefix + problem.where, problem.detail, shard=shard.name)
        for problem in part.source.problems.of(""):
            self.problems.add(problem.reason, part.prefix + problem.where, problem.detail, shard=shard.name)

    def _accept(self, record: Record, sidecar: Sidecar | str, shard: Shard, seen: set[int]) -> int | None:
        """The row of a picture that may be used (-1 without a Parquet file), else None and a problem."""
        if not isinstance(sidecar, Sidecar):
            return -1
        row = sidecar.row(record.uri)
        if row is None:
            self.problems.add("shifted_shard", record.uri, "not in the Parquet file", shard=shard.name)
            return None
        if row not in sidecar.successes:
            self.problems.add("shifted_shard", record.uri, "the Parquet file calls it failed", shard=shard.name)
            return None
        seen.add(row)
        expected = self._expected_hash(sidecar, row)
        if expected and hashlib.sha256(record.data).hexdigest() != expected:
            self.problems.add("sha256_mismatch", record.uri, f"expected {expected}", shard=shard.name)
            return None
        return row

    def _expected_hash(self, sidecar: Sidecar, row: int) -> str:
        checked = self._verify == "true" or (self._verify == "auto" and sidecar.stored_as_downloaded(row))
        return str(sidecar.value("sha256", row) or "").lower() if checked else ""

    def _finished(self, record: Record, part: _Part, sidecar: Sidecar | str, row: int) -> Record:
        caption, metadata = record.caption, record.metadata
        if isinstance(sidecar, Sidecar):
            caption = clean_caption(sidecar.caption(row)) or caption
            url = sidecar.value("url", row)
            metadata = {} if url is None else {"url": str(url)}
        data = self._cropped(record.data, part, record.uri)
        return Record(self.source_id, part.prefix + record.uri, data, caption, metadata)

    def _report(self, part: _Part, shard: Shard, sidecar: Sidecar | str, seen: set[int]) -> None:
        """What the Parquet file says beyond the pictures that were found."""
        if not isinstance(sidecar, Sidecar):
            reason = "damaged_parquet" if sidecar else "missing_parquet"
            self.problems.add(reason, part.name, sidecar or "pictures and captions were read alone", shard=shard.name)
            return
        for reason, count, detail in sidecar.failures():
            self.problems.add(reason, part.name, detail, shard=shard.name, count=count)
        if sidecar.repeated_keys:
            self.problems.add("repeated_key", part.name, shard=shard.name, count=sidecar.repeated_keys)
        missing = sidecar.successes - seen
        if missing:
            example = f"first: {sidecar.key(min(missing))}"
            self.problems.add("missing_member", part.name, example, shard=shard.name, count=len(missing))
        recorded = recorded_successes(self._root / f"{part.name}_stats.json")
        if recorded not in (None, len(sidecar.successes)):
            detail = f"{part.name}_stats.json counts {recorded} successes, the Parquet file {len(sidecar.successes)}"
            self.problems.add("count_mismatch", part.name, detail, shard=shard.name)
        if self._crop == "false" and sidecar.count_oblong() and self._bordered(part):
            self.problems.add("white_borders", part.name, "kept", shard=shard.name, count=sidecar.count_oblong())

    def _cropped(self, data: bytes, part: _Part, uri: str) -> bytes:
        """The bytes to hand out: as found, or a PNG without white bars."""
        if self._crop == "false" or (self._crop == "auto" and not self._bordered(part)):
            return data
        sidecar = self._sidecar(part)
        row = sidecar.row(uri) if isinstance(sidecar, Sidecar) else None
        original = None if row is None or isinstance(sidecar, str) else sidecar.original_size(row)
        if original is None and self._crop == "auto":
            return data
        try:
            image = decode(data)
        except UnreadableImage:  # said by whoever uses the picture
            return data
        box = _bars(image, original)
        return data if box is None else cut(image, box)

    def _look_for_borders(self, part: _Part) -> bool:
        """Whether the shard's pictures were padded: those that must have bars are square and have white ones."""
        sidecar = self._sidecar(part)
        if not isinstance(sidecar, Sidecar) or not sidecar.count_oblong():
            return False
        white = [found for found, _ in zip(self._probe(part, sidecar), range(_PROBED), strict=False)]
        return bool(white) and sum(white) >= _PROBED_SHARE * len(white)

    def _probe(self, part: _Part, sidecar: Sidecar) -> Iterator[bool]:
        fresh = self._part(part.name, {entry.name: entry for entry in self._root.iterdir()})
        for inner in fresh.source.shards() if fresh else ():
            for record in fresh.source.records(inner) if fresh else ():
                row = sidecar.row(record.uri)
                size = None if row is None or row not in sidecar.successes else sidecar.original_size(row)
                if size is None or abs(size[0] - size[1]) < 0.05 * max(size):
                    continue
                try:
                    yield _bars(decode(record.data), size) is not None
                except UnreadableImage:
                    continue

    def read_many(self, uris: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Bytes by uri, shard by shard; cropped as they were when they were indexed."""
        wanted: dict[str, list[str]] = {}
        for uri in uris:
            number = _NUMBER.match(uri)
            part = None if number is None else self._parts.get(number[0])
            if part is None or not uri.startswith(part.prefix):
                raise DataError(f"source {self.source_id} has no record {uri}")
            wanted.setdefault(part.name, []).append(uri.removeprefix(part.prefix))
        for name, inside in sorted(wanted.items()):
            part = self._parts[name]
            for uri, data in part.source.read_many(inside):
                yield part.prefix + uri, self._cropped(data, part, uri)


def _bars(image: Image.Image, original: tuple[int, int] | None) -> Box | None:
    """The part inside white bars, None where the picture has none."""
    pixels = np.asarray(image)
    if original is None:
        box = letterbox(pixels)
        return None if box == (0, 0, *image.size) else box
    if image.width != image.height:
        return None
    box = content_box(image.width, *original)
    return box if white_bars(pixels, box) else None


def _has_pictures(path: Path) -> bool:
    """Whether a Parquet file has a column of bytes; a damaged one is let through, to be reported where it is read."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return True
    return any(holds_bytes(schema, name) for name in schema.names)

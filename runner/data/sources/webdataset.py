"""WebDataset tar shards, read as a stream and never unpacked.

Members that follow one another and share a key are one sample. The key is the member's path up to the first dot of its
base name, the field is the rest in lower case: ``a/b.seg.png`` has key ``a/b`` and field ``seg.png``. The uri of a
picture is ``SHARD#MEMBER``.

Python's ``tarfile`` ends quietly where a tar is cut off; here the missing end is looked for and reported.
"""

from __future__ import annotations

import itertools
import json
import lzma
import os
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from runner.data.sources.base import IMAGE_FIELDS, MAX_RECORD_BYTES, Record, Shard, Source, clean_caption, digest
from runner.errors import DataError

_BLOCK = 512
_TAR_ERRORS = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


@dataclass
class Sample:
    """Members of one key: tar entries by field; ``twice`` holds fields that came more than once."""

    key: str
    fields: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)


class WebDataset(Source):
    """Tar files of samples. ``fields`` names the endings of picture, caption and label (None = find the picture)."""

    kind = "webdataset"

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
        self._paths = {quote(file.relative_to(root).as_posix(), safe="/ "): file for file in files}
        self._limit, self._fields = limit, fields

    def shards(self) -> Sequence[Shard]:
        """One shard a tar; the fingerprint covers name, size, change time and the fields asked for."""
        found, left = [], self._limit
        for name in sorted(self._paths):
            status = self._paths[name].stat()
            records = None if left is None else self._count(name, left)
            left = None if left is None else left - (records or 0)
            if records != 0:
                stamp = digest([name, status.st_size, status.st_mtime_ns, self._fields, records])
                found.append(Shard(name, stamp, records))
        return found

    def _count(self, name: str, most: int) -> int | None:
        try:
            with _open(self._paths[name]) as tar:
                return sum(1 for _ in itertools.islice(self._samples(tar, name, report=False), most))
        except DataError:  # reported when the shard is read
            return None

    def _records(self, shard: Shard) -> Iterator[Record]:
        try:
            tar = _open(self._paths[shard.name])
        except DataError as error:
            self.problems.add("damaged_shard", shard.name, error.message, shard=shard.name)
            return
        with tar:
            for number, (uri, sample, image) in enumerate(self._samples(tar, shard.name, report=True)):
                if shard.records is not None and number >= shard.records:
                    return
                try:
                    data = _content(tar, image)
                    caption = self._text(tar, sample, "caption")
                except _TAR_ERRORS as error:
                    self.problems.add("truncated_shard", uri, str(error), shard=shard.name)
                    return
                yield Record(self.source_id, uri, data, clean_caption(caption), _metadata(tar, sample))

    def _text(self, tar: tarfile.TarFile, sample: Sample, role: str) -> bytes | None:
        member = sample.fields.get((self._fields[role] or "").lower())
        return None if member is None else _content(tar, member)

    def _samples(
        self, tar: tarfile.TarFile, shard: str, *, report: bool
    ) -> Iterator[tuple[str, Sample, tarfile.TarInfo]]:
        """Usable samples with uri and picture member; the others become problems when ``report``."""

        def problem(reason: str, where: str, detail: str = "") -> None:
            if report:
                self.problems.add(reason, f"{shard}#{where}", detail, shard=shard)

        seen: set[str] = set()
        keys: set[str] = set()
        for sample in group(tar, problem):
            if sample.key in keys:
                problem("returning_key", sample.key, "members of one sample must stand together")
            keys.add(sample.key)
            image = self._image(sample)
            if sample.twice:
                problem("duplicate_field", sample.key, ", ".join(sample.twice))
            elif image is None:
                problem("no_image", sample.key, "fields: " + ", ".join(sample.fields))
            elif image.name in seen:
                problem("repeated_member", image.name)
            else:
                seen.add(image.name)
                yield f"{shard}#{image.name}", sample, image

    def _image(self, sample: Sample) -> tarfile.TarInfo | None:
        wanted = self._fields["image"]
        names = IMAGE_FIELDS if wanted is None else (wanted.lower(),)
        return next((sample.fields[name] for name in names if name in sample.fields), None)

    def read_many(self, uris: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Bytes by uri, tar by tar in the order of their members."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for uri in uris:
            shard, _, member = uri.partition("#")
            wanted[shard].add(member)
        for shard, members in sorted(wanted.items()):
            yield from self._read_members(shard, members)

    def _read_members(self, shard: str, members: set[str]) -> Iterator[tuple[str, bytes]]:
        gone = f"source {self.source_id}: {unquote(shard)} no longer holds"
        if shard not in self._paths:
            raise DataError(f"{gone} anything: the file is not part of the source")
        left = set(members)
        with _open(self._paths[shard]) as tar:
            for member in _members(tar):
                if member.name in left and member.isreg():
                    yield f"{shard}#{member.name}", _content(tar, member)
                    left.discard(member.name)
                if not left:
                    return
        raise DataError(f"{gone} {min(left)}", hint="The shard changed since it was indexed; run again.")

    def labels(self) -> dict[str, str] | None:
        """Text of the label field by uri, where the spec names one."""
        if self._fields["label"] is None:
            return None
        found = {}
        for shard in self.shards():
            if self._count(shard.name, 1) is None:
                continue
            with _open(self._paths[shard.name]) as tar:
                for uri, sample, _ in self._samples(tar, shard.name, report=False):
                    label = clean_caption(self._text(tar, sample, "label"))
                    if label is not None:
                        found[uri] = label
        return found


def split_name(name: str) -> tuple[str, str]:
    """Key and field of a member's path: cut at the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def group(tar: tarfile.TarFile, problem: Any) -> Iterator[Sample]:
    """Samples of a tar in order; ``problem(reason, where, detail)`` hears of every member left out.

    Where the tar is cut off, the sample at the cut may lack fields, so it is left out and reported too.
    """
    current: Sample | None = None
    try:
        for member in _members(tar):
            reason = _refusal(member)
            if reason is not None:
                if reason:
                    problem(reason, member.name, f"-> {member.linkname}" if member.linkname else "")
                continue
            key, name = split_name(member.name)
            if current is None or current.key != key:
                if current is not None:
                    yield current
                current = Sample(key)
            if name in current.fields:
                current.twice.append(name)
            current.fields[name] = member
        _check_end(tar)
    except _TAR_ERRORS as error:
        problem("truncated_shard", current.key if current else "", str(error))
        return
    if current is not None:
        yield current


def _open(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:*", errorlevel=2)
    except _TAR_ERRORS as error:
        raise DataError(f"{path} is not a readable tar file ({str(error).partition(chr(10))[0]})") from error


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members as they stand; the list that tarfile keeps is emptied, so memory stays flat."""
    while True:
        member = tar.next()
        if member is None:
            return
        tar.members = []  # type: ignore[attr-defined]
        yield member


def _refusal(member: tarfile.TarInfo) -> str | None:
    """Why a member is no part of any sample: a reason, ``""`` for what is left out quietly, None if it is usable."""
    base = member.name.rpartition("/")[2]
    if member.isdir() or (base.startswith("__") and base.partition(".")[0].endswith("__")):
        return ""
    if member.issym() or member.islnk():
        return "link_member"
    if not member.isreg() or member.issparse():
        return "special_member"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "unsafe_name"
    if "." not in base or base.startswith("."):
        return "no_field"
    return "large_member" if member.size > MAX_RECORD_BYTES else None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name}: {len(data)} of {member.size} bytes")
    return data


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise where the block that ends every tar is missing: the file was cut off between two members."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError(f"no end mark at byte {tar.offset}: the file was cut off or damaged")


def _metadata(tar: tarfile.TarFile, sample: Sample) -> dict[str, Any]:
    """The sample's ``json`` field, where it is an object."""
    member = sample.fields.get("json")
    if member is None:
        return {}
    try:
        value = json.loads(_content(tar, member))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

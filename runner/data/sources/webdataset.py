"""WebDataset tar shards, read as a stream and never unpacked. The uri of a picture is ``SHARD#MEMBER``."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from runner.data.sources.base import (
    IMAGE_FIELDS,
    FileSource,
    Record,
    Shard,
    clean_caption,
    digest,
    file_stamp,
)
from runner.data.sources.tars import TAR_ERRORS, Sample, content, group, members, open_tar, reason_of
from runner.errors import DataError


class WebDataset(FileSource):
    """Tar files of samples. ``fields`` names the endings of picture, caption and label (None = find the picture)."""

    kind = "webdataset"

    def shards(self) -> Sequence[Shard]:
        """One shard a tar; the fingerprint covers name, size, change time and the fields asked for."""
        found, left = [], self._limit
        for name in sorted(self._paths):
            records = None if left is None else self._count(name, left)
            left = None if left is None else left - (records or 0)
            if records != 0:
                stamp = digest([name, *file_stamp(self._paths[name]), self._fields, records])
                found.append(Shard(name, stamp, records))
        return found

    def _count(self, name: str, most: int) -> int | None:
        try:
            with open_tar(self._paths[name]) as tar:
                return sum(1 for _ in itertools.islice(self._samples(tar, name, report=False), most))
        except DataError:  # reported when the shard is read
            return None

    def _records(self, shard: Shard) -> Iterator[Record]:
        try:
            tar = open_tar(self._paths[shard.name])
        except DataError as error:
            self.problems.add("damaged_shard", shard.name, error.message, shard=shard.name)
            return
        with tar:
            for number, (uri, sample, image) in enumerate(self._samples(tar, shard.name, report=True)):
                if shard.records is not None and number >= shard.records:
                    return
                try:
                    data = content(tar, image)
                    caption = self._text(tar, sample, "caption")
                except TAR_ERRORS as error:
                    self.problems.add(reason_of(error), uri, str(error), shard=shard.name)
                    return
                yield Record(self.source_id, uri, data, clean_caption(caption), _metadata(tar, sample))

    def _text(self, tar: tarfile.TarFile, sample: Sample, role: str) -> bytes | None:
        member = sample.fields.get((self._fields[role] or "").lower())
        return None if member is None else content(tar, member)

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
        for shard, names in sorted(wanted.items()):
            try:
                yield from self._read_members(shard, names)
            except TAR_ERRORS as error:
                raise DataError(f"source {self.source_id}: {unquote(shard)} cannot be read ({error})") from error

    def _read_members(self, shard: str, names: set[str]) -> Iterator[tuple[str, bytes]]:
        gone = f"source {self.source_id}: {unquote(shard)} no longer holds"
        if shard not in self._paths:
            raise DataError(f"{gone} anything: the file is not part of the source")
        left = set(names)
        with open_tar(self._paths[shard]) as tar:
            for member in members(tar):
                if member.name in left and member.isreg():
                    yield f"{shard}#{member.name}", content(tar, member)
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
            with open_tar(self._paths[shard.name]) as tar:
                for uri, sample, _ in self._samples(tar, shard.name, report=False):
                    label = clean_caption(self._text(tar, sample, "label"))
                    if label is not None:
                        found[uri] = label
        return found


def _metadata(tar: tarfile.TarFile, sample: Sample) -> dict[str, Any]:
    """The sample's ``json`` field, where it is an object."""
    member = sample.fields.get("json")
    if member is None:
        return {}
    try:
        value = json.loads(content(tar, member))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

"""Folders of pictures, and folders sorted by hand into ``TARGET/ATTRIBUTE/VALUE``.

A uri is the path below the root with ``/``. Order is that of the uris as strings. Hidden files and folders are skipped.
Links to files are followed as long as they stay below the root; links to folders never are.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.data.sources.base import (
    IMAGE_FIELDS,
    MAX_RECORD_BYTES,
    Record,
    Shard,
    Source,
    chunked,
    clean_caption,
)
from runner.errors import DataError


class Folder(Source):
    """Pictures below ``root``; the caption of ``a.jpg`` is the text of ``a.txt`` beside it (any letter case)."""

    kind = "folder"

    def __init__(
        self, root: Path, source_id: str, spec: dict[str, Any], *, limit: int | None = None, labelled: bool = False
    ) -> None:
        super().__init__(source_id, spec)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder of pictures")
        self._root = Path(os.path.realpath(root))
        self._limit, self._labelled = limit, labelled

    @cached_property
    def _files(self) -> tuple[list[str], dict[str, str]]:
        return self._listing()

    def _listing(self) -> tuple[list[str], dict[str, str]]:
        """Sorted uris of the pictures, and the uri of the caption file for those that have one."""
        images: list[str] = []
        texts: dict[str, str] = {}
        for uri in self._walk(self._root, ""):
            stem, _, ending = uri.rpartition(".")
            if ending.lower() in IMAGE_FIELDS:
                images.append(uri)
            elif ending.lower() == "txt":
                texts[stem] = min(uri, texts.get(stem, uri))
        images = sorted(images)[: self._limit]
        captions = {uri: texts[stem] for uri in images if (stem := uri.rpartition(".")[0]) in texts}
        return images, captions

    def _walk(self, folder: Path, prefix: str) -> Iterator[str]:
        pending = [(folder, prefix)]
        while pending:
            folder, prefix = pending.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self.problems.add("unreadable_folder", prefix or ".", str(error))
                continue
            for entry in entries:
                uri = prefix + entry.name
                if entry.name.startswith("."):
                    continue
                if not _is_text(entry.name):
                    self.problems.add("unsafe_name", uri.encode("utf8", "backslashreplace").decode())
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append((Path(entry.path), uri + "/"))
                elif self._is_usable(entry, uri):
                    yield uri

    def _is_usable(self, entry: os.DirEntry[str], uri: str) -> bool:
        if entry.is_symlink():
            if not self._is_inside(entry.path):
                self.problems.add("link_out_of_root", uri, os.path.realpath(entry.path))
                return False
            if os.path.isdir(entry.path):  # noqa: PTH112  a link that leads in a circle is no folder, and no error
                self.problems.add("link_to_folder", uri)
                return False
        if os.path.isfile(entry.path):  # noqa: PTH113
            return True
        self.problems.add("broken_link" if entry.is_symlink() else "special_file", uri)
        return False

    def _is_inside(self, path: str | Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self._root)

    def uris(self) -> list[str]:
        """All pictures, sorted; reads folders only."""
        return list(self._files[0])

    def shards(self) -> Sequence[Shard]:
        """Runs of files; a run's fingerprint covers names, sizes and change times of pictures and captions."""
        uris, _ = self._files
        return [self._shard(uris[start:end]) for start, end in chunked(uris)]

    def _shard(self, uris: list[str]) -> Shard:
        state = hashlib.sha256()
        captions = self._files[1]
        for uri in uris:
            for name in (uri, captions.get(uri)):
                state.update(f"{name}\0{self._stamp(name)}\0".encode("utf8", "surrogateescape"))
        return Shard(uris[0], state.hexdigest(), len(uris), uris)

    def _stamp(self, uri: str | None) -> str:
        if uri is None:
            return ""
        try:
            status = (self._root / uri).stat()
        except OSError:
            return "gone"
        return f"{status.st_size}-{status.st_mtime_ns}"

    def _records(self, shard: Shard) -> Iterator[Record]:
        captions = self._files[1]
        for uri in shard.content:
            data = self._try(uri, shard)
            if data is None:
                continue
            text = self._try(captions[uri], shard) if uri in captions else None
            yield Record(self.source_id, uri, data, clean_caption(text), self._metadata(uri))

    def _try(self, uri: str, shard: Shard) -> bytes | None:
        try:
            return self._read(uri)
        except (OSError, DataError) as error:
            self.problems.add("unreadable_file", uri, str(error), shard=shard.name)
            return None

    def _read(self, uri: str) -> bytes:
        path = self._root / uri
        if not self._is_inside(path):
            raise DataError(f"{uri} leads out of {self._root}")
        # Non-blocking, then checked: a pipe that took the file's place must not hang the run.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_RECORD_BYTES:
                raise DataError(f"{uri} is not a regular file of at most {MAX_RECORD_BYTES} bytes")
            return file.read(MAX_RECORD_BYTES)

    def _metadata(self, uri: str) -> dict[str, Any]:
        return {}

    def read_many(self, uris: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Bytes by uri, in the order asked for."""
        for uri in uris:
            try:
                yield uri, self._read(uri)
            except OSError as error:
                raise DataError(
                    f"source {self.source_id}: {uri} cannot be read ({error})",
                    hint="The folder changed since it was indexed; run again.",
                ) from error

    def labels(self) -> dict[str, str] | None:
        """First folder below the root by uri, where the spec says that these are labels."""
        if not self._labelled:
            return None
        return {uri: uri.partition("/")[0] for uri in self._files[0] if "/" in uri}


def _is_text(name: str) -> bool:
    """Whether a file's name is UTF-8: what is not can be stored in no table."""
    try:
        name.encode("utf8")
    except UnicodeEncodeError:
        return False
    return True


class FolderTree(Folder):
    """``TARGET/ATTRIBUTE/VALUE/file``, optionally one level deeper; metadata carries the three names."""

    kind = "folder_tree"

    def _listing(self) -> tuple[list[str], dict[str, str]]:
        images, captions = super()._listing()
        placed = [uri for uri in images if uri.count("/") in (3, 4)]
        for uri in sorted(set(images) - set(placed)):
            self.problems.add("unexpected_depth", uri, "expected TARGET/ATTRIBUTE/VALUE/file")
        self._check_targets(placed)
        return placed, {uri: captions[uri] for uri in placed if uri in captions}

    def _check_targets(self, uris: list[str]) -> None:
        homes: dict[str, str] = {}
        for uri in uris:
            folder = uri.rsplit("/", 3)[0]
            target = folder.rpartition("/")[2]
            if homes.setdefault(target, folder) != folder:
                raise DataError(
                    f"the class folder {target!r} stands in two places: {homes[target]} and {folder}",
                    hint="Audit them apart, or rename one: pictures of different tasks must not be merged.",
                )

    def _metadata(self, uri: str) -> dict[str, Any]:
        target, attribute, value = uri.split("/")[-4:-1]
        return {"target": target, "attribute": attribute, "value": value}

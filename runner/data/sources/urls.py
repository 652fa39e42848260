"""Pictures behind links, fetched when they are first needed and kept in a folder.

The uri of a picture is its link; the order is that of the links as strings, whatever the order of rows and files. A link
that gave nothing is not asked again by this process, and is asked again by the next: dead links are normal.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from runner.data.sources.base import Record, Shard, Source, chunked, clean_caption, digest
from runner.data.sources.download import JUDGED_ALONE, DownloadFailed, Fetcher, image_kind, parse, printable
from runner.data.sources.links import EXTRA, HASHES, Columns, read_links
from runner.errors import DataError

__all__ = ["Columns", "Kept", "Urls"]

_SHOWN = 300
_HOSTS_TO_DOUBT = 3


class _Link(NamedTuple):
    url: str
    caption: str | None
    hashes: dict[str, str]
    extra: dict[str, str]


class Kept:
    """Fetched pictures by link, below ``folder``: ``ab/cdef...`` after the link's SHA-256; whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, url: str) -> Path:
        name = hashlib.sha256(url.encode("utf8", "surrogateescape")).hexdigest()
        return self._folder / name[:2] / name[2:]

    def get(self, url: str) -> bytes | None:
        """The picture, None where it is not here or no picture."""
        try:
            data = self._path(url).read_bytes()
        except OSError:
            return None
        return data if image_kind(data) else None

    def put(self, url: str, data: bytes) -> None:
        """Keep a picture; durable when this returns."""
        path = self._path(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


_failed: dict[tuple[Path, str], DownloadFailed] = {}
"""Links that gave nothing in this process, by the folder they would be kept in."""


class Urls(Source):
    """Lists of links. ``cache`` keeps what was fetched (default: ``downloads`` in the user's cache folder)."""

    kind = "urls"

    def __init__(
        self,
        files: Sequence[Path],
        source_id: str,
        spec: dict[str, Any],
        *,
        limit: int | None = None,
        columns: Columns = Columns(),  # noqa: B008
        fetcher: Fetcher = Fetcher(),  # noqa: B008
        cache: Path | None = None,
        concurrency: int = 16,
    ) -> None:
        super().__init__(source_id, spec)
        self._files, self._limit, self._columns = files, limit, columns
        self._fetcher, self._concurrency = fetcher, concurrency
        self._folder = cache or _default_folder()
        self._kept = Kept(self._folder)

    @cached_property
    def _links(self) -> pa.Table:
        def report(reason: str, where: str, detail: str, count: int) -> None:
            self.problems.add(reason, where, detail, count=count)

        return read_links(self._files, self._columns, report, self._limit)

    def shards(self) -> Sequence[Shard]:
        """Runs of about 512 links, named by their first; the fingerprint covers the rows. Nothing is fetched.

        ``records`` is the number of links: dead ones are known only when they are asked for.
        """
        return self._runs

    @cached_property
    def _runs(self) -> list[Shard]:
        urls = self._links["url"]
        borders = chunked(str(url) for chunk in urls.chunks for url in chunk.to_pylist())
        return [self._shard(start, end) for start, end in borders]

    def _shard(self, start: int, end: int) -> Shard:
        rows = self._links.slice(start, end - start).to_pylist()
        return Shard(rows[0]["url"], digest(rows), end - start, (start, end))

    def _records(self, shard: Shard) -> Iterator[Record]:
        start, end = shard.content
        links = [_link(row) for row in self._links.slice(start, end - start).to_pylist()]
        reached, silent = False, set()
        for link, outcome in _ahead(self._try, links, self._concurrency):
            if isinstance(outcome, bytes):
                reached = True
                yield Record(self.source_id, link.url, outcome, clean_caption(link.caption), dict(link.extra))
                continue
            self.problems.add(outcome.reason, printable(link.url, _SHOWN), outcome.detail, shard=shard.name)
            if outcome.reason not in JUDGED_ALONE:
                reached |= outcome.reached
                silent.add(parse(link.url).host)
        if not reached and len(silent) >= _HOSTS_TO_DOUBT:
            raise DataError(
                f"source {self.source_id}: not one of {len(silent)} servers could be reached",
                hint="Is this machine online? Pictures fetched so far are kept; run again.",
            )

    def _try(self, link: _Link) -> bytes | DownloadFailed:
        try:
            return self._get(link)
        except DownloadFailed as error:
            return error

    def _get(self, link: _Link) -> bytes:
        """The picture, from the folder or the network. Raises ``DownloadFailed``."""
        data = self._kept.get(link.url)
        if data is not None:
            _compare(link, data)
            return data
        known = _failed.get((self._folder, link.url))
        if known is not None:
            raise known
        try:
            data = self._fetcher.fetch(link.url)
            _compare(link, data)
        except DownloadFailed as error:
            _failed[self._folder, link.url] = DownloadFailed(error.reason, error.detail, reached=error.reached)
            raise
        self._kept.put(link.url, data)
        return data

    def read_many(self, uris: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Bytes by link, in the order of the links; what is not kept any more is fetched again."""
        wanted = sorted(set(uris))
        rows = self._links.filter(pc.is_in(self._links["url"], pa.array(wanted, pa.string()))).to_pylist()
        unknown = set(wanted) - {row["url"] for row in rows}
        if unknown:
            raise DataError(f"source {self.source_id} has no record {printable(min(unknown), _SHOWN)}")
        for link, outcome in _ahead(self._try, [_link(row) for row in rows], self._concurrency):
            if isinstance(outcome, DownloadFailed):
                raise DataError(
                    f"source {self.source_id}: {printable(link.url, _SHOWN)} cannot be fetched any more ({outcome})",
                    hint=f"It was kept in {self._folder} when it was indexed. Index again to leave it out.",
                )
            yield link.url, outcome


def _default_folder() -> Path:
    from runner.assets.cache import cache_root

    return cache_root() / "downloads"


def _link(row: dict[str, str | None]) -> _Link:
    hashes = {name: value.strip().lower() for name in HASHES if (value := row[name]) and value.strip()}
    extra = {name.removeprefix(EXTRA): v for name, v in row.items() if name.startswith(EXTRA) and v is not None}
    return _Link(str(row["url"]), row["caption"], hashes, extra)


def _compare(link: _Link, data: bytes) -> None:
    """Raise where the list names a hash and the picture has another."""
    for name, expected in link.hashes.items():
        if hashlib.new(name, data, usedforsecurity=False).hexdigest() != expected:
            raise DownloadFailed(f"{name}_mismatch", f"expected {expected[:64]}")


def _ahead(
    work: Callable[[_Link], bytes | DownloadFailed], links: list[_Link], workers: int
) -> Iterator[tuple[_Link, bytes | DownloadFailed]]:
    """Outcomes in the order of the links, with at most twice ``workers`` under way or waiting to be taken."""
    pending: deque[tuple[_Link, Future[bytes | DownloadFailed]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
        try:
            for link in links:
                pending.append((link, pool.submit(work, link)))
                if len(pending) >= 2 * workers:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()

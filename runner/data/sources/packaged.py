"""Image sets of the asset registry, as a source like any other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from runner.data.sources.base import Record, Shard, Source, chunked, clean_caption, digest
from runner.errors import DataError


class PackagedImages(Protocol):
    """What ``runner.assets.source_of(name)`` returns."""

    name: str
    licence: str
    fingerprint: str

    def uris(self) -> list[str]:
        """All pictures, in a stable order."""

    def read(self, uri: str) -> bytes:
        """Encoded bytes of one picture."""

    def caption(self, uri: str) -> str | None:
        """The caption that the set carries for it."""

    def labels(self) -> dict[str, str] | None:
        """True labels by uri, where the set has them."""


class Packaged(Source):
    """A packaged set; its fingerprint is the registry's, so nothing is read to key it."""

    kind = "packaged"

    def __init__(
        self,
        asset: str,
        source_id: str,
        spec: dict[str, Any],
        *,
        limit: int | None = None,
        images: PackagedImages | None = None,
    ) -> None:
        super().__init__(source_id, spec)
        if images is None:
            from runner.assets import source_of

            images = source_of(asset)
        self._images, self._limit, self.licence = images, limit, images.licence

    def shards(self) -> Sequence[Shard]:
        """Runs of pictures."""
        uris = list(self._images.uris())[: self._limit]
        return [
            Shard(f"{start:07d}", digest([self._images.fingerprint, uris[start:end]]), end - start, uris[start:end])
            for start, end in chunked(uris)
        ]

    def _records(self, shard: Shard) -> Iterator[Record]:
        for uri in shard.content:
            try:
                data = self._images.read(uri)
            except (OSError, DataError) as error:
                self.problems.add("unreadable_file", uri, str(error), shard=shard.name)
                continue
            yield Record(self.source_id, uri, data, clean_caption(self._images.caption(uri)))

    def read_many(self, uris: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Bytes by uri, in the order asked for."""
        for uri in uris:
            try:
                yield uri, self._images.read(uri)
            except (OSError, KeyError) as error:
                raise DataError(f"source {self.source_id}: {uri} cannot be read ({error})") from error

    def labels(self) -> dict[str, str] | None:
        """Labels of the set, hidden from every record."""
        return self._images.labels()

"""Where pictures stand, and their bytes from there. Light: no Pillow, no numpy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from runner.errors import DataError

if TYPE_CHECKING:
    from runner.data.sources import Source


class Place(NamedTuple):
    """Where a picture stands: a source of the corpus, and its uri there."""

    source_id: str
    uri: str


def read_pictures(sources: Sequence[Source], wanted: Iterable[Place]) -> Iterator[tuple[Place, bytes]]:
    """Bytes of the wanted pictures, source by source. Raises ``DataError`` where a source is not among ``sources``."""
    by_source: dict[str, list[str]] = {}
    for place in sorted(set(wanted)):
        by_source.setdefault(place.source_id, []).append(place.uri)
    known = {source.source_id: source for source in sources}
    for source_id, uris in by_source.items():
        if source_id not in known:
            raise DataError(f"the corpus has no source {source_id!r}; it has {', '.join(sorted(known)) or 'none'}")
        for uri, data in known[source_id].read_many(uris):
            yield Place(source_id, uri), data

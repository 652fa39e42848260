"""Pictures of a dataset as messages carry them, read a chunk ahead of the questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from runner.data.images import UnreadableImage
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.models.base import ImagePart
from runner.models.pictures import Transport, picture_part

T = TypeVar("T")

Part = ImagePart | UnreadableImage
"""A picture ready to be sent, or why it cannot be."""

CHUNK = 64
"""Pictures held at once: twice as many, since the next ones are read meanwhile."""


class Pictures:
    """Reads pictures of ``corpus`` (source specs); the same picture gives the same bytes every time."""

    def __init__(self, corpus: Sequence[Mapping[str, Any]], *, max_side: int | None, transport: Transport) -> None:
        """``max_side``: longer side in pixels at most, None = as found. Raises ``DataError`` where a source cannot be opened."""
        self._sources = open_sources([dict(spec) for spec in corpus])
        self._max_side, self._transport = max_side, transport

    async def parts(self, places: Iterable[Place]) -> dict[Place, Part]:
        """The pictures at ``places``, read and encoded in a thread. Raises ``DataError`` where one is no longer there."""
        return await asyncio.to_thread(self._parts, set(places))

    def _parts(self, places: set[Place]) -> dict[Place, Part]:
        return {place: self._part(data) for place, data in read_pictures(self._sources, places)}

    def _part(self, data: bytes) -> Part:
        try:
            return picture_part(data, max_side=self._max_side, transport=self._transport)
        except UnreadableImage as error:
            return error


def place_of(row: Mapping[str, Any]) -> Place:
    """Where the picture of a row of ``dataset_image`` or ``few_shot_pool`` stands."""
    return Place(row["source_id"], row["uri"])


async def ahead(
    items: Sequence[T], read: Callable[[Sequence[T]], Any], *, chunk: int = CHUNK
) -> AsyncIterator[tuple[Sequence[T], Any]]:
    """Chunks of ``items`` with what the coroutine function ``read`` gave for them; the next chunk is read meanwhile."""
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    coming = asyncio.ensure_future(read(chunks[0])) if chunks else None
    try:
        for number, part in enumerate(chunks):
            assert coming is not None
            found = await coming
            coming = asyncio.ensure_future(read(chunks[number + 1])) if number + 1 < len(chunks) else None
            yield part, found
    finally:
        if coming is not None:
            coming.cancel()

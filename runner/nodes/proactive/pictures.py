"""What the episodes show: frames of samples, cropped as the environment says, as images and as messages carry them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from runner.data.images import PILLOW_LIMIT, UnreadableImage, decode
from runner.data.places import Place, read_pictures
from runner.data.sources import Source, open_sources
from runner.errors import DataError
from runner.models.base import ImagePart
from runner.models.pictures import Transport, image_part, picture_part

if TYPE_CHECKING:
    from runner.nodes.proactive.env import Frame, State
    from runner.nodes.proactive.episodes import Case

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the picture as it is stored."""


class Shown(NamedTuple):
    """What one turn shows: a picture of the corpus, the part of it, and the short edge it is shrunk to (None: its own)."""

    source_id: str
    uri: str
    crop: Box | None = None
    short_edge: int | None = None


class FramePictures:
    """Reads frames of ``corpus`` (source specs); the same place gives the same bytes every time."""

    def __init__(
        self, corpus: Sequence[Mapping[str, Any]], *, max_side: int | None = None, transport: Transport = "png"
    ) -> None:
        """``max_side``: longer side at most, after the crop; None = as it is. Raises ``DataError`` where a source cannot be opened."""
        self._sources = open_sources([dict(spec) for spec in corpus])
        self._max_side, self._transport = max_side, transport

    async def parts(self, places: Iterable[Shown]) -> dict[Shown, ImagePart | UnreadableImage]:
        """The places as message parts, read and encoded in a thread; one that cannot be shown is the reason why."""
        return await asyncio.to_thread(self._parts, set(places))

    def images(self, places: Iterable[Shown]) -> dict[Shown, Image.Image | UnreadableImage]:
        """The places as RGB images; one that cannot be shown is the reason why."""
        return {place: view for place, _, view in self._views(set(places))}

    def _parts(self, places: set[Shown]) -> dict[Shown, ImagePart | UnreadableImage]:
        return {place: self._part(place, data, view) for place, data, view in self._views(places)}

    def _part(self, place: Shown, data: bytes, view: Image.Image | UnreadableImage) -> ImagePart | UnreadableImage:
        if isinstance(view, UnreadableImage):
            return view
        if self._transport == "raw" and place.crop is None and place.short_edge is None:
            return picture_part(data, max_side=self._max_side, transport="raw")
        return image_part(view, transport=self._transport)

    def _views(self, places: set[Shown]) -> Iterator[tuple[Shown, bytes, Image.Image | UnreadableImage]]:
        """Each place with its picture's bytes and what is seen of it; a picture is decoded once for all its crops."""
        by_picture: dict[Place, list[Shown]] = {}
        for place in places:
            by_picture.setdefault(Place(place.source_id, place.uri), []).append(place)
        for picture, data in read_each(self._sources, by_picture):
            whole = data if isinstance(data, UnreadableImage) else _decoded(data)
            held = b"" if isinstance(data, UnreadableImage) else data
            for place in by_picture[picture]:
                yield place, held, whole if isinstance(whole, UnreadableImage) else _view(whole, place, self._max_side)


def place_of(case: Case, at: State | Frame, short_edge: int | None = None) -> Shown:
    """Where the picture of a frame, or of the frame that a state shows, is found."""
    from runner.nodes.proactive.env import State

    frame = case.env.frame(at) if isinstance(at, State) else at
    return Shown(case.source_id, frame.uri, frame.crop, short_edge)


def cropped(image: Image.Image, box: Box) -> Image.Image:
    """The part of the stored picture inside ``box``, at whole pixels; what lies beyond its edges is black (as Pillow crops).

    Cut from the picture as it is stored: cutting after a resize, as the published script does for one model, shifts the box.
    Raises ``UnreadableImage`` where nothing would be seen, or more pixels than a picture may have.
    """
    if not all(map(math.isfinite, box)):
        raise UnreadableImage("too_small", f"the crop {box} is no box")
    left, top, right, bottom = (round(edge) for edge in box)
    inside = min(right, image.width) - max(left, 0), min(bottom, image.height) - max(top, 0)
    if min(inside) < 1:
        raise UnreadableImage("too_small", f"the crop {box} shows nothing of {image.width} x {image.height} pixels")
    if (right - left) * (bottom - top) > PILLOW_LIMIT:
        raise UnreadableImage("too_large", f"the crop {box} has more than {PILLOW_LIMIT} pixels")
    return image.crop((left, top, right, bottom))


def shrunk(image: Image.Image, *, short_edge: int | None = None, max_side: int | None = None) -> Image.Image:
    """The image with its shorter side at most ``short_edge`` and its longer at most ``max_side`` (Lanczos; never enlarged)."""
    scale = min(
        1.0,
        1.0 if short_edge is None else short_edge / min(image.size),
        1.0 if max_side is None else max_side / max(image.size),
    )
    if scale == 1.0:
        return image
    width, height = (max(1, round(scale * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def read_each(sources: Sequence[Source], wanted: Iterable[Place]) -> Iterator[tuple[Place, bytes | UnreadableImage]]:
    """Bytes of the wanted pictures; one that is gone costs no other. Raises ``DataError`` for a source that is not there."""
    left = dict.fromkeys(wanted)
    known = {source.source_id for source in sources}
    try:
        for place, data in read_pictures(sources, left):
            yield place, data
            del left[place]
        return
    except DataError:
        if any(place.source_id not in known for place in left):
            raise
    for place in left:
        try:
            yield from list(read_pictures(sources, [place]))
        except DataError as error:
            yield place, UnreadableImage("empty", error.message)


def _decoded(data: bytes) -> Image.Image | UnreadableImage:
    try:
        return decode(data)
    except UnreadableImage as error:
        return error


def _view(image: Image.Image, place: Shown, max_side: int | None) -> Image.Image | UnreadableImage:
    try:
        view = image if place.crop is None else cropped(image, place.crop)
    except UnreadableImage as error:
        return error
    return shrunk(view, short_edge=place.short_edge, max_side=max_side)

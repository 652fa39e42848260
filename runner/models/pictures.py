"""Pictures as chat messages carry them: the same picture gives the same bytes in every call."""

from __future__ import annotations

import io
from typing import Literal

from PIL import ExifTags, Image

from runner.data.images import decode
from runner.models.base import ImagePart

Transport = Literal["jpeg75", "jpeg", "png", "raw"]
"""jpeg75: JPEG at quality 75 (the open-world protocol); jpeg: quality 95; png: without loss; raw: the bytes as found."""

_QUALITY = {"jpeg75": 75, "jpeg": 95}
_SENT_AS_FOUND = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif", b"RIFF": "image/webp"}


def picture_part(data: bytes, *, max_side: int | None = None, transport: Transport = "jpeg75") -> ImagePart:
    """One picture for a message: upright RGB, the longer side at most ``max_side`` pixels (Lanczos, never enlarged).

    ``raw`` sends the bytes as found where the picture needs no shrinking or turning and its format is one that servers
    read, else PNG. Raises ``UnreadableImage``.
    """
    image = decode(data)
    shrunk = max_side is not None and max(image.size) > max_side
    if transport == "raw" and not shrunk and _is_upright(data):
        found = next((media for magic, media in _SENT_AS_FOUND.items() if data.startswith(magic)), None)
        if found is not None:
            return ImagePart(data, found)
    return image_part(image, max_side=max_side, transport=transport)


def image_part(image: Image.Image, *, max_side: int | None = None, transport: Transport = "jpeg75") -> ImagePart:
    """A decoded picture (RGB) for a message, as ``picture_part`` would send it; ``raw``, which has no bytes here, is PNG."""
    if max_side is not None and max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if transport in _QUALITY:
        image.save(buffer, "JPEG", quality=_QUALITY[transport])
        return ImagePart(buffer.getvalue(), "image/jpeg")
    image.save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png")


def _is_upright(data: bytes) -> bool:
    """Whether the pixels stand as they are shown; few servers turn a picture as its EXIF says."""
    with Image.open(io.BytesIO(data)) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in (0, 1)

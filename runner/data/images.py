"""Bytes to RGB pictures, one way for the whole product.

A picture that cannot be used is an outcome with a reason, never a crash and never a silent skip: ``decode`` returns an
RGB image or raises ``UnreadableImage``. Everything here is safe to call from several threads.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from runner.errors import DataError

Reason = Literal["empty", "undecodable", "truncated", "too_large", "too_small"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF")
"""Formats that are read. Pillow knows more, some of which start other programs or hide further files."""

PILLOW_LIMIT = 89_478_485
"""Pixels above which Pillow warns of a decompression bomb; never exceeded, whatever the limits say."""

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on damaged or hostile bytes (SyntaxError is theirs, not Python's parser).
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, LookupError, TypeError, AttributeError,
    ArithmeticError, RuntimeError, MemoryError, AssertionError, Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip

# For the whole process, since catch_warnings is not thread-safe. Anybody may reset it: `decode` checks sizes itself.
warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageLimits:
    """What is accepted: at most ``max_pixels`` (width x height), smaller side at least ``min_side`` pixels.

    ``PILLOW_LIMIT`` stands above ``max_pixels``.
    """

    max_pixels: int = 50_000_000
    min_side: int = 1


class UnreadableImage(DataError):
    """A picture that cannot be used; ``reason`` is one of ``Reason``."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"unreadable image ({reason}){': ' if detail else ''}{detail}")
        self.reason: Reason = reason
        self.detail = detail


DEFAULT_LIMITS = ImageLimits()


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode one picture to RGB: first frame, upright (EXIF), transparency on white, 16 bits scaled to 8.

    Raises ``UnreadableImage``. The size is judged from the header, before any pixel is decoded.
    """
    return _decoded(data, limits, _to_rgb)


def decode_cut_out(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode one picture to RGBA, its transparency kept; otherwise as ``decode``."""
    return _decoded(data, limits, lambda image: image.convert("RGBA"))


def _decoded(data: bytes, limits: ImageLimits, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if not data:
        raise UnreadableImage("empty", "0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, limits)
            image.load()
            return _upright(image, convert(image))
    except UnreadableImage:
        raise
    except _DECODER_ERRORS as error:
        raise UnreadableImage(_reason(error), _detail(error)) from error


def encode_jpeg(image: Image.Image, *, quality: int = 90) -> bytes:
    """An RGB image as JPEG bytes; the same image gives the same bytes."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def thumbnail(image: Image.Image, side: int = 160) -> bytes:
    """JPEG whose longest side is at most ``side`` pixels; smaller pictures keep their size."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encode_jpeg(small, quality=85)


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    most = min(limits.max_pixels, PILLOW_LIMIT)
    if width * height > most:
        raise UnreadableImage("too_large", f"{width} x {height} is more than {most} pixels")
    if min(size) < max(limits.min_side, 1):
        raise UnreadableImage("too_small", f"{width} x {height}, smaller side below {limits.min_side}")


def _reason(error: BaseException) -> Reason:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError)):
        return "too_large"
    return "truncated" if isinstance(error, EOFError) or "truncated" in str(error).lower() else "undecodable"


def _detail(error: BaseException) -> str:
    """What a decoder said; the same for the same bytes, so without addresses of objects."""
    if isinstance(error, UnidentifiedImageError):
        return "of no picture format that is read"
    return f"{type(error).__name__}: {error}"[:200]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode), "L").convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Scale deep grey values to uint8 (Pillow's own conversion clips them at 255)."""
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    top = grey.max(initial=0.0)
    if mode == "F":
        full = 1.0 if top <= 1 else 255.0 if top <= 255 else top
    else:
        full = 65535.0 if top <= 65535 else float(2**31 - 1)
    return np.clip(np.rint(grey * (255.0 / full)), 0, 255).astype(np.uint8)


def _upright(source: Image.Image, image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(source.getexif().get(_ORIENTATION_TAG, 1))
    except _DECODER_ERRORS:  # a broken EXIF block does not make the pixels unusable
        turn = None
    return image if turn is None else image.transpose(turn)

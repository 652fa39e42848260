"""What a loader hands on: everything but the masks, and a function that draws the masks of one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from runner.data.images import DEFAULT_LIMITS, FORMATS, UnreadableImage
from runner.data.parts.building import as_mask
from runner.data.parts.owners import Owner, read_owners
from runner.data.parts.specs import PartDatasetModel
from runner.errors import DataError

_ORIENTATION = 0x0112

OWNERS = Path(__file__).with_name("owner_tables")
"""Owner tables that come with the loaders, as YAML to copy and change."""


class Drawn(NamedTuple):
    """The mask of one part: ``MaskRow`` without its row."""

    part: int | str
    mask: NDArray[Any] | None = None
    keypoint: tuple[float, float] | None = None
    visible: bool | None = None


@dataclass(frozen=True)
class FoundParts:
    """A dataset as read, pictures in the order of its lists. ``root``: the pictures' folder; ``pictures``: mappings with
    ``sample_id``, ``split``, ``uri`` (below ``root``) and ``target``; ``draw(i)`` gives the masks of picture i of ``pictures``,
    may run in several threads, and raises ``UnreadableImage`` for a picture that must be left out."""

    root: Path
    object: str
    parts: list[str]
    attributes: list[str]
    owners: Mapping[str, Owner]
    pictures: Sequence[Mapping[str, Any]]
    value: NDArray[np.uint8]
    valid: NDArray[np.uint8]
    draw: Callable[[int], list[Drawn]]
    licence: str
    excluded: Mapping[str, str] = field(default_factory=dict)
    swaps: Sequence[Sequence[str]] = ()
    part_source: str = "masks"
    label_mode: str = "image"
    mask_resize: str = "none"
    notes: Sequence[str] = ()
    cut: Callable[[int], Image.Image] | None = None
    """Where pictures are cut out of larger ones: the pixels of picture i; ``root`` is then where they will stand."""


def owners_of(spec: PartDatasetModel, default: str) -> dict[str, Owner]:
    """The owners that the spec asks for: a file, or the table ``default`` of this project."""
    return read_owners(OWNERS / f"{default}.yaml" if spec.owners == "default" else Path(spec.owners))


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height from the header. Raises ``UnreadableImage``, also where an orientation tag turns the picture: what
    is drawn on it goes by its stored pixels."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
                raise UnreadableImage(
                    "undecodable", "its orientation tag turns it, its masks would not turn; save it upright"
                )
            if image.width * image.height > DEFAULT_LIMITS.max_pixels:
                raise UnreadableImage("too_large", f"{image.width} x {image.height}")
            return image.size
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise UnreadableImage("undecodable", str(error)[:200]) from error


def grey_image(path: Path) -> NDArray[np.uint8]:
    """A picture of one channel as numbers [H, W]; of palettes the indices. Raises ``DataError`` where it cannot be read."""
    try:
        with Image.open(path, formats=("PNG", "BMP", "TIFF", "GIF")) as image:
            if image.width * image.height > DEFAULT_LIMITS.max_pixels:
                raise DataError(f"{path}: a mask of {image.width} x {image.height} pixels is too large")
            plain = image if image.mode in ("1", "L", "P") else _one_channel(path, image)
            return np.asarray(plain.convert("L") if plain.mode == "1" else plain, np.uint8)
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a mask: {str(error)[:200]}") from error


def _one_channel(path: Path, image: Image.Image) -> Image.Image:
    """A grey picture saved in colour; refused where its channels differ."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        raise DataError(f"{path}: a mask is a picture of 8 bits, this one is {image.mode}")
    channels = image.convert("RGB").split()
    if any(channel.tobytes() != channels[0].tobytes() for channel in channels[1:]):
        raise DataError(
            f"{path}: a mask is grey, this picture has colours", hint="Save one black and white file a part."
        )
    return channels[0]


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask file [H, W] of two values. Raises ``DataError`` naming the file."""
    return as_mask(grey_image(path), str(path))

"""Circumstances that can be measured on the picture itself, so that no caption has to be believed.

``MEASURES[name].take(pixels)`` gives a number, or a category by name, from an RGB picture uint8 [height, width, 3] of at
least 8 x 8 pixels. NaN where a picture has nothing to measure (no object on a blank sheet). No measurement reads a caption.

Pictures reach the measurements through ``reduced``: upright, transparency on white (``runner.data.images.decode``), the
longer side at most ``MAX_SIDE`` pixels. EXIF matters (a turned picture has another aspect and position) and is applied by
``decode``. What depends on the size of the picture (sharpness, clutter, flatness) is taken on a copy of one fixed size.

This module is light: it is read to check a spec and to ask a language model. The arithmetic stands in the modules beside it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from runner.naming import words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Pixels = NDArray[np.uint8]

MAX_SIDE = 256
MIN_SIDE = 8


@dataclass(frozen=True)
class Measure:
    """One measurement: what it is called, its unit and range, what is low and what is high, and how it is taken.

    ``low_words``, ``high_words``: how people call the two ends. ``categories``: of a measurement that gives names, each with
    the words that mean it. ``function``: ``module:name`` in this package. ``version`` rises when the same picture would
    measure otherwise.
    """

    name: str
    unit: str
    description: str
    function: str
    low: float | None = None
    high: float | None = None
    low_words: tuple[str, ...] = ()
    high_words: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    version: str = "1"

    @property
    def is_category(self) -> bool:
        """Whether it gives names instead of numbers."""
        return bool(self.categories)

    def take(self, pixels: Pixels) -> float | str:
        """Measure uint8 [height, width, 3]. Raises ``ValueError`` for another shape or type."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < MIN_SIDE or pixels.dtype != "uint8":
            raise ValueError(
                f"{self.name} needs uint8 [height, width, 3] of at least {MIN_SIDE} x {MIN_SIDE} pixels, "
                f"not {pixels.dtype} {list(pixels.shape)}"
            )
        module, _, name = self.function.partition(":")
        function: Callable[[Pixels], float | str] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return function(pixels)

    def category_named(self, value: str) -> str | None:
        """The one category that the words of ``value`` name; None where they name none, or several."""
        said = set(words(value))
        found = [name for name, names in self.categories.items() if said & {name, *names}]
        return found[0] if len(found) == 1 else None


def reduced(image: Image) -> Pixels:
    """The picture as it is measured: RGB uint8, the longer side at most ``MAX_SIDE`` pixels, never enlarged.

    Pictures with a side below ``MIN_SIDE`` (before or after) raise ``ValueError``.
    """
    import numpy as np
    from PIL import Image as Pillow

    small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE), Pillow.Resampling.BOX, reducing_gap=None)
    if min(small.size) < MIN_SIDE:
        raise ValueError(f"{image.width} x {image.height} pixels are too few, or too narrow, to be measured")
    return np.asarray(small, np.uint8)


_ALL = (
    Measure(
        "luminance", "L*", "how light or dark the whole picture is", "light:luminance", 0.0, 100.0,
        ("dark", "dim", "night"), ("bright", "light", "daylight"),
    ),
    Measure(
        "contrast", "share of full scale", "how far light and dark parts of the picture lie apart", "light:contrast", 0.0, 0.5,
        ("low contrast", "faded", "foggy"), ("high contrast", "harsh", "stark"),
    ),
    Measure(
        "warmth", "b*", "whether the picture's colours lean to blue or to yellow", "colour:warmth", None, None,
        ("cool", "bluish", "cold"), ("warm", "yellowish", "golden"),
    ),
    Measure(
        "colourfulness", "M3", "how many different strong colours the picture shows", "colour:colourfulness", 0.0, None,
        ("monochrome", "drab", "plain colours"), ("colorful", "vivid", "multicolored"),
    ),
    Measure(
        "saturation", "share", "how pure the colours of the picture are", "colour:saturation", 0.0, 1.0,
        ("pale", "muted", "black and white"), ("saturated", "intense", "vibrant"),
    ),
    Measure(
        "hue", "name", "the main colour of the whole picture", "colour:dominant_hue",
        categories={
            "grey": ("gray", "colorless", "colourless"), "red": ("reddish", "crimson"), "orange": (),
            "yellow": ("yellowish", "golden"), "green": ("greenish",), "cyan": ("turquoise", "teal"),
            "blue": ("bluish",), "purple": ("violet", "lilac"), "pink": ("magenta",),
        },
    ),
    Measure(
        "sharpness", "variance of the Laplacian", "how sharp or blurred the picture is", "detail:sharpness", 0.0, None,
        ("blurry", "blurred", "out of focus"), ("sharp", "clear", "in focus"),
    ),
    Measure(
        "clutter", "share of pixels on edges", "how much detail and how many things fill the picture", "detail:clutter", 0.0, 1.0,
        ("plain", "simple", "empty"), ("cluttered", "busy", "crowded"),
    ),
    Measure(
        "flatness", "share of equal neighbours", "whether the picture is a photograph or a flat drawing", "detail:flatness",
        0.0, 1.0, ("photo", "photograph", "realistic"), ("drawing", "cartoon", "illustration"),
    ),
    Measure(
        "object_area", "share of the picture", "how much of the picture its main object fills", "salient:object_area", 0.0, 1.0,
        ("small", "far away", "distant"), ("large", "close up", "near"),
    ),
    Measure(
        "object_x", "share of the width", "where the main object is, from the left edge to the right", "salient:object_x",
        0.0, 1.0, ("left",), ("right",),
    ),
    Measure(
        "object_y", "share of the height", "where the main object is, from the top edge down", "salient:object_y", 0.0, 1.0,
        ("top", "upper"), ("bottom", "lower"),
    ),
    Measure(
        "aspect", "width / height", "whether the picture is upright or wide", "frame:aspect", 0.0, None,
        ("portrait", "tall", "vertical"), ("landscape", "wide", "horizontal"),
    ),
    Measure(
        "border", "share of the picture", "how much of the picture is an empty frame of one colour", "frame:border", 0.0, 1.0,
        ("full frame", "borderless", "no border"), ("framed", "bordered", "white background"),
    ),
)  # fmt: skip

MEASURES: Mapping[str, Measure] = MappingProxyType({measure.name: measure for measure in _ALL})
"""All measurements by name."""


def take_all(pixels: Pixels, names: tuple[str, ...]) -> dict[str, Any]:
    """Several measurements of one picture by name."""
    return {name: MEASURES[name].take(pixels) for name in names}

"""Which shapes of a person's drawing are hair, skin, clothing and headwear, and what the drawing says of the person.

The groups of hair and skin are those of OpenMoji. Its group ``color`` holds everything else that is coloured; by the place of
what is visible of each shape it is told apart here into clothing, headwear and other things (tools, boards, wings). These rules
are definitions of this project.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runner.data.parts.openmoji_svg import CANVAS, Shape, View, full_hex, rendered, svg

PARTS = ("hair", "skin", "clothing", "headwear")
LINE, OTHER = "line", "other"
_SIDE = 144
"""Pixels at which shapes are located: two a unit."""

_GENDERS = {
    "woman": {"woman", "women", "girl", "princess", "mermaid"},
    "man": {"man", "men", "boy", "prince"},
}
_ROLES = {
    "": "adult", "boy": "child", "girl": "child", "prince": "crown", "princess": "crown", "with crown": "crown",
    "old": "older", "mermaid": "merperson", "breast-feeding": "feeding baby", "red hair": "adult", "white hair": "adult",
    "blond hair": "adult",
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """A drawing. ``parts``: the part of each shape, or ``line`` or ``other``; ``mains``: the commonest colour of each part there is;
    ``long_hair``: hair reaches far below the chin; ``role``: caption without words for gender; ``gender``: woman, man or None."""

    name: str
    shapes: tuple[Shape, ...]
    parts: tuple[str, ...]
    mains: dict[str, str]
    long_hair: bool
    role: str
    gender: str | None


def person(name: str, caption: str, shapes: Sequence[Shape]) -> Person:
    """Sort the shapes of one drawing into parts."""
    places = _visible(shapes)
    parts = _with_slices([_part(shape, place) for shape, place in zip(shapes, places, strict=True)], places)
    mains = {part: _main(shapes, parts, places, part) for part in PARTS if part in parts}
    hair = np.concatenate([places[i] for i, part in enumerate(parts) if part == "hair"] or [np.zeros((0, 2))])
    return Person(name, tuple(shapes), parts, mains, bool(_far_down(hair)), role_of(caption), gender_of(caption))


def _far_down(hair: NDArray[np.float64]) -> bool:
    """At least a tenth of the hair lies below the chin, which stands at about 42 units in these drawings."""
    return len(hair) > 0 and float((hair[:, 1] > 42).mean()) >= 0.1


def _visible(shapes: Sequence[Shape]) -> list[NDArray[np.float64]]:
    """For each shape the places (x, y) in units of the canvas where it is on top, lines left out: float64 [pixels, 2]."""
    painted = [shape.coloured(f"#{i + 1:06x}") for i, shape in enumerate(shapes) if shape.group != LINE]
    pixels = rendered(svg(painted, View()), _SIDE, crisp=True).astype(np.int64)
    numbers = (pixels[..., 0] << 16) + (pixels[..., 1] << 8) + pixels[..., 2]
    numbers[pixels[..., 3] < 255] = 0
    unit = CANVAS / _SIDE
    return [np.asarray((np.argwhere(numbers == i + 1)[:, ::-1] + 0.5) * unit, float) for i in range(len(shapes))]


def _part(shape: Shape, place: NDArray[np.float64]) -> str:
    if shape.group in (LINE, "hair", "skin"):
        return shape.group
    if not len(place):
        return OTHER
    (x, y), (width, height) = place.mean(0), np.ptp(place, 0)
    if 24 <= x <= 48 and y < 36 and height < 30 and width < 56:
        return "headwear"
    return "clothing" if 23.5 <= x <= 46 and y >= 42 else OTHER  # tools are held up on the right


def _with_slices(parts: list[str], places: Sequence[NDArray[np.float64]]) -> tuple[str, ...]:
    """Shadows and trimmings: other shapes that stand between the left and the right end of the clothing or headwear."""
    out = list(parts)
    for part, low, high, margin in (("clothing", 42, CANVAS, 6), ("headwear", 0, 36, 2)):  # shadows fall to the right
        held = [places[i] for i, its in enumerate(parts) if its == part]
        if not held:
            continue
        across = np.concatenate(held)[:, 0]
        for i, its in enumerate(parts):
            if its == OTHER and len(places[i]) and low <= places[i][:, 1].mean() <= high:
                inside = (places[i][:, 0] >= across.min() - 2) & (places[i][:, 0] <= across.max() + margin)
                out[i] = part if inside.mean() > 0.95 else OTHER
    return tuple(out)


def _main(shapes: Sequence[Shape], parts: Sequence[str], places: Sequence[NDArray[np.float64]], part: str) -> str:
    """The colour of a part that is seen most, #rrggbb."""
    seen: dict[str, int] = {}
    for shape, its, place in zip(shapes, parts, places, strict=True):
        if its == part and shape.colour is not None:
            seen[shape.colour] = seen.get(shape.colour, 0) + len(place)
    return max(seen, key=seen.__getitem__, default="#000000")


def role_of(caption: str) -> str:
    """What a caption says of a person besides gender: ``woman health worker`` and ``health worker`` are both the latter."""
    words = re.sub(r"\b(person|woman|women|man|men)\b:?", "", caption)
    plain = " ".join(words.split())
    return _ROLES.get(plain, plain)


def gender_of(caption: str) -> str | None:
    """``woman`` or ``man`` as the caption has it, None for drawings that are meant as neither."""
    words = {*re.findall(r"\w+", caption.casefold())}
    return next((gender for gender, names in _GENDERS.items() if words & names), None)


def shade(target: str, colour: str, main: str) -> str:
    """``target`` made as much lighter or darker as ``colour`` is than ``main``, within bounds: shades of a part stay shades.

    All colours #rrggbb; the main colour itself becomes ``target``.
    """
    goal = _channels(target)
    ratio = (_luminance(_channels(colour)) + 20) / (_luminance(_channels(main)) + 20)
    mixed = goal * max(ratio, 0.6) if ratio < 1 else goal + (255 - goal) * min(0.35, (1 - 1 / ratio))
    return "#" + "".join(f"{int(value):02x}" for value in np.clip(np.rint(mixed), 0, 255))


def _channels(colour: str) -> NDArray[np.float64]:
    digits = full_hex(colour)[1:]
    return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)], np.float64)


def _luminance(channels: NDArray[np.float64]) -> float:
    return float(channels @ [0.2126, 0.7152, 0.0722])

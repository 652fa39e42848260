"""A vector drawing as coloured shapes: read against a list of what may stand in it, coloured anew, rendered.

Nothing of a drawing reaches the renderer but the shapes and attributes listed here: no links, no styles, no texts, no files.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.assets.drawing_builders import SVG, drawing
from runner.errors import DataError

CANVAS = 72.0
"""Side of OpenMoji's drawings in their own units."""
SHAPES = frozenset({"path", "line", "polygon", "polyline", "rect", "circle", "ellipse"})
_NUMBERS = r"[\s\d.,eE+-]*"
_PLAIN = re.compile(r"[MmLlHhVvCcSsQqTtAaZz\s\d.,eE+-]*|round|butt|square|bevel|miter|none|#(?:[0-9a-fA-F]{3}){1,2}")
_TRANSFORM = re.compile(rf"\s*(?:(?:matrix|translate|scale|rotate|skewX|skewY)\({_NUMBERS}\)\s*)*")
ATTRIBUTES = frozenset({
    "d", "points", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "ry", "width", "height", "fill", "stroke",
    "stroke-width", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit",
})  # fmt: skip

Pixels = NDArray[np.uint8]


class Shape(NamedTuple):
    """One shape. ``group``: name of the top group that it stands in; ``attributes`` with those of the groups around it."""

    group: str
    tag: str
    attributes: Mapping[str, str]

    @property
    def colour(self) -> str | None:
        """Its fill, else its stroke, as #rrggbb; None where it has no colour of its own (lines: black by default)."""
        for key in ("fill", "stroke"):
            value = self.attributes.get(key, "none")
            if value != "none":
                return full_hex(value)
        return None

    def coloured(self, colour: str) -> Shape:
        """The shape with whatever it paints in one colour."""
        new = {"fill": colour} if self.attributes.get("fill") != "none" else {}
        if self.attributes.get("stroke", "none") != "none":
            new["stroke"] = colour
        return self._replace(attributes={**self.attributes, **new})


class View(NamedTuple):
    """How a drawing stands in its picture. ``scale`` 1: it fills it; ``right``, ``down``: shift as a share of the side."""

    scale: float = 1.0
    right: float = 0.0
    down: float = 0.0
    mirrored: bool = False


def full_hex(colour: str) -> str:
    """``#abc`` or ``#AABBCC`` as ``#aabbcc``."""
    digits = colour.lstrip("#").lower()
    return "#" + ("".join(2 * digit for digit in digits) if len(digits) == 3 else digits)


def shapes(name: str, data: bytes) -> list[Shape]:
    """The shapes of a drawing in the order in which they are painted. Raises ``DataError`` for anything that is not listed above."""
    found: list[Shape] = []
    for group in drawing(data):
        if group.tag != f"{SVG}g":
            raise DataError(f"{name}: {_quoted(group.tag)} stands outside of any group")
        _gather(name, group, group.get("id", ""), {}, found)
    return found


def _gather(
    name: str, element: ElementTree.Element, group: str, around: Mapping[str, str], found: list[Shape], depth: int = 0
) -> None:
    inside = {**around, **_checked(name, element, around)}
    for child in element:
        tag = child.tag.removeprefix(SVG) if isinstance(child.tag, str) else "comment"
        if tag == "g" and depth < 8:
            _gather(name, child, group, inside, found, depth + 1)
        elif tag in SHAPES and not len(child):
            found.append(Shape(group, tag, {**inside, **_checked(name, child, inside)}))
        else:
            raise DataError(f"{name}: a drawing must not hold {_quoted(tag)} here")


def _checked(name: str, element: ElementTree.Element, around: Mapping[str, str]) -> dict[str, str]:
    out = {}
    for key, value in element.attrib.items():
        if key == "id":
            continue
        if key == "transform" and _TRANSFORM.fullmatch(value):
            out[key] = f"{around.get('transform', '')} {value}".strip()
        elif key in ATTRIBUTES and _PLAIN.fullmatch(value):
            out[key] = value
        else:
            raise DataError(f"{name}: a drawing must not hold {_quoted(key)} with the value {_quoted(value)}")
    return out


def _quoted(text: object) -> str:
    return repr(text)[:80]


def svg(painted: Sequence[Shape], view: View) -> str:
    """Shapes as the text of an SVG, seen as ``view`` says."""
    side = CANVAS / view.scale
    left, top = ((CANVAS - side) / 2 - shift * side for shift in (view.right, view.down))
    box = f"{left:.4f} {top:.4f} {side:.4f} {side:.4f}"
    root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": box})
    turn = {"transform": f"translate({CANVAS:g} 0) scale(-1 1)"} if view.mirrored else {}
    group = ElementTree.SubElement(root, "g", turn)
    for shape in painted:
        ElementTree.SubElement(group, shape.tag, dict(shape.attributes))
    return ElementTree.tostring(root, encoding="unicode")


def rendered(text: str, side: int, *, crisp: bool = False) -> Pixels:
    """An SVG of ``svg`` as RGBA uint8 [side, side, 4], not premultiplied. ``crisp``: without smoothed edges."""
    import resvg_py
    from PIL import Image

    data = resvg_py.svg_to_bytes(
        svg_string=text,
        width=side,
        height=side,
        skip_system_fonts=True,
        shape_rendering="crisp_edges" if crisp else "geometric_precision",
    )
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))

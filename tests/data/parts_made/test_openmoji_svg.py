"""Drawings as hostile input; what is rendered is what was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from runner.data.parts.openmoji_parts import gender_of, person, role_of, shade
from runner.data.parts.openmoji_set import over, pure
from runner.data.parts.openmoji_svg import Shape, View, full_hex, rendered, shapes, svg
from runner.errors import RunnerError


def drawing(inner: str) -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">{inner}</svg>'.encode()


BOX = '<rect x="0" y="0" width="36" height="72" fill="#f00"/>'


def test_shapes_take_over_what_their_groups_say() -> None:
    found = shapes("x", drawing(f'<g id="hair" fill="#abc"><g transform="scale(2)"><path d="M0 0L1 1"/></g>{BOX}</g>'))
    assert [(shape.group, shape.tag) for shape in found] == [("hair", "path"), ("hair", "rect")]
    assert found[0].attributes == {"fill": "#abc", "transform": "scale(2)", "d": "M0 0L1 1"}
    assert (found[0].colour, found[1].colour) == ("#aabbcc", "#ff0000")


@pytest.mark.parametrize(
    "inner",
    [
        BOX,
        '<g id="hair"><image href="/x.png"/></g>',
        '<g id="hair"><use href="#a"/></g>',
        '<g id="hair"><text>a</text></g>',
        '<g id="hair"><style>path {fill: red}</style></g>',
        '<g id="hair"><script>1</script></g>',
        '<g id="hair"><path d="M0 0" style="fill:red"/></g>',
        '<g id="hair"><path d="M0 0" fill="url(#a)"/></g>',
        '<g id="hair"><path d="M0 0" onload="x"/></g>',
        '<g id="hair"><path d="M0 0 x"/></g>',
        '<g id="hair"><path transform="translate(1) evil(2)"/></g>',
        '<g id="hair"><path d="M0 0"><title>a</title></path></g>',
        '<g id="hair"><path xmlns="http://other" d="M0 0"/></g>',
        "<g>" * 12 + "</g>" * 12,
        '<g id="hair"><path d="' + "1 " * 50_000 + 'x"/></g>',
    ],
)
def test_anything_but_plain_shapes_is_refused(inner: str) -> None:
    with pytest.raises(RunnerError):
        shapes("x", drawing(inner))


def test_what_is_rendered_is_where_the_view_puts_it() -> None:
    (box,) = shapes("x", drawing(f'<g id="hair">{BOX}</g>'))
    left = rendered(svg([box], View()), 72)
    assert (left[:, :36] == (255, 0, 0, 255)).all() and (left[:, 36:, 3] == 0).all()
    assert np.array_equal(rendered(svg([box], View(mirrored=True)), 72), left[:, ::-1])
    half = rendered(svg([box], View(scale=0.5)), 72)
    assert (half[18:54, 18:36, 3] == 255).all() and half[..., 3].astype(bool).sum() == 36 * 18
    moved = rendered(svg([box], View(scale=0.5, right=0.25, down=-0.25)), 72)
    assert np.array_equal(moved, np.roll(half, (-18, 18), (0, 1)))


def test_one_colour_is_told_from_its_mixtures() -> None:
    codes = np.array([[[255, 0, 0, 255], [254, 1, 0, 255], [255, 0, 0, 254]], [[0, 0, 0, 0]] * 3], np.uint8)
    assert pure(codes, "#ff0000").tolist() == [[True, False, False], [False] * 3]


def test_what_is_opaque_hides_the_ground_and_what_is_not_shows_it() -> None:
    pixels = np.array([[[10, 20, 30, 255], [200, 0, 0, 128], [9, 9, 9, 0]]], np.uint8)
    ground = np.full((1, 3, 3), 100, np.uint8)
    assert over(pixels, ground).tolist() == [[[10, 20, 30], [150, 50, 50], [100, 100, 100]]]


def test_shades_of_a_part_stay_shades() -> None:
    assert shade("#5c9e31", "#3f3f3f", "#3F3F3F") == "#5c9e31"
    lighter, darker = shade("#5c9e31", "#ffffff", "#3f3f3f"), shade("#5c9e31", "#000000", "#3f3f3f")
    values = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (darker, "#5c9e31", lighter)]
    assert all(a < b < c for a, b, c in zip(*values, strict=True))
    assert full_hex("#AbC") == "#aabbcc"


@pytest.mark.parametrize(
    ("caption", "role", "gender"),
    [
        ("woman health worker", "health worker", "woman"), ("health worker", "health worker", None),
        ("man: red hair", "adult", "man"), ("person", "adult", None), ("girl", "child", "woman"),
        ("person raising hand", "raising hand", None), ("policeman", "policeman", None),
    ],
)  # fmt: skip
def test_captions(caption: str, role: str, gender: str | None) -> None:
    assert (role_of(caption), gender_of(caption)) == (role, gender)


def test_coloured_shapes_are_told_apart_by_their_place() -> None:
    def box(group: str, x: int, y: int, wide: int, high: int, fill: str = "#123456") -> Shape:
        size = {"x": str(x), "y": str(y), "width": str(wide), "height": str(high), "fill": fill}
        return Shape(group, "rect", size)

    drawn = [
        box("color", 17, 46, 38, 14), box("color", 24, 8, 24, 8), box("color", 58, 30, 8, 20), box("color", 46, 48, 8, 12),
        box("hair", 22, 16, 28, 8), box("hair", 22, 16, 5, 5, "#654321"), box("skin", 24, 20, 24, 20), box("line", 0, 0, 72, 72),
    ]  # fmt: skip
    found = person("x.svg", "woman cook", drawn)
    assert found.parts == ("clothing", "headwear", "other", "clothing", "hair", "hair", "skin", "line")
    assert found.mains["hair"] == "#123456" and not found.long_hair
    assert person("y.svg", "", [*drawn, box("hair", 20, 30, 6, 30)]).long_hair

"""Frames as they are shown: crops from the stored picture, shrinking, what cannot be shown."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runner.data.images import UnreadableImage
from runner.errors import DataError
from runner.models.base import ImagePart
from runner.nodes.proactive.pictures import FramePictures, Shown, cropped, shrunk


def shown(found: Mapping[Shown, Image.Image | UnreadableImage], place: Shown) -> Image.Image:
    """What a place shows; fails where it shows nothing."""
    view = found[place]
    assert isinstance(view, Image.Image), view
    return view


def ramp(width: int, height: int) -> Image.Image:
    """Red is the column, green the row: every pixel says where it came from."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


@pytest.fixture
def corpus(tmp_path: Path) -> list[dict[str, str]]:
    root = tmp_path / "frames"
    (root / "a").mkdir(parents=True)
    ramp(90, 60).save(root / "a" / "0001.png")
    ramp(40, 80).save(root / "a" / "0002.png")
    (root / "a" / "broken.png").write_bytes(b"\x89PNG but no picture")
    return [{"folder": str(root), "name": "frames"}]


def test_crop_is_cut_from_the_stored_picture_before_anything_is_resized(corpus: list[dict[str, str]]) -> None:
    place = Shown("frames", "a/0001.png", (20.0, 10.0, 70.0, 50.0))
    view = shown(FramePictures(corpus).images([place]), place)
    assert view.size == (50, 40)
    assert view.getpixel((0, 0)) == (20, 10, 0)
    assert view.getpixel((49, 39)) == (69, 49, 0)
    small = shown(FramePictures(corpus, max_side=25).images([place]), place)
    assert small.size == (25, 20)
    centre = small.getpixel((12, 10))
    assert isinstance(centre, tuple)
    assert abs(centre[0] - 45) <= 1  # the middle of the crop, not of the picture
    assert abs(centre[1] - 31) <= 1


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.integers(-40, 130)] * 4))
def test_crop_reaches_beyond_the_edges_in_black_and_refuses_what_shows_nothing(box: tuple[int, ...]) -> None:
    left, top, right, bottom = box
    image = ramp(90, 60)
    seen = {(x, y) for x in range(max(left, 0), min(right, 90)) for y in range(max(top, 0), min(bottom, 60))}
    floats = (float(left), float(top), float(right), float(bottom))
    if not seen:
        with pytest.raises(UnreadableImage):
            cropped(image, floats)
        return
    view = np.asarray(cropped(image, floats))
    assert view.shape == (bottom - top, right - left, 3)
    for y, x in [(0, 0), (-1, -1), (view.shape[0] // 2, view.shape[1] // 2)]:
        at = (range(left, right)[x], range(top, bottom)[y])
        assert tuple(view[y, x]) == ((*at, 0) if at in seen else (0, 0, 0))


@pytest.mark.parametrize(
    "box",
    [(0, 0, float("nan"), 5), (0, 0, float("inf"), 5), (5, 5, 5, 9), (0, 0, 0.4, 9), (-1e9, -1e9, 1e9, 1e9)],
)
def test_hostile_crop_is_an_unreadable_picture(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(UnreadableImage):
        cropped(ramp(30, 30), box)


def test_short_edge_then_longer_side_and_never_enlarged() -> None:
    assert shrunk(ramp(90, 60), short_edge=30).size == (45, 30)
    assert shrunk(ramp(90, 60), short_edge=30, max_side=15).size == (15, 10)
    assert shrunk(ramp(90, 60), short_edge=224, max_side=1000).size == (90, 60)
    assert shrunk(Image.new("RGB", (2000, 1)), max_side=10).size == (10, 1)


def test_one_picture_that_is_gone_or_broken_costs_no_other(corpus: list[dict[str, str]]) -> None:
    good = Shown("frames", "a/0002.png", None, 20)
    gone, broken = Shown("frames", "a/0009.png"), Shown("frames", "a/broken.png")
    found = FramePictures(corpus).images([good, gone, broken])
    assert shown(found, good).size == (20, 40)
    assert isinstance(found[gone], UnreadableImage)
    assert "a/0009.png" in str(found[gone])
    assert isinstance(found[broken], UnreadableImage)


def test_nothing_is_read_outside_the_corpus(corpus: list[dict[str, str]], tmp_path: Path) -> None:
    ramp(8, 8).save(tmp_path / "secret.png")
    (tmp_path / "frames" / "link.png").symlink_to(tmp_path / "secret.png")
    places = [
        Shown("frames", "../secret.png"),
        Shown("frames", str(tmp_path / "secret.png")),
        Shown("frames", "link.png"),
    ]
    found = FramePictures(corpus).images(places)
    assert all(isinstance(found[place], UnreadableImage) for place in places)
    with pytest.raises(DataError, match="no source 'other'"):
        FramePictures(corpus).images([Shown("other", "a/0001.png")])


def test_parts_are_the_same_bytes_every_time_and_decode_to_the_images(corpus: list[dict[str, str]]) -> None:
    places = [Shown("frames", "a/0001.png", (0.0, 0.0, 60.0, 60.0)), Shown("frames", "a/0001.png", None, 12)]
    pictures = FramePictures(corpus, max_side=32)
    first, second = asyncio.run(pictures.parts(places)), asyncio.run(pictures.parts(reversed(places)))
    assert first == second
    images = pictures.images(places)
    for place in places:
        part, view = first[place], images[place]
        assert isinstance(part, ImagePart)
        assert isinstance(view, Image.Image)
        assert part.media_type == "image/png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(part.data))), np.asarray(view))


def test_raw_sends_whole_frames_as_found_and_crops_as_png(corpus: list[dict[str, str]], tmp_path: Path) -> None:
    whole, part = Shown("frames", "a/0001.png"), Shown("frames", "a/0001.png", (0.0, 0.0, 9.0, 9.0))
    found = asyncio.run(FramePictures(corpus, transport="raw").parts([whole, part]))
    as_found, cut = found[whole], found[part]
    assert isinstance(as_found, ImagePart)
    assert as_found.data == (tmp_path / "frames" / "a" / "0001.png").read_bytes()
    assert isinstance(cut, ImagePart)
    assert Image.open(io.BytesIO(cut.data)).size == (9, 9)

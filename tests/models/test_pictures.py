"""Pictures as messages carry them: the same bytes every time, upright, never enlarged."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runner.data.images import UnreadableImage
from runner.models.pictures import Transport, picture_part

TRANSPORTS: list[Transport] = ["jpeg75", "jpeg", "png", "raw"]


def encoded(width: int, height: int, form: str = "PNG", *, orientation: int | None = None) -> bytes:
    """A picture whose left half is red and whose right half is blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, exif=exif)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@given(st.integers(20, 90), st.integers(20, 90), st.integers(10, 120), st.sampled_from(TRANSPORTS))
@settings(max_examples=60)
def test_the_longer_side_is_bounded_and_nothing_grows(width: int, height: int, side: int, transport: Transport) -> None:
    data = encoded(width, height)
    part = picture_part(data, max_side=side, transport=transport)
    found = opened(part.data)
    assert part == picture_part(data, max_side=side, transport=transport)
    assert max(found.size) == min(side, max(width, height))
    shrink = min(1.0, side / max(width, height))
    assert found.size == pytest.approx((width * shrink, height * shrink), abs=1.0)
    assert part.media_type == Image.MIME[str(found.format)]


@pytest.mark.parametrize(("transport", "form"), [("jpeg75", "JPEG"), ("jpeg", "JPEG"), ("png", "PNG"), ("raw", "PNG")])
def test_each_transport_has_its_form(transport: Transport, form: str) -> None:
    assert opened(picture_part(encoded(40, 30), transport=transport).data).format == form


def test_quality_75_is_pillows_own_and_smaller() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    source, plain = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise).save(source, "PNG")
    Image.fromarray(noise).save(plain, "JPEG")
    assert picture_part(source.getvalue()).data == plain.getvalue()
    assert len(plain.getvalue()) < len(picture_part(source.getvalue(), transport="jpeg").data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
def test_raw_bytes_stay_as_found_unless_too_large(form: str) -> None:
    data = encoded(60, 40, form)
    part = picture_part(data, max_side=60, transport="raw")
    assert (part.data, part.media_type) == (data, Image.MIME[form])
    smaller = picture_part(data, max_side=30, transport="raw")
    assert opened(smaller.data).size == (30, 20) and smaller.media_type == "image/png"


def test_raw_of_a_form_that_servers_do_not_read_is_png() -> None:
    part = picture_part(encoded(40, 30, "BMP"), transport="raw")
    assert part.media_type == "image/png" and opened(part.data).format == "PNG"


@pytest.mark.parametrize("transport", ["jpeg75", "png", "raw"])
def test_pictures_stand_upright(transport: Transport) -> None:
    """Orientation 6: the camera was turned; shown upright, what was left is on top."""
    shown = opened(picture_part(encoded(64, 32, "JPEG", orientation=6), transport=transport).data).convert("RGB")
    assert shown.size == (32, 64)
    top, bottom = np.asarray(shown)[8, 16], np.asarray(shown)[56, 16]
    assert top[0] > 200 > top[2] and bottom[2] > 200 > bottom[0]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_is_no_picture_is_refused(transport: Transport) -> None:
    for data in (b"", b"\xff\xd8\xff no picture", encoded(40, 30)[:60]):
        with pytest.raises(UnreadableImage):
            picture_part(data, transport=transport)

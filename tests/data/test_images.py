import contextlib
import io
import struct
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runner.data.images import FORMATS, ImageLimits, UnreadableImage, decode, encode_jpeg, thumbnail


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(size=(40, 30)):
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def png_of_size(width, height):
    """A PNG whose header claims a size that its pixels would need gigabytes for."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def reason(data, limits=None):
    with pytest.raises(UnreadableImage) as error:
        decode(data, limits or ImageLimits())
    return error.value.reason


def test_every_format_is_known_to_the_installed_pillow():
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP", "AVIF"])
def test_reads_the_formats_that_people_have(kind):
    image = decode(encoded(gradient(), kind))
    assert image.mode == "RGB" and image.size == (40, 30)
    assert np.abs(np.asarray(image, int) - np.asarray(gradient(), int)).mean() < 12


def test_lossless_formats_come_back_bit_for_bit():
    assert np.array_equal(np.asarray(decode(encoded(gradient(), "PNG"))), np.asarray(gradient()))


def test_nothing_is_empty():
    assert reason(b"") == "empty"


@pytest.mark.parametrize(
    "data", [b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_bytes_that_are_no_picture(data):
    assert reason(data) in ("undecodable", "truncated")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_a_cut_file_is_not_passed_off_as_a_picture(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    assert reason(data[: len(data) // 2]) in ("truncated", "undecodable")


def test_half_a_jpeg_says_that_it_is_truncated():
    data = encoded(gradient((400, 300)), "JPEG", quality=95)
    assert reason(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize("size", [(20_000, 20_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_from_its_header(size):
    assert reason(png_of_size(*size), ImageLimits(max_pixels=50_000_000)) == "too_large"


def test_pillows_own_guard_stands_above_a_generous_limit():
    assert reason(png_of_size(10_000, 9_500), ImageLimits(max_pixels=10**12)) == "too_large"


def test_limits_are_inclusive():
    data = encoded(gradient((40, 30)), "PNG")
    assert decode(data, ImageLimits(max_pixels=1200, min_side=30)).size == (40, 30)
    assert reason(data, ImageLimits(max_pixels=1199)) == "too_large"
    assert reason(data, ImageLimits(min_side=31)) == "too_small"


def test_cmyk_keeps_its_colours():
    red = Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK")
    pixel = decode(encoded(red, "JPEG", quality=95)).getpixel((8, 8))
    assert np.abs(np.array(pixel) - (200, 30, 30)).max() < 12


@pytest.mark.parametrize("value", [0, 255, 256, 40_000, 65_535])
def test_sixteen_bits_are_scaled_not_clipped(value):
    deep = Image.fromarray(np.full((8, 8), value, np.uint16))
    expected = round(value / 257)
    for kind in ("PNG", "TIFF"):
        assert decode(encoded(deep, kind)).getpixel((3, 3)) == (expected,) * 3


def test_float_pictures_are_scaled():
    deep = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    assert decode(encoded(deep, "TIFF")).getpixel((0, 0)) == (128, 128, 128)


def test_transparency_lies_on_white():
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half.putpixel((0, 0), (255, 0, 0, 255))
    image = decode(encoded(half, "PNG"))
    assert image.getpixel((0, 0)) == (255, 0, 0) and image.getpixel((3, 3)) == (255, 255, 255)


def test_palette_with_a_transparent_entry():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 255, 255, 0, 0] + [0] * 762)
    palette.putpixel((0, 0), 0)
    image = decode(encoded(palette, "PNG", transparency=1))
    assert image.getpixel((0, 0)) == (0, 0, 255) and image.getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert decode(data).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_gives_the_upright_picture(orientation):
    upright = gradient()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(decode(encoded(stored, "PNG", exif=exif))), np.asarray(upright))


def test_a_broken_exif_block_does_not_cost_the_picture():
    data = encoded(gradient(), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(data).size == (40, 30)


def test_thumbnail_fits_and_keeps_its_shape():
    small = Image.open(io.BytesIO(thumbnail(gradient((400, 200)), 160)))
    assert small.format == "JPEG" and small.size == (160, 80)
    assert Image.open(io.BytesIO(thumbnail(gradient((30, 20))))).size == (30, 20)


def test_encoding_is_repeatable():
    assert encode_jpeg(gradient()) == encode_jpeg(gradient())


def test_threads_do_not_disturb_one_another():
    good, bomb = encoded(gradient((300, 200)), "PNG"), png_of_size(20_000, 20_000)
    found = []

    def work(data):
        for _ in range(20):
            try:
                found.append(decode(data).size)
            except UnreadableImage as error:
                found.append(error.reason)

    threads = [threading.Thread(target=work, args=(data,)) for data in (good, bomb, good, bomb)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == ["(300, 200)"] * 40 + ["too_large"] * 40


_SEEDS = [
    encoded(gradient((24, 18)), kind, **options)
    for kind, options in [
        ("PNG", {}),
        ("JPEG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
    ]
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(_SEEDS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    st.integers(0, 10**6),
)
def test_damaged_bytes_give_a_picture_or_a_reason(seed, flips, cut):
    data = bytearray(seed)
    for place, value in flips:
        data[place % len(data)] = value
    data = bytes(data[: len(data) - cut % (len(data) // 2)])
    with contextlib.suppress(UnreadableImage):
        assert decode(data, ImageLimits(max_pixels=10**6)).mode == "RGB"

"""Pictures, masks and points come to the same pixels, whatever the shape of the picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runner.data.geometry import Geometry

SIDES = st.integers(1, 90)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(width, height):
    """Of medium contrast: Pillow clips what bicubic weights overshoot between its two passes, whose order it chooses."""
    return Image.fromarray(np.random.default_rng(0).integers(96, 160, (height, width, 3), np.uint8))


@given(SIDES, SIDES, st.integers(1, 40), st.integers(0, 20), st.sampled_from(sorted(FILTERS)))
@settings(max_examples=80, deadline=None)
def test_a_picture_is_what_scaling_and_then_cutting_gives(width, height, size, margin, interpolation):
    short_side = size + margin
    picture = noise(width, height)
    canvas = picture.resize(
        tuple(max(size, round(side * short_side / min(width, height))) for side in (width, height)),
        FILTERS[interpolation],
    )
    left, top = (canvas.width - size) // 2, (canvas.height - size) // 2
    expected = np.asarray(canvas.crop((left, top, left + size, top + size)), int)
    found = np.asarray(Geometry(size, short_side, interpolation).picture(picture), int)
    assert found.shape == (size, size, 3)
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("turned", [False, True])
def test_a_very_long_picture_is_cut_without_a_giant_canvas(turned):
    length = 4_000_000  # scaled to 224 rows it would have 2e11 pixels
    pixels = np.zeros((1, length), np.uint8)
    pixels[0, length // 2 :] = 255
    picture = Image.fromarray(pixels.T if turned else pixels)
    geometry = Geometry(224, 224, "bilinear")
    cut = np.asarray(geometry.picture(picture))
    assert cut.shape == (224, 224)
    before, after = (cut[:8], cut[-8:]) if turned else (cut[:, :8], cut[:, -8:])
    assert before.max() < 128 <= after.min()
    mask = geometry.mask((pixels.T if turned else pixels) > 0)
    assert mask.shape == (224, 224)
    assert 0 < mask.mean() < 1


@given(st.integers(8, 90), st.integers(8, 90), st.integers(8, 40), st.booleans(), st.data())
@settings(max_examples=80, deadline=None)
def test_a_point_lies_where_the_mask_of_its_pixel_lies(width, height, size, squash, data):
    geometry = Geometry(size, size, squash=squash)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    moved = geometry.points(np.array([[x + 0.5, y + 0.5]]), width, height)[0]
    mask = np.zeros((height, width), bool)
    mask[y, x] = True
    rows, columns = geometry.mask(mask).nonzero()
    if np.isnan(moved).any():
        assert not len(rows) or {0, size - 1} & {*rows, *columns}  # its pixel may just reach into the cut
    elif len(rows):  # nearest sampling may skip a pixel of a picture that is made smaller
        assert columns.min() - 0.5 <= moved[0] <= columns.max() + 1.5
        assert rows.min() - 0.5 <= moved[1] <= rows.max() + 1.5


def test_squash_keeps_everything_and_a_cut_keeps_the_middle():
    mask = np.zeros((40, 80), bool)
    mask[:, :20] = True
    assert Geometry(40, 40, squash=True).mask(mask).sum() == 40 * 10
    assert not Geometry(40, 40).mask(mask).any()
    corners = np.array([[0.0, 0.0], [79.0, 39.0], [40.0, 20.0]])
    assert np.isnan(Geometry(40, 40).points(corners, 80, 40)).tolist() == [[True, True], [True, True], [False, False]]
    assert Geometry(40, 40, squash=True).points(corners, 80, 40).tolist() == [[0, 0], [39.5, 39], [20, 20]]


@given(
    SIDES, SIDES, st.sampled_from([(24, 24), (24, 32)]), st.sampled_from(["bicubic", "bilinear", "nearest"]), st.booleans(), st.data()
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_inner_pixels_are_made_of_the_mask_alone(width, height, sides, interpolation, squash, data):
    geometry = Geometry(*sides, interpolation, squash)
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    mask = np.ones((height, width), bool)
    for _ in range(data.draw(st.integers(0, 3))):
        mask[generator.integers(height) :, generator.integers(width) :] ^= True
    first, other = generator.integers(0, 256, (2, height, width, 3), np.uint8)
    changed = np.where(mask[..., None], first, other)
    before, after = (np.asarray(geometry.picture(Image.fromarray(each))) for each in (first, changed))
    inner = geometry.inner_mask(mask)
    assert (before[inner] == after[inner]).all()
    assert not (inner & ~geometry.mask(mask)).any()
    assert inner.all() == mask.all() or geometry.mask(mask).all()  # what lies outside the cut does not count


@pytest.mark.parametrize("shape", [(24, 24), (24, 60), (60, 24)])
def test_where_nothing_is_scaled_all_pixels_of_a_mask_are_inner(shape):
    mask = np.random.default_rng(1).random(shape) < 0.5
    geometry = Geometry(24, 24)
    assert np.array_equal(geometry.inner_mask(mask), geometry.mask(mask))


def test_inner_masks_lose_the_reach_of_the_filter_and_a_pixel():
    mask = np.zeros((96, 96), bool)
    mask[:, :48] = True
    lost = {how: 12 - Geometry(24, 24, how).inner_mask(mask)[0].sum() for how in ("bilinear", "bicubic")}
    assert lost == {"bilinear": 1, "bicubic": 2}  # filters reach 4 and 8 source pixels, a pixel of the input is 4 wide

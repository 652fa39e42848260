"""Measurements of pictures: values worked out by hand, and what must hold for every picture."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from runner.data.images import decode
from runner.nodes.bias.measures import MAX_SIDE, MEASURES, reduced, take_all
from runner.nodes.bias.measures.colour import hues
from runner.nodes.bias.measures.salient import saliency

NUMBERS = [name for name, measure in MEASURES.items() if not measure.is_category]


def flat(colour, height=16, width=16):
    return np.full((height, width, 3), colour, np.uint8)


def halves(left, right, side=16):
    return np.concatenate([flat(left, side, side // 2), flat(right, side, side // 2)], 1)


def blob(x, y, radius=8, side=64, colour=(200, 30, 30), ground=(90, 120, 90)):
    """A disc on a ground, centre in pixels."""
    rows, columns = np.mgrid[:side, :side]
    inside = (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 <= radius**2
    return np.where(inside[..., None], np.array(colour, np.uint8), flat(ground, side, side))


def smooth(seed=0, side=256, sigma=0.03):
    """A band-limited random picture: the same at every size."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    soft = ndimage.gaussian_filter(noise, (sigma * side, sigma * side, 0), mode="wrap")
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    return (soft * 255).astype(np.uint8)


def take(name, pixels):
    return MEASURES[name].take(pixels)


pictures = st.builds(
    lambda seed, height, width: np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8),
    st.integers(0, 2**32), st.integers(8, 40), st.integers(8, 40),
)  # fmt: skip

# Worked out by hand from the definitions: two halves have standard deviation = half their distance.
GOLDEN = [
    ("luminance", flat((0, 0, 0)), 0.0),
    ("luminance", flat((255, 255, 255)), 100.0),
    ("luminance", flat((119, 119, 119)), 50.034),  # ((119/255 + .055)/1.055)^2.4 = .18447; 116 cbrt(.18447) - 16
    ("luminance", halves((0, 0, 0), (255, 255, 255)), 50.0),
    ("luminance", flat((255, 0, 0)), 53.24),  # Y = .2126
    ("contrast", halves((0, 0, 0), (255, 255, 255)), 0.5),
    ("contrast", flat((10, 200, 30)), 0.0),
    ("saturation", flat((200, 100, 50)), 0.75),
    ("saturation", flat((0, 0, 0)), 0.0),
    ("saturation", halves((100, 100, 100), (200, 100, 0)), 2 / 3),
    # rg = 100, yb = 100: only the means count. 0.3 sqrt(2) 100
    ("colourfulness", flat((150, 50, 0)), 0.3 * math.hypot(100, 100)),
    # red and cyan: rg +-255, yb +-127.5 around 0, so no mean
    ("colourfulness", halves((255, 0, 0), (0, 255, 255)), math.hypot(255, 127.5)),
    ("warmth", flat((255, 0, 0)), 67.22),  # 200 (cbrt(.2126) - cbrt(.0193 / 1.0890))
    ("warmth", flat((0, 0, 255)), -107.86),
    ("warmth", flat((80, 80, 80)), 0.0),
    ("aspect", flat((0, 0, 0), 10, 30), 3.0),
    ("border", flat((7, 7, 7)), 1.0),
    ("sharpness", flat((90, 10, 200)), 0.0),
    ("clutter", flat((90, 10, 200)), 0.0),
    ("flatness", flat((90, 10, 200)), 1.0),
]


@pytest.mark.parametrize(("name", "pixels", "expected"), GOLDEN, ids=lambda v: v if isinstance(v, str) else "")
def test_golden_values(name, pixels, expected):
    assert take(name, pixels) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("colour", "name"),
    [((200, 0, 0), "red"), ((200, 0, 20), "red"), ((255, 128, 0), "orange"), ((250, 250, 0), "yellow"), ((0, 120, 0), "green"),
     ((0, 200, 200), "cyan"), ((10, 10, 200), "blue"), ((128, 0, 255), "purple"), ((255, 0, 200), "pink"),
     ((90, 92, 95), "grey"), ((0, 0, 0), "grey")],
)  # fmt: skip
def test_hues_by_name(colour, name):
    assert take("hue", flat(colour)) == name


def test_hues_agree_with_the_standard_library():
    import colorsys

    colours = np.random.default_rng(0).integers(0, 256, (50, 3), dtype=np.uint8)
    expected = [360 * colorsys.rgb_to_hsv(*(c / 255 for c in colour.tolist()))[0] for colour in colours]
    assert hues(colours[None])[0] == pytest.approx(expected)


def test_lightness_agrees_with_pillow():
    from PIL import ImageCms

    pixels = smooth(3, 32)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    values = np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), to_lab))[..., 0] / 2.55
    assert take("luminance", pixels) == pytest.approx(float(values.mean()), abs=0.7)


def test_a_checkerboard_is_the_sharpest_and_a_margin_counts_as_border():
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    # every neighbour differs by 1, so inside the Laplacian is +-4 and its variance 16
    assert take("sharpness", board) == pytest.approx(16, rel=0.05)
    framed = flat((255, 255, 255), 20, 40)
    framed[5:15, 10:30] = 0
    assert take("border", framed) == pytest.approx(1 - 10 * 20 / (20 * 40))
    letterbox = np.random.default_rng(0).integers(60, 256, (40, 40, 3), dtype=np.uint8)
    letterbox[:10] = letterbox[-10:] = 0
    assert take("border", letterbox) == pytest.approx(0.5)


@pytest.mark.parametrize(("x", "y"), [(20, 32), (44, 20), (32, 44)])
def test_the_object_is_where_it_was_put(x, y):
    picture = blob(x, y)
    assert take("object_x", picture) == pytest.approx(x / 64, abs=0.02)
    assert take("object_y", picture) == pytest.approx(y / 64, abs=0.02)
    assert take("object_area", picture) == pytest.approx(np.pi * 64 / 64**2, rel=0.1)


def test_larger_objects_measure_larger():
    areas = [take("object_area", blob(32, 32, radius)) for radius in (4, 8, 12, 16, 20)]
    assert areas == sorted(areas) and areas[-1] == pytest.approx(np.pi * 400 / 64**2, rel=0.1)


def test_the_object_is_found_on_a_textured_ground():
    rng = np.random.default_rng(0)
    picture = np.clip(blob(44, 20, 10).astype(int) + rng.integers(-25, 26, (64, 64, 3)), 0, 255).astype(np.uint8)
    assert take("object_x", picture) == pytest.approx(44 / 64, abs=0.05)
    assert take("object_area", picture) == pytest.approx(np.pi * 100 / 64**2, rel=0.3)


def test_a_blank_picture_has_no_object():
    assert not saliency(flat((200, 10, 10))).any()
    assert all(math.isnan(take(name, flat((9, 9, 9)))) for name in ("object_area", "object_x", "object_y"))


@settings(deadline=None, max_examples=30)
@given(pictures)
def test_every_measurement_of_any_picture_is_in_range(pixels):
    for name, value in take_all(pixels, tuple(MEASURES)).items():
        measure = MEASURES[name]
        if measure.is_category:
            assert value in measure.categories
        elif not math.isnan(value):
            assert (measure.low is None or value >= measure.low) and (
                measure.high is None or value <= measure.high + 1e-9
            )


@settings(deadline=None, max_examples=30)
@given(pictures)
def test_flips_mirror_the_position_and_change_nothing_else(pixels):
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    for name in MEASURES:
        before, after = take(name, pixels), take(name, mirrored)
        if name == "object_x":
            before = 1 - before
        if isinstance(before, str):
            assert before == after
        else:
            assert after == pytest.approx(before, abs=2e-3, nan_ok=True)


@settings(deadline=None, max_examples=30)
@given(pictures, st.integers(1, 60))
def test_luminance_rises_with_brightness(pixels, step):
    dark = pixels // 2
    assert take("luminance", dark + np.uint8(step)) > take("luminance", dark)
    assert take("luminance", dark) <= take("luminance", pixels)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([(200, 40, 40), (40, 200, 40), (40, 80, 200), (200, 200, 40)]), st.floats(0.3, 1.2))
def test_hue_and_saturation_do_not_follow_brightness(colour, factor):
    scaled = np.round(np.array(colour) * factor).astype(np.uint8)
    assert take("hue", flat(scaled)) == take("hue", flat(colour))
    assert take("saturation", flat(scaled)) == pytest.approx(take("saturation", flat(colour)), abs=0.02)


@pytest.mark.parametrize("name", [n for n in NUMBERS if n != "flatness"])
def test_size_does_not_matter_where_the_content_is_the_same(name):
    large = smooth(1, 256)
    for side in (128, 64):
        small = np.asarray(Image.fromarray(large).resize((side, side), Image.Resampling.BOX))
        tolerance = {"sharpness": 0.25, "clutter": 0.2}.get(name, 0.06)
        assert take(name, small) == pytest.approx(take(name, large), rel=tolerance, abs=2e-3)


def test_detail_and_contrast_fall_with_blur():
    picture = np.random.default_rng(2).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    blurred = [ndimage.gaussian_filter(picture, (s, s, 0)) for s in (0.5, 1, 2, 4)]
    for name in ("sharpness", "clutter", "contrast"):
        values = [take(name, p) for p in (picture, *blurred)]
        assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_steps_of_one_colour_are_flatter_than_grain():
    drawing = np.kron(np.random.default_rng(0).integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    grain = np.clip(drawing.astype(int) + np.random.default_rng(1).integers(-20, 21, drawing.shape), 0, 255)
    # 3 of 63 steps in each direction cross an edge
    assert take("flatness", drawing) == pytest.approx(1 - 3 / 63, abs=0.01)
    assert take("flatness", grain.astype(np.uint8)) < 0.1


def test_pictures_are_measured_upright_on_white_and_reduced(tmp_path):
    picture = Image.fromarray(halves((250, 0, 0), (0, 0, 250), 600))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.crop((0, 0, 600, 300)).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = reduced(decode((tmp_path / "turned.jpg").read_bytes()))
    assert upright.shape == (MAX_SIDE, MAX_SIDE // 2, 3) and take("aspect", upright) == 0.5
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert take("luminance", reduced(decode((tmp_path / "clear.png").read_bytes()))) == pytest.approx(100)
    with pytest.raises(ValueError, match="too narrow"):
        reduced(Image.new("RGB", (4000, 20)))


@pytest.mark.parametrize(
    "pixels", [np.zeros((16, 16), np.uint8), np.zeros((16, 16, 3)), np.zeros((4, 16, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(pixels):
    with pytest.raises(ValueError, match="needs uint8"):
        take("luminance", pixels)


def test_values_name_their_category():
    hue = MEASURES["hue"]
    assert hue.category_named("blue background") == "blue"
    assert hue.category_named("gray") == "grey" and hue.category_named("Teal") == "cyan"
    assert hue.category_named("red and blue") is None and hue.category_named("striped") is None


def test_the_registry_is_complete_and_light():
    for name, measure in MEASURES.items():
        assert measure.name == name and measure.unit and len(measure.description.split()) >= 4
        assert measure.is_category or (measure.low_words and measure.high_words)
        assert not set(measure.low_words) & set(measure.high_words)
    code = "import sys, runner.nodes.bias.measures; print({'numpy', 'scipy', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"

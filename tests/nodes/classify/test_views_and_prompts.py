"""Random views of pictures, and the prompts of classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import ColourEncoder
from PIL import Image

from runner.errors import DataError
from runner.nodes.classify.augment import AugmentedTower, crop_box, random_view
from runner.nodes.classify.zero_shot import class_weights, prompts


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 1000))
@settings(deadline=None)
def test_a_crop_lies_inside_and_has_an_allowed_shape(width, height, seed):
    left, upper, right, lower = crop_box(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width + 1e-9 and 0 <= upper < lower <= height + 1e-9
    if min(width, height) >= 40 and max(width, height) <= 1.3 * min(width, height):
        w, h = right - left, lower - upper
        assert 0.47 <= w * h / (width * height) <= 1.0
        assert 0.72 <= w / h <= 1.4


def test_a_picture_that_no_crop_fits_gives_its_centre():
    left, upper, right, lower = crop_box(300, 10, np.random.default_rng(0))
    assert (upper, lower) == (0, 10) and right - left == pytest.approx(10 * 4 / 3)
    assert (left + right) / 2 == pytest.approx(150)


def test_views_differ_and_half_of_them_are_mirrored():
    ramp = np.zeros((32, 32, 3), np.uint8)
    ramp[:, :, 0], ramp[:, :, 1] = np.arange(0, 256, 8), np.arange(0, 256, 8)[:, None]
    image, rng = Image.fromarray(ramp), np.random.default_rng(0)
    views = [np.asarray(random_view(image, (16, 16), rng), int) for _ in range(200)]
    mirrored = [view[8, 0, 0] > view[8, -1, 0] for view in views]
    assert 70 < sum(mirrored) < 130
    assert len({view.tobytes() for view in views}) > 150


def test_the_tower_embeds_each_view():
    encoder = ColourEncoder()
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (30, 40, 3), np.uint8))
    tower = AugmentedTower(encoder, 3, seed=5)
    prepared = tower.prepare(image)
    assert prepared.shape == (3, 3, 8, 8)
    vectors = tower.logits(np.stack([prepared, prepared[::-1]]))
    assert vectors.shape == (2, 3 * encoder.dim) == (2, len(tower.labels))
    np.testing.assert_allclose(vectors[0].reshape(3, -1), encoder.encode_prepared(prepared), atol=1e-6)
    np.testing.assert_allclose(vectors[0].reshape(3, -1), vectors[1].reshape(3, -1)[::-1], atol=1e-6)
    assert np.array_equal(prepared, AugmentedTower(encoder, 3, seed=5).prepare(image))
    assert not np.array_equal(prepared, AugmentedTower(encoder, 3, seed=6).prepare(image))
    identities = {AugmentedTower(encoder, n, s).identity for n, s in ((3, 5), (3, 6), (2, 5))}
    assert len(identities) == 3


def test_names_enter_prompts_on_one_line_without_underscores():
    names = ["hot_dog", "a\nb {}", "x" * 500]
    assert prompts(names, ["a {}.", "{}"]) == [
        "a hot dog.", "hot dog", "a a b {}.", "a b {}", "a " + "x" * 200 + ".", "x" * 200
    ]  # fmt: skip


def test_prompts_that_cancel_out_are_refused():
    class Cancels(ColourEncoder):
        dim = 2

        def encode_texts(self, texts):
            return np.array([[1, 0], [-1, 0]] * (len(texts) // 2), np.float32)

    with pytest.raises(DataError, match="cancel out"):
        class_weights(Cancels(), ["a"], ["{}", "the {}"])
    weights = class_weights(ColourEncoder(), ["red", "blue"], ["{}", "the {}"])
    assert weights.shape == (64, 2)
    np.testing.assert_allclose(np.linalg.norm(weights, axis=0), 1, atol=1e-12)

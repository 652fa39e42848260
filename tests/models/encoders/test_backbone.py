import numpy as np
import pytest
from PIL import Image
from tiny import write_backbone

from runner.errors import ModelRefused
from runner.models.encoders.backbone import Backbone, letterbox, pixel_key, prepare


def test_letterbox_centres_on_white_and_keeps_the_shape():
    square = np.asarray(letterbox(Image.new("RGB", (100, 50), "red"), 40))
    assert square.shape == (40, 40, 3)
    assert (square[:10] == 255).all()
    assert (square[30:] == 255).all()
    assert (square[10:30] == [255, 0, 0]).all()


def test_transparency_becomes_white():
    assert (np.asarray(letterbox(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 8)) == 255).all()


def test_prepared_white_is_imagenets_white():
    white = prepare(Image.new("RGB", (5, 9), "white"))
    assert white.shape == (3, 224, 224)
    np.testing.assert_allclose(white[:, 0, 0], [2.2489083, 2.4285715, 2.64], rtol=1e-5)


def test_known_pictures_are_looked_up(tmp_path):
    path = write_backbone(tmp_path / "b")
    batch = np.stack([prepare(Image.new("RGB", (4, 4), c)) for c in ("red", "green", "blue")])
    fresh = Backbone(path)
    expected = fresh.features(batch)
    remembered = np.full(12, 7, np.float32)
    other = Backbone(path, known={pixel_key(batch[1]): remembered})
    got = other.features(batch)
    np.testing.assert_array_equal(got[1], remembered)
    np.testing.assert_allclose(got[[0, 2]], expected[[0, 2]], rtol=1e-5)
    assert fresh.features(batch[:0]).shape == (0, 12)
    assert fresh.identity == other.identity != Backbone(write_backbone(tmp_path / "c", seed=1)).identity


def test_batches_of_any_length_agree(tmp_path):
    backbone = Backbone(write_backbone(tmp_path / "b"))
    batch = np.random.default_rng(0).normal(size=(19, 3, 224, 224)).astype(np.float32)
    alone = np.concatenate([backbone.features(batch[i : i + 1]) for i in range(19)])
    np.testing.assert_allclose(backbone.features(batch), alone, rtol=1e-4, atol=1e-5)


def test_something_else_is_refused(tmp_path):
    (tmp_path / "b").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelRefused):
        Backbone(tmp_path / "b")

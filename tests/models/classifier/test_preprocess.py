import numpy as np
import pytest
import torchvision.transforms as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from runner.errors import ModelRefused
from runner.models.classifier.preprocess import Preprocess, PreprocessSpec, from_huggingface

SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))


def picture(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 60), st.integers(1, 60))
def test_resize_and_crop_are_torchvisions(size, shortest, crop):
    image = picture(size)
    ours = Preprocess(shortest=shortest, crop=(crop, crop))(image)
    theirs = tv.Compose([tv.Resize(shortest, tv.InterpolationMode.BICUBIC), tv.CenterCrop(crop), tv.ToTensor()])(image)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


def test_channels_layout_and_range():
    image = Image.new("RGB", (4, 4), (255, 0, 51))
    rgb = PreprocessSpec(size=4, range=(-1, 1)).build()(image)
    np.testing.assert_allclose(rgb[:, 0, 0], [1, -1, -0.6], atol=1e-6)
    bgr = PreprocessSpec(size=4, channels="bgr", layout="hwc", range=(0, 255)).build()(image)
    np.testing.assert_allclose(bgr[0, 0], [51, 0, 255], atol=1e-4)
    gray = PreprocessSpec(size=4, channels="gray", mean=0.5, std=0.5).build()
    assert gray(image).shape == gray.shape == (1, 4, 4)


def test_mean_and_std_are_per_channel_after_the_range():
    spec = PreprocessSpec(size=2, mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0])
    np.testing.assert_allclose(spec.build()(Image.new("RGB", (2, 2), "white"))[:, 0, 0], [1.8, 0.8, 0.35], atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "LA"])
def test_other_modes_are_converted(mode):
    assert PreprocessSpec(size=3).build()(Image.new(mode, (5, 7))).shape == (3, 3, 3)


@pytest.mark.parametrize(
    "bad", [{"size": 0}, {"size": 8, "crop": 1.5}, {"size": 8, "crop": 0.0}, {"size": 8, "mode": 1}]
)
def test_a_wrong_description_is_refused_when_it_is_read(bad):
    with pytest.raises(ValidationError):
        PreprocessSpec(**bad)


@pytest.mark.parametrize("bad", [{"mean": [0.1, 0.2]}, {"std": 0.0}, {"std": [1.0, -1.0, 1.0]}])
def test_numbers_that_do_not_fit_are_refused(bad):
    with pytest.raises(ModelRefused, match="do not fit"):
        PreprocessSpec(size=8, **bad).build()


@pytest.mark.parametrize("edge", [224, 384])
def test_convnexts_crop_share(edge):
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    stats = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    config = {"size": {"shortest_edge": edge}, "crop_pct": 0.875, "resample": 3, **stats}
    image = picture((299, 260))  # an even margin: with an odd one processors differ by a pixel among themselves
    expected = ConvNextImageProcessorPil(**config)(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(from_huggingface(config)(image), expected, atol=1e-5)


@pytest.mark.parametrize("config", [{"size": "x"}, {"size": {}, "do_center_crop": True}, {"resample": 99, "size": 8}, {"size": 8, "resample": 2, "image_mean": None}, {"size": 8, "resample": 2}])  # fmt: skip
def test_an_unreadable_processor_asks_for_the_settings(config):
    with pytest.raises(ModelRefused) as caught:
        from_huggingface(config)
    assert "preprocess: {size" in str(caught.value)

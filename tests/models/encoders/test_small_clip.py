"""The weights that come with the project."""

import json

import numpy as np
import open_clip
import pytest
import torch

from runner import assets
from runner.assets import source_of
from runner.data.images import decode
from runner.models.base import ClipModel
from runner.models.encoders.providers import OpenClip
from runner.models.registry import Services


@pytest.fixture(scope="module")
def folder():
    return assets.ensure("small-clip").path


@pytest.fixture(scope="module")
def clip():
    config = OpenClip.model_validate({"provider": "open_clip", "checkpoint": "asset:small-clip"})
    return config.load(Services(resolve=assets.resolve))


def test_every_file_has_its_registered_hash_and_the_card_is_there(folder):
    assert assets.verify("small-clip") == []
    card = (folder / "README.md").read_text("utf8")
    assert "no published CLIP" in card
    assert "95 % interval" in card
    assert sum(file.stat().st_size for file in folder.iterdir()) < 25e6


def test_it_says_that_it_is_small_and_whose_it_is(clip):
    assert isinstance(clip, ClipModel)
    assert clip.small is True
    assert clip.family == "runner-small-clip"


def test_stock_open_clip_loads_it_and_agrees(folder, clip):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a bird over water", "a photo of a doctor"])
    image = decode(source_of("google-emoji").read(source_of("google-emoji").uris()[0]))
    with torch.inference_mode():
        texts = model.eval().encode_text(tokens, normalize=True).numpy()
        picture = model.encode_image(transform(image)[None], normalize=True).numpy()
    np.testing.assert_allclose(clip.encode_texts(["a bird over water", "a photo of a doctor"]), texts, atol=1e-5)
    np.testing.assert_allclose(clip.encode_images([image]), picture, atol=1e-5)


def test_it_is_built_of_what_weight_space_methods_read(folder):
    config = json.loads((folder / "open_clip_config.json").read_text("utf8"))["model_cfg"]
    vision = config["vision_cfg"]
    assert vision["width"] % vision["head_width"] == 0
    assert config["embed_dim"] <= vision["width"]


@pytest.mark.assets
def test_it_names_photographs_far_better_than_chance(clip):
    images = source_of("cifar10-test")
    uris, labels = images.uris()[:200], images.labels()
    classes = sorted(set(labels.values()))
    vectors = clip.encode_images([decode(images.read(uri)) for uri in uris])
    named = (vectors @ clip.encode_texts([f"a photo of a {name}" for name in classes]).T).argmax(1)
    assert np.mean([classes[i] == labels[uri] for i, uri in zip(named, uris, strict=True)]) > 0.3

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from runner.errors import AssetError, ModelRefused
from runner.models.classifier.providers import ZeroShot
from runner.models.encoders.clip import family_of
from runner.models.encoders.providers import OpenClip
from runner.models.registry import Services

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def folder(tmp_path):
    import open_clip

    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"size": 32}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


def load(**fields):
    return OpenClip.model_validate({"provider": "open_clip", **fields}).load(Services())


def test_a_local_folder_gives_unit_vectors_that_do_not_depend_on_the_batch(folder):
    encoder = load(checkpoint=str(folder))
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    vectors = encoder.encode_images(images)
    assert vectors.shape == (3, encoder.dim) == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(images[1:2])[0], vectors[1], atol=1e-5)
    texts = encoder.encode_texts(["a red square", "word " * 500])
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    assert encoder.encode_texts([]).shape == encoder.encode_images([]).shape == (0, 16)
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)


def test_identity_follows_weights_and_preprocessing(folder):
    first, again = load(checkpoint=str(folder)).identity, load(checkpoint=str(folder)).identity
    config = {"model_cfg": MODEL, "preprocess_cfg": {"size": 32, "mean": [0, 0, 0]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert first == again != load(checkpoint=str(folder)).identity


def test_nothing_is_said_of_random_weights_that_are_filled_and_other_warnings_pass(folder, caplog):
    load(checkpoint=str(folder))
    assert not caplog.records
    logging.warning("No pretrained weights loaded for model 'x'.")
    assert len(caplog.records) == 1


def test_weights_that_do_not_fit_are_refused(folder):
    save_file({"visual.proj": torch.zeros(3)}, folder / "open_clip_model.safetensors")
    with pytest.raises(ModelRefused, match="do not fit the network"):
        load(checkpoint=str(folder))
    with pytest.raises(ModelRefused, match="which open_clip model"):
        load(checkpoint=str(folder / "open_clip_model.safetensors"))
    (folder / "open_clip_model.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelRefused, match="damaged safetensors"):
        load(checkpoint=str(folder))
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelRefused, match="there is no open_clip_model"):
        load(checkpoint=str(folder))


def test_a_text_tower_on_a_hub_is_refused(folder):
    config = {"model_cfg": {**MODEL, "text_cfg": {"hf_model_name": "someone/else"}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelRefused, match="another model on a hub"):
        load(checkpoint=str(folder))


def test_weights_that_are_not_here_are_a_clear_error_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AssetError, match="HF_HUB_OFFLINE forbids"):
        load(name="ViT-B-32", weights="laion2b_s34b_b79k")


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ModelRefused, match="ViT-B-32"):
        load(name="ViT-B-322", weights="openai")
    with pytest.raises(ModelRefused, match="laion2b_s34b_b79k"):
        load(name="ViT-B-32", weights="laion5b")


@pytest.mark.parametrize(
    "fields", [{"name": "ViT-B-32"}, {"weights": "openai"}, {"name": "hf-hub:x/y", "weights": "z"}]
)
def test_a_config_without_one_source_of_weights_is_refused(fields):
    with pytest.raises(ValidationError):
        OpenClip.model_validate({"provider": "open_clip", **fields})


def test_families_name_the_training_lineage():
    tags = ["openai", "laion2b_s34b_b79k", "laion400m_e32", "datacomp_xl_s13b_b90k", "webli"]
    assert [family_of(tag) for tag in tags] == ["openai-clip", "laion-clip", "laion-clip", "datacomp-clip", "siglip"]


def _zero_shot(encoder, **fields):
    config = ZeroShot.model_validate({"provider": "zero_shot", "encoder": "$clip", **fields})
    return config.load(Services(linked={"encoder": encoder}))


def test_zero_shot_scores_are_scaled_cosines_of_the_mean_prompt(folder):
    encoder = load(checkpoint=str(folder))
    templates = ["a photo of a {}", "a drawing of a {}"]
    model = _zero_shot(encoder, labels=["cat", "dog"], templates=templates)
    images = [Image.new("RGB", (40, 40), c) for c in ("red", "blue")]
    prompts = np.stack([encoder.encode_texts([t.replace("{}", c) for t in templates]).mean(0) for c in ("cat", "dog")])
    cosines = encoder.encode_images(images) @ (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).T
    scores = model.logits(np.stack([model.prepare(image) for image in images]))
    np.testing.assert_allclose(scores, encoder.logit_scale * cosines, atol=1e-4)
    assert (model.format, model.encoder_family) == ("zero_shot", encoder.family)
    assert model.identity != _zero_shot(encoder, labels=["cat", "dog"]).identity


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"labels": ["cat", "cat"]}, "the same"),
        ({"labels": ["LABEL_0", "LABEL_1"]}, "an id"),
        ({"labels": ["cat", "dog"], "templates": ["a photo"]}, "must hold {}"),
    ],
)
def test_zero_shot_refuses_what_cannot_be_told_apart(fields, said, folder):
    with pytest.raises(ModelRefused, match=said):
        _zero_shot(load(checkpoint=str(folder)), **fields)

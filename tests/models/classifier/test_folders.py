import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from runner.errors import ModelRefused
from runner.models.classifier import load_classifier
from runner.models.classifier.preprocess import PreprocessSpec

LABELS = {0: "cat", 1: "dog", 2: "bird"}


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label=LABELS, label2id={v: k for k, v in LABELS.items()},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    return tmp_path


def test_a_huggingface_folder_gives_what_transformers_gives(folder):
    model = load_classifier(folder)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    pixels = ViTImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = ViTForImageClassification.from_pretrained(folder).eval()(pixels).logits.numpy()
    np.testing.assert_allclose(model.prepare(image), pixels[0], atol=1e-5)
    np.testing.assert_allclose(model.logits(pixels.numpy()), expected, atol=1e-5)
    assert (model.format, model.labels) == ("huggingface", ("cat", "dog", "bird"))


def test_code_named_by_the_config_neither_asks_nor_runs(folder, monkeypatch, capsys):
    (folder / "modeling_evil.py").write_text(f"open({str(folder / 'marker')!r}, 'w').write('it ran')\n")
    entry = {"AutoConfig": "modeling_evil.C", "AutoModelForImageClassification": "modeling_evil.M"}
    edit(folder / "config.json", auto_map=entry)
    edit(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "modeling_evil.P"})
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("it asked"))
    load_classifier(folder)
    edit(folder / "config.json", model_type="evil")
    with pytest.raises(ModelRefused, match="transformers cannot load it"):
        load_classifier(folder)
    assert not (folder / "marker").exists()
    assert "modeling_evil" not in " ".join(sys.modules)


def test_shards_are_read_and_must_be_in_the_folder(folder):
    whole = load_classifier(folder)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}}))
    batch = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(load_classifier(folder).logits(batch), whole.logits(batch), atol=1e-6)
    index.write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    (folder.parent / "outside.safetensors").write_bytes(b"")
    with pytest.raises(ModelRefused, match="shards that are not in its folder"):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), r"only pytorch_model.bin, a pickle"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
        (lambda f: edit(f / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}), "an id"),
        (lambda f: edit(f / "config.json", id2label={"0": "n02123045", "1": "dog", "2": "bird"}), "an id"),
        (lambda f: edit(f / "config.json", id2label={"0": "0", "1": "1", "2": "2"}), "these are numbers"),
        (lambda f: edit(f / "config.json", id2label={"0": "a", "2": "b"}), "not 0 to 1"),
        (lambda f: edit(f / "config.json", id2label=None), "no id2label"),
        (lambda f: edit(f / "config.json", hidden_size=8), "do not fit"),
        (lambda f: edit(f / "config.json", num_hidden_layers=2), "missing keys"),
        (lambda f: edit(f / "config.json", quantization_config={"quant_method": "x"}), "quantization_config"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "an adapter"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "cannot be read as JSON"),
        (lambda f: (f / "config.json").unlink(), "no known format"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "cannot load it"),
        (lambda f: edit(f / "preprocessor_config.json", do_pad=True), "do_pad is not known"),
        (lambda f: edit(f / "preprocessor_config.json", size={"shortest_edge": 32}), "different sizes"),
    ],
)
def test_a_broken_folder_is_one_clear_error(break_it, said, folder):
    break_it(folder)
    with pytest.raises(ModelRefused, match=said):
        load_classifier(folder)


def test_labels_of_the_spec_replace_ids(folder):
    edit(folder / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    assert load_classifier(folder, labels=["cat", "dog", "bird"]).labels == ("cat", "dog", "bird")
    with pytest.raises(ModelRefused, match="3 outputs for an image, but there are 2 labels"):
        load_classifier(folder, labels=["cat", "dog"])


@pytest.fixture
def timm_folder(tmp_path):
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=3).state_dict(), tmp_path / "model.safetensors")
    pretrained = {
        "input_size": [3, 64, 64], "crop_pct": 0.8, "crop_mode": "center", "interpolation": "bicubic",
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "label_names": ["n1", "n2", "n3"],
        "label_descriptions": {"n1": "cat", "n2": "dog", "n3": "bird"},
    }  # fmt: skip
    config = {"architecture": "resnet10t", "num_classes": 3, "pretrained_cfg": pretrained}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_a_timm_folder_gives_what_timm_gives(crop_mode, timm_folder):
    import timm
    from timm.data import create_transform

    config = json.loads((timm_folder / "config.json").read_text())
    config["pretrained_cfg"]["crop_mode"] = crop_mode
    (timm_folder / "config.json").write_text(json.dumps(config))
    model = load_classifier(timm_folder)
    assert (model.format, model.labels) == ("timm", ("cat", "dog", "bird"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 131, 3), np.uint8))
    read = {k: config["pretrained_cfg"][k] for k in ("input_size", "crop_pct", "interpolation", "mean", "std")}
    expected = create_transform(**read, crop_mode=crop_mode)(image).numpy()
    np.testing.assert_allclose(model.prepare(image), expected, atol=1e-5)
    network = timm.create_model("resnet10t", num_classes=3)
    network.load_state_dict(load_file(timm_folder / "model.safetensors"))
    with torch.no_grad():
        wanted = network.eval()(torch.from_numpy(expected[None])).numpy()
    np.testing.assert_allclose(model.logits(expected[None]), wanted, rtol=1e-4, atol=1e-5)


def test_preprocessing_of_the_spec_comes_first(timm_folder):
    assert load_classifier(timm_folder, preprocess=PreprocessSpec(size=48)).prepare(Image.new("RGB", (9, 9))).shape == (
        3,
        48,
        48,
    )

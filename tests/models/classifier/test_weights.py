import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from runner.errors import ModelRefused
from runner.models.classifier import load_classifier
from runner.models.classifier.architectures import CifarResNet
from runner.models.classifier.preprocess import PreprocessSpec

LABELS = ["cat", "dog", "bird"]
FULL = {"labels": LABELS, "architecture": "runner:cifar_resnet20", "preprocess": PreprocessSpec(size=32)}


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    return CifarResNet(3, 3, convolve=True).state_dict()


@pytest.fixture
def good(tensors, tmp_path):
    save_file(tensors, tmp_path / "good.bin")
    return tmp_path / "good.bin"


def test_a_good_file_loads_whatever_its_name(good):
    model = load_classifier(good, **FULL)
    assert (model.format, model.labels, model.head) == ("safetensors", tuple(LABELS), "softmax")
    batch = np.stack([model.prepare(Image.new("RGB", (50, 40), colour)) for colour in ("red", "blue")])
    assert batch.shape == (2, 3, 32, 32)
    assert model.logits(batch).dtype == np.float32
    assert model.logits(batch[:0]).shape == (0, 3)


def test_identity_changes_with_everything_that_changes_the_output(good, tensors, tmp_path):
    same = load_classifier(good, **FULL).identity
    assert load_classifier(good, **FULL, batch_size=1, name="other").identity == same
    save_file({**tensors, "linear.bias": tensors["linear.bias"] + 1}, tmp_path / "other")
    others = [
        load_classifier(tmp_path / "other", **FULL),
        load_classifier(good, **{**FULL, "labels": ["dog", "cat", "bird"]}),
        load_classifier(good, **{**FULL, "preprocess": PreprocessSpec(size=32, mean=0.5)}),
        load_classifier(good, **FULL, head="multilabel"),
    ]
    assert len({same, *(model.identity for model in others)}) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("bn1.weight"), "bn1.weight is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is not expected"),
        (lambda t: t.update({"linear.bias": torch.zeros(7)}), r"linear.bias has shape \[7\], expected \[3\]"),
        (lambda t: t.update({"linear.bias": torch.zeros(3, dtype=torch.int8)}), "linear.bias holds int8"),
    ],
)
@pytest.mark.parametrize("save", [save_file, torch.save], ids=["safetensors", "state_dict"])
def test_every_tensor_must_fit(change, said, save, tensors, tmp_path):
    changed = dict(tensors)
    change(changed)
    save(changed, tmp_path / "m")
    with pytest.raises(ModelRefused, match=said):
        load_classifier(tmp_path / "m", **FULL)


def test_the_counter_of_batches_may_be_missing(tensors, tmp_path):
    torch.save({k: v for k, v in tensors.items() if "num_batches" not in k}, tmp_path / "m")
    load_classifier(tmp_path / "m", **FULL)


@pytest.mark.parametrize("wrap", [lambda t: {"state_dict": t}, lambda t: {f"module.{k}": v for k, v in t.items()}])
def test_usual_wrappings_give_the_same_classifier(wrap, tensors, good, tmp_path):
    torch.save(wrap(dict(tensors)), tmp_path / "m.pt")
    batch = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    wrapped, plain = load_classifier(tmp_path / "m.pt", **FULL), load_classifier(good, **FULL)
    np.testing.assert_array_equal(wrapped.logits(batch), plain.logits(batch))


def test_legacy_state_dict_goes_through_the_restricted_loader(tensors, tmp_path):
    torch.save(dict(tensors), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_classifier(tmp_path / "old.pth", **FULL).format == "state_dict"


def test_a_checkpoint_with_more_than_tensors_is_refused(tensors, tmp_path):
    torch.save({**tensors, "epoch": 3}, tmp_path / "m")
    with pytest.raises(ModelRefused, match="more than tensors: epoch"):
        load_classifier(tmp_path / "m", **FULL)


def _header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b'{"a":',
        struct.pack("<Q", 99) + b'{"a": 1}',
        _header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 8),
        _header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, b"\0" * 8),
        _header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, b"\0" * 8),
        _header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [2**60, 2**60 + 4]}}, b"\0" * 8),
        _header({"a": {"dtype": "XX", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        _header({"a": 1}),
        struct.pack("<Q", 8) + b"{not json",
    ],
    ids=["2^62", "long", "short data", "shape", "huge shape", "offsets", "dtype", "entry", "json"],
)
def test_a_damaged_safetensors_file_is_one_clear_error(content, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ModelRefused, match=r"damaged safetensors|no known format"):
        load_classifier(tmp_path / "m.safetensors", **FULL)


def test_a_truncated_safetensors_file_is_refused_at_every_length(good, tmp_path):
    data = good.read_bytes()
    for length in (9, 100, 5000, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(ModelRefused):
            load_classifier(tmp_path / "cut", **FULL)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": None}, "does not hold the names"),
        ({"labels": ["cat", "dog"]}, r"linear.weight has shape \[3, 64\], expected \[2, 64\]"),
        ({"labels": ["LABEL_0", "LABEL_1", "LABEL_2"]}, "an id and not a name"),
        ({"labels": ["n02123045", "dog", "bird"]}, "an id and not a name"),
        ({"labels": ["cat", " ", "bird"]}, "output 1 has no name"),
        ({"architecture": None}, "which network"),
        ({"architecture": "runner:cifar_resnet21"}, "Did you mean .*runner:cifar_resnet20"),
        ({"architecture": "other:net"}, "no library of architectures"),
        ({"preprocess": "auto"}, "does not say how pictures are preprocessed"),
    ],
)
def test_what_is_missing_is_asked_for(change, said, good):
    with pytest.raises(ModelRefused, match=said):
        load_classifier(good, **{**FULL, **change})


@pytest.mark.parametrize("convolve", [True, False])
def test_the_checkpoint_tells_the_kind_of_shortcut(convolve, tmp_path):
    network = CifarResNet(3, 3, convolve=convolve)
    save_file(network.state_dict(), tmp_path / "m")
    model = load_classifier(tmp_path / "m", **FULL)
    batch = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(model.logits(batch), network.eval()(torch.from_numpy(batch)), rtol=1e-5, atol=1e-5)


def test_cifar_resnets_have_the_published_sizes():
    # He et al. (2016), table 6: 0.27, 0.46, 0.66, 0.85, 1.7 million parameters with parameter-free shortcuts.
    sizes = [sum(p.numel() for p in CifarResNet(n, 10, convolve=False).parameters()) for n in (3, 5, 7, 9, 18)]
    assert [round(size / 1e6, 2) for size in sizes] == [0.27, 0.46, 0.66, 0.85, 1.73]


@pytest.mark.parametrize("architecture", ["timm:resnet10t", "torchvision:squeezenet1_1"])
def test_networks_of_libraries_are_filled(architecture, tmp_path):
    from runner.models.classifier.architectures import build

    save_file(build(architecture, 3, []).state_dict(), tmp_path / "m")
    full = {**FULL, "architecture": architecture, "preprocess": PreprocessSpec(size=64)}
    assert load_classifier(tmp_path / "m", **full).labels == tuple(LABELS)
    if architecture.startswith("timm"):
        with pytest.raises(ModelRefused, match=r"preprocess: \{size: 176, crop: 0.875"):
            load_classifier(tmp_path / "m", **{**full, "preprocess": "auto"})


def test_outputs_that_are_not_finite_are_refused(tensors, tmp_path):
    save_file({**tensors, "linear.bias": torch.full((3,), float("nan"))}, tmp_path / "m")
    with pytest.raises(ModelRefused, match="not finite"):
        load_classifier(tmp_path / "m", **FULL)

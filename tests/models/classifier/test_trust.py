"""Opted-in files: pinned, confined, and what a hostile one can do then."""

import argparse
import builtins
import json
import pickle
import socket

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from runner.errors import ModelRefused
from runner.models.classifier import load_classifier
from runner.models.classifier.architectures import CifarResNet
from runner.models.classifier.preprocess import PreprocessSpec
from runner.models.classifier.weights import sha256_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
FULL = {"labels": ["cat", "dog", "bird"], "preprocess": PreprocessSpec(size=48)}
BATCH = np.random.default_rng(0).normal(size=(5, 3, 48, 48)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(num_classes=3).eval()


@pytest.fixture(scope="module")
def expected(network):
    return network(torch.from_numpy(BATCH)).detach().numpy()


def opted_in(path, **more):
    return load_classifier(path, **{**FULL, **more}, trust="code", sha256=sha256_of([path]))


def test_without_the_hash_nothing_runs_and_one_line_says_what_opting_in_means(network, tmp_path):
    path = tmp_path / "net.safetensors"
    torch.save(network, path)
    for said in ({}, {"trust": "code"}):
        with pytest.raises(ModelRefused) as caught:
            load_classifier(path, **FULL, **said)
        assert sha256_of([path]) in caught.value.message
        assert "\n" not in caught.value.message + caught.value.hint
        assert "`trust: code`" in caught.value.hint
    with pytest.raises(ModelRefused, match=r"is pinned"):
        load_classifier(path, **FULL, trust="code", sha256="0" * 64)


def test_a_pinned_hash_guards_any_format(tmp_path):
    save_file(CifarResNet(3, 3, convolve=True).state_dict(), tmp_path / "m")
    full = {**FULL, "architecture": "runner:cifar_resnet20"}
    load_classifier(tmp_path / "m", **full, sha256=sha256_of([tmp_path / "m"]))
    with pytest.raises(ModelRefused, match="is pinned"):
        load_classifier(tmp_path / "m", **full, sha256="0" * 64)


def test_a_whole_network_gives_the_same_scores_in_its_sandbox(network, expected, tmp_path):
    torch.save({"epoch": 3, "model": network, "args": argparse.Namespace(lr=1)}, tmp_path / "net.onnx")
    model = opted_in(tmp_path / "net.onnx", batch_size=2)
    np.testing.assert_allclose(model.logits(BATCH), expected, rtol=1e-5, atol=1e-6)
    assert model.format == "pickled_module"
    assert "confined process (" in model.notes[0]
    assert model.logits(BATCH[:0]).shape == (0, 3)
    with pytest.raises(ModelRefused, match="cannot take an input of shape 1x9x9x9"):
        model.logits(np.zeros((1, 9, 9, 9), np.float32))
    model.close()
    with pytest.raises(ModelRefused, match="has ended"):
        model.logits(BATCH)


def test_weights_with_strange_company_leave_the_sandbox_as_bytes(network, expected, tmp_path):
    content = {"state_dict": network.state_dict(), "args": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    full = {**FULL, "architecture": "torchvision:squeezenet1_1"}
    with pytest.raises(ModelRefused, match=r"more than tensors.*") as caught:
        load_classifier(tmp_path / "old.pth", **full)
    assert sha256_of([tmp_path / "old.pth"]) in caught.value.hint
    model = opted_in(tmp_path / "old.pth", architecture="torchvision:squeezenet1_1")
    np.testing.assert_allclose(model.logits(BATCH), expected, rtol=1e-5, atol=1e-6)


ATTACK = """
import os, socket, torch
done = []
def attempt(name, deed):
    try:
        deed()
        done.append(name)
    except BaseException:
        pass
attempt("write", lambda: open({marker!r}, "w").write("it ran"))
attempt("read", lambda: open({secret!r}).read())
attempt("read with torch", lambda: torch.from_file({secret!r}, False, 1))
attempt("load with torch", lambda: torch.load({secret!r}))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", {port}), 2))
attempt("fork", os.fork)
attempt("shell", lambda: 1 / (os.system("/bin/true") == 0))
attempt("allocate", lambda: torch.ones(25_000_000_000))
print("garbage")
class Net(torch.nn.Module):
    def forward(self, x):
        return torch.full((len(x), 3), float(len(done)))
torch.hostile_network = Net()
"""


class Attack:
    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return (builtins.exec, (self.code, {}))


class Fetch:
    def __reduce__(self):
        return (builtins.eval, ("__import__('torch').hostile_network",))


@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o, 0))], ids=["torch", "pickle"])
def test_a_hostile_pickle_that_was_opted_in_reaches_nothing(save, tmp_path):
    (tmp_path / "secret").write_text("a secret that is long enough")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        given = {"marker": str(tmp_path / "marker"), "secret": str(tmp_path / "secret")}
        code = ATTACK.format(**given, port=server.getsockname()[1])
        save({"a": Attack(code), "model": Fetch()}, tmp_path / "m.jpg")
        model = opted_in(tmp_path / "m.jpg")
        with pytest.raises(TimeoutError):
            server.accept()
    np.testing.assert_array_equal(model.logits(BATCH), np.zeros((5, 3)))  # the number of deeds that worked
    model.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.jpg", "secret"]


def test_the_same_attack_works_outside(tmp_path):
    """Else the test above would prove nothing."""
    (tmp_path / "secret").write_text("a secret that is long enough")
    with socket.create_server(("127.0.0.1", 0)) as server:
        given = {"marker": str(tmp_path / "marker"), "secret": str(tmp_path / "secret")}
        lines = ATTACK.format(**given, port=server.getsockname()[1]).split("\n")
        names = {}
        exec("\n".join(line for line in lines if "fork" not in line and "allocate" not in line), names)
    del torch.hostile_network
    assert names["done"] == ["write", "read", "read with torch", "connect", "shell"]


def test_a_class_that_is_not_installed_is_one_clear_error(tmp_path):
    torch.save({"x": Attack("import nosuchpackage")}, tmp_path / "m")
    with pytest.raises(ModelRefused, match=r"not installed here \(No module named 'nosuchpackage'\)"):
        opted_in(tmp_path / "m")


class Reader(torch.nn.Module):
    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, x):
        secret = torch.from_file(self.path, False, 3, dtype=torch.float32)
        return x.mean((2, 3)) * 0 + secret


def test_torchscript_runs_in_its_sandbox_and_cannot_read_files(network, expected, tmp_path):
    torch.jit.trace(network, torch.from_numpy(BATCH)).save(str(tmp_path / "net.keras"))
    model = opted_in(tmp_path / "net.keras")
    np.testing.assert_allclose(model.logits(BATCH), expected, rtol=1e-5, atol=1e-6)
    model.close()
    (tmp_path / "secret").write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    script = torch.jit.script(Reader(str(tmp_path / "secret")))
    assert script(torch.zeros(1, 3, 8, 8)).tolist() == [[1, 2, 3]]  # unconfined, it reads
    script.save(str(tmp_path / "reader.pt"))
    with pytest.raises(ModelRefused, match=r"reader.pt: the model cannot take an input.*unable to open file"):
        opted_in(tmp_path / "reader.pt")


def test_an_exported_program_of_fixed_batch_size_gives_the_same_scores(network, expected, tmp_path):
    torch.export.save(torch.export.export(network, (torch.from_numpy(BATCH[:2]),)), tmp_path / "net.pt2")
    model = opted_in(tmp_path / "net.pt2")
    np.testing.assert_allclose(model.logits(BATCH), expected, rtol=1e-5, atol=1e-6)
    model.close()


def test_a_bin_folder_is_read_after_opting_in(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    labels = {0: "cat", 1: "dog", 2: "bird"}
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label=labels, label2id={v: k for k, v in labels.items()},
    )  # fmt: skip
    vit = ViTForImageClassification(config).eval()
    vit.save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    pickled = tmp_path / "pytorch_model.bin"
    torch.save(vit.state_dict(), pickled)
    with pytest.raises(ModelRefused, match=r"only pytorch_model.bin, a pickle"):
        load_classifier(tmp_path)
    model = load_classifier(tmp_path, trust="code", sha256=sha256_of([pickled]))
    batch = BATCH[:, :, :32, :32].copy()
    np.testing.assert_allclose(model.logits(batch), vit(torch.from_numpy(batch)).logits.detach(), atol=1e-5)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelRefused, match="is pinned"):
        load_classifier(tmp_path, trust="code", sha256="1" * 64)

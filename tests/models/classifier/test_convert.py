"""``runner convert``: weights out of a file that could run code, and how a hostile child may lie about them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from runner.cli import app
from runner.errors import ModelRefused, RunnerError, UsageError
from runner.models.classifier import load_classifier
from runner.models.classifier.architectures import CifarResNet
from runner.models.classifier.convert import convert
from runner.models.classifier.preprocess import Preprocess, PreprocessSpec
from runner.models.classifier.sandboxed import SandboxedClassifier
from runner.models.classifier.stream import announced, write_tensors
from runner.models.classifier.weights import sha256_of
from runner.models.sandbox import Sandbox

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
SERVICES = Path(__file__).parents[1] / "sandbox"
BATCH = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return CifarResNet(3, 3, convolve=True).eval()


def test_a_pickled_network_becomes_a_folder_that_needs_no_trust(network, tmp_path):
    path, out = tmp_path / "net.pt", tmp_path / "net"
    torch.save(network, path)
    with pytest.raises(UsageError, match=sha256_of([path])):
        convert(path, out, sha256=None)
    given = ["convert", str(path), "--output", str(out), "--sha256", sha256_of([path]), "--classes", "cat,dog,bird"]
    given += ["--architecture", "runner:cifar_resnet20", "--preprocess", "{size: 32, mean: 0.5, std: 0.25}"]
    shown = CliRunner().invoke(app, given, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert "provider: file" in shown.output
    model = load_classifier(out)
    expected = network(torch.from_numpy(BATCH)).detach().numpy()
    np.testing.assert_allclose(model.logits(BATCH), expected, rtol=1e-5, atol=1e-5)
    assert (model.labels, model.preprocess.mean) == (("cat", "dog", "bird"), (0.5,))
    card = json.loads((out / "runner-model.json").read_text())
    assert card["source"]["sha256"] == sha256_of([path])
    assert card["source"]["class"] == "runner.models.classifier.architectures.CifarResNet"
    with (out / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelRefused, match=r"not the file that runner-model.json speaks of"):
        load_classifier(out)


def test_torchscript_gives_its_weights_and_says_what_is_missing(network, tmp_path):
    path, out = tmp_path / "net.ts", tmp_path / "net"
    torch.jit.trace(network, torch.from_numpy(BATCH)).save(str(path))
    done = convert(path, out, sha256=sha256_of([path]))
    assert any("architecture, labels, preprocess" in line for line in done.lines)
    found = load_file(out / "model.safetensors")
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(found[name], tensor)
    full = {"labels": ["cat", "dog", "bird"], "preprocess": PreprocessSpec(size=32)}
    with pytest.raises(ModelRefused, match="which network"):
        load_classifier(out, **full)
    load_classifier(out, **full, architecture="runner:cifar_resnet20")


def test_weights_that_do_not_fit_leave_nothing_behind(network, tmp_path):
    torch.save(network, tmp_path / "net.pt")
    with pytest.raises(ModelRefused, match="do not fit the network"):
        convert(
            tmp_path / "net.pt", tmp_path / "out", sha256=sha256_of([tmp_path / "net.pt"]),
            architecture="runner:cifar_resnet32",
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x89HDF\r\n\x1a\n" + bytes(9), "HDF5 files are loaded as they are"), (b"hello", "nothing to convert")],
)
def test_what_needs_no_conversion_is_said(content, said, tmp_path):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(RunnerError, match=said):
        convert(tmp_path / "m", tmp_path / "out", sha256="0" * 64)


def test_a_wrong_hash_or_an_existing_folder_is_refused(network, tmp_path):
    torch.save(network, tmp_path / "net.pt")
    with pytest.raises(ModelRefused, match="is pinned"):
        convert(tmp_path / "net.pt", tmp_path / "out", sha256="0" * 64)
    with pytest.raises(UsageError, match="exists already"):
        convert(tmp_path / "net.pt", tmp_path, sha256="0" * 64)


@pytest.fixture(scope="module")
def liar():
    child = Sandbox("services:liar", readable=[SERVICES])
    yield child
    child.close()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ("x", "holds no tensors"),
        ([], "holds no tensors"),
        ([["w", "float32", [10**6, 10**6]]], "far more than the file"),
        ([["w", "float32", [-1]]], "cannot be stored"),
        ([["w", "float32", [True]]], "cannot be stored"),
        ([["w", "object", [1]]], "cannot be stored"),
        ([["../../w\n", "float32", [1]]], "cannot be stored"),
        ([["w" * 600, "float32", [1]]], "cannot be stored"),
        ([["w", "float32", [1] * 17]], "cannot be stored"),
        ([["w", "float32"]], "cannot be stored"),
        ([["w", "float32", [1]]] * 2, "same name"),
    ],
)
def test_a_lie_about_tensors_is_refused(tensors, said, liar):
    liar.ask({"op": "set", "tensors": tensors, "size": 4})
    with pytest.raises(ModelRefused, match=said):
        announced(liar, 1 << 20)


def test_fewer_bytes_than_announced_are_refused_and_more_end_the_child(tmp_path):
    for size, said in ((8, "has 8 bytes, 16 were announced"), (24, "at most 16 were expected")):
        child = Sandbox("services:liar", readable=[SERVICES])
        child.ask({"op": "set", "tensors": [["w", "float32", [4]]], "size": size})
        with pytest.raises(ModelRefused, match=said):
            write_tensors(child, announced(child, 100), tmp_path / "out", {})
        child.close()


def test_bytes_are_written_as_safetensors_reads_them(liar, tmp_path):
    rows = [["odd", "uint8", [1]], ["half", "bfloat16", [1, 1]], ["empty", "int64", [0, 4]]]
    for name, kind, shape in rows:
        size = {"odd": 1, "half": 2, "empty": 0}[name]
        liar.ask({"op": "set", "tensors": [[name, kind, shape]], "size": size})
        write_tensors(liar, announced(liar, 100), tmp_path / name, {"format": "pt"})
        found = load_file(tmp_path / name)[name]
        assert (list(found.shape), str(found.dtype)) == (shape, f"torch.{kind}")


FORGED = {2: "not finite", 3: "output of shape", 4: "for 1 images", 5: "expected scores", 6: "output of shape", 7: "expected scores", 8: "expected scores", 9: "output of shape", 10: "expected scores"}  # fmt: skip


def test_forged_scores_are_refused():
    classifier = SandboxedClassifier(
        Sandbox("services:forger", readable=[SERVICES]), name="m", format="torchscript", weights_sha256="0",
        labels=("a", "b", "c"), preprocess=Preprocess(exact=(1, 1)), head="softmax", batch_size=1,
    )  # fmt: skip
    pixel = np.ones((1, 3, 1, 1), np.float32)
    assert classifier.logits(pixel).tolist() == [[1, 1, 1]]
    for number, said in FORGED.items():
        with pytest.raises(ModelRefused, match=said):
            classifier.logits(pixel * number)
    classifier.close()


def test_converting_is_offered_without_importing_torch():
    import subprocess

    code = "import sys, runner.models.classifier.convert, runner.models.sandbox; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"

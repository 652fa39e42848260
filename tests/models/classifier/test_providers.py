import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from runner.models.classifier.architectures import CifarResNet
from runner.models.classifier.providers import FileClassifier, HuggingFaceClassifier
from runner.models.registry import Services, load_providers


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_file(CifarResNet(3, 2, convolve=True).state_dict(), tmp_path / "model.bin")
    return tmp_path / "model.bin"


def config(path, **fields):
    given = {"path": str(path), "architecture": "runner:cifar_resnet20", "preprocess": {"size": 32}, **fields}
    return FileClassifier.model_validate({"provider": "file", **given})


def test_a_file_with_labels_from_a_text_file(weights):
    (weights.parent / "names.txt").write_text("cat\ndog\n")
    model = config(weights, labels_file=str(weights.parent / "names.txt")).load(Services())
    assert model.labels == ("cat", "dog")
    assert model.identity == config(weights, labels=["cat", "dog"]).load(Services()).identity


def test_speed_settings_enter_no_key(weights):
    slow = config(weights, labels=["cat", "dog"], batch_size=1, threads=1)
    fast = config(weights, labels=["cat", "dog"], batch_size=256)
    assert slow.identity() == fast.identity()
    assert slow.identity() != config(weights, labels=["dog", "cat"]).identity()


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": ["a"], "labels_file": "x"},
        {"architecture": "resnet18"},
        {"architecture": "timm:../evil"},
        {"format": "joblib"},
        {"trust": "all"},
        {"trust": "code", "sha256": "abc"},
        {"path": "hf-hub:timm/../evil"},
        {"head": "sigmoid"},
        {"batch_size": 0},
        {"preprocess": "imagenet"},
        {"path": "no/such/file"},
    ],
)
def test_a_wrong_config_is_refused_when_the_spec_is_read(fields, weights):
    with pytest.raises(ValidationError):
        config(**{"path": weights, **fields})


def test_all_providers_are_registered_under_their_names():
    known = load_providers()
    names = {"huggingface", "file", "zero_shot", "open_clip", "embedded_mini", "minilm"}
    assert names <= known.keys()
    assert known["huggingface"] is HuggingFaceClassifier


def test_declaring_providers_and_steps_imports_nothing_heavy():
    modules = "runner.models.classifier.providers, runner.models.encoders.providers, runner.nodes.encoder.steps"
    heavy = "{'torch', 'numpy', 'transformers', 'onnxruntime', 'onnx', 'PIL', 'pyarrow', 'open_clip', 'timm', 'scipy'}"
    code = f"import sys, {modules}; print(sorted(set(sys.modules) & {heavy}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"

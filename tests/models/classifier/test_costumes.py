"""Every hostile file in every costume: the name never matters, and nothing in it runs."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hostile import Payload

from runner.errors import ModelRefused
from runner.models.classifier import load_classifier
from runner.models.classifier.formats import FORMATS
from runner.models.classifier.hub import fetch
from runner.models.classifier.preprocess import PreprocessSpec

FULL = {"labels": ["cat", "dog"], "architecture": "runner:cifar_resnet20", "preprocess": PreprocessSpec(size=32)}
ENDINGS = [".safetensors", ".onnx", ".keras", ".h5", ".pt2", ".jpg", ".json", ""]


def bare(payload, protocol):
    return pickle.dumps(payload, protocol)


def in_a_list(payload, protocol):
    return pickle.dumps([1, {"weights": payload}], protocol)


def in_a_checkpoint(payload, protocol):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1), "x": payload}, buffer, pickle_protocol=max(2, protocol))
    return buffer.getvalue()


def in_an_old_checkpoint(payload, protocol):
    buffer = io.BytesIO()
    torch.save({"x": payload}, buffer, pickle_protocol=max(2, protocol), _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def in_a_zip(payload, protocol):
    return zipped({"model/weights.safetensors": pickle.dumps(payload, protocol)})


def in_a_zip_in_a_zip(payload, protocol):
    return zipped({"model.pt": in_a_checkpoint(payload, protocol)})


def in_an_object_array(payload, protocol):
    buffer = io.BytesIO()
    np.save(buffer, np.array([payload], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def in_an_npz(payload, protocol):
    return zipped({"arr_0.npy": in_an_object_array(payload, protocol)})


def in_a_tar(payload, protocol):
    buffer, data = io.BytesIO(), pickle.dumps(payload, protocol)
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("model.safetensors")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        info = tarfile.TarInfo("data.pkl")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def behind_a_safetensors_header(payload, protocol):
    """The header of an empty file, then a pickle instead of tensors."""
    return struct.pack("<Q", 2) + b"{}" + pickle.dumps(payload, protocol)


def as_keras_weights(payload, protocol):
    config = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"layers": []}})
    return zipped({"config.json": config, "metadata.json": "{}", "model.weights.h5": pickle.dumps(payload, protocol), "x.pkl": pickle.dumps(payload)})  # fmt: skip


def zipped(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


WRAPS = [
    bare, in_a_list, in_a_checkpoint, in_an_old_checkpoint, in_a_zip, in_a_zip_in_a_zip, in_an_object_array, in_an_npz,
    in_a_tar, behind_a_safetensors_header, as_keras_weights,
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", WRAPS, ids=lambda wrap: wrap.__name__)
def test_a_pickle_never_runs(wrap, protocol, tmp_path):
    marker = tmp_path / "marker"
    content = wrap(Payload(marker), protocol)
    for ending in ENDINGS:
        path = tmp_path / f"model{ending}"
        path.write_bytes(content)
        with pytest.raises(ModelRefused):
            load_classifier(path, **FULL)
        for declared in FORMATS:
            with pytest.raises(ModelRefused):
                load_classifier(path, **FULL, format=declared)
    assert not marker.exists()


def tensors(header, data=b"\0" * 16):
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin, end, **changes):
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **changes}


@pytest.mark.parametrize(
    "content",
    [
        tensors({"a": entry(0, 12), "b": entry(8, 16)}),
        tensors({"a": entry(0, 8), "b": entry(12, 16)}),
        tensors({"a": entry(0, 16), "b": entry(0, 16)}),
        tensors({"a": entry(8, 0)}),
        tensors({"a": entry(0, 16, shape=[2, 2, 2])}),
        tensors({"a": entry(0, 16, shape=[-4])}),
        tensors({"a": entry(0, 16, shape=[2**33, 2**33])}),
        tensors({"a": entry(0, 16, shape="4")}),
        tensors({"a": entry(0, 15)}),
        tensors({"__metadata__": {"a": 1}, "b": entry(0, 16)}),
        tensors("[" * 10_000),
        tensors('{"a": ' * 5_000),
    ],
    ids=["overlap", "hole", "shared", "backwards", "shape", "negative", "overflow", "text", "odd", "metadata", "list", "deep"],
)  # fmt: skip
def test_a_lying_safetensors_header_is_one_clear_error(content, tmp_path):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ModelRefused) as caught:
        load_classifier(tmp_path / "m", **FULL)
    assert len(str(caught.value)) < 1000


def test_two_tensors_of_one_name_do_not_fit(tmp_path):
    twice = '{"a": %s, "a": %s}' % (json.dumps(entry(0, 8)), json.dumps(entry(8, 16)))  # noqa: UP031
    (tmp_path / "m").write_bytes(tensors(twice))
    with pytest.raises(ModelRefused):
        load_classifier(tmp_path / "m", **FULL)


def test_an_archive_that_unpacks_to_far_more_is_not_read(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(25_000_000)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert (tmp_path / "m.pt").stat().st_size < 1_000_000
    with pytest.raises(ModelRefused, match="far more than it has"):
        load_classifier(tmp_path / "m.pt", **FULL)


@pytest.fixture
def timm_model(tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=2).state_dict(), tmp_path / "model.safetensors")
    config = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "label_names": ["cat", "dog"]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "pretrained_cfg": config}))
    return tmp_path


HUB_TEST = """
import sys
from pathlib import Path
from runner.models.classifier.providers import FileClassifier
from runner.models.registry import Services
config = FileClassifier.model_validate({"provider": "file", "path": "hf-hub:timm/tiny.test"})
model = config.load(Services())
print(model.format, *model.labels)
snapshot = Path(sys.argv[1])
(snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
try:
    FileClassifier.model_validate({"provider": "file", "path": "hf-hub:timm/tiny.test@" + "a" * 40}).load(Services())
except Exception as error:
    print(error)
"""


def test_a_timm_model_is_taken_from_the_hubs_cache(timm_model, tmp_path):
    commit = "a" * 40
    cache = tmp_path / "cache" / "models--timm--tiny.test"
    snapshot = cache / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes((timm_model / name).read_bytes())
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", HUB_TEST, str(snapshot)]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = shown.stdout.splitlines()
    assert lines[0] == "timm cat dog", shown.stderr
    assert "it has no model.safetensors" in lines[1]


def test_a_hub_name_that_cannot_be_fetched_is_one_clear_error(monkeypatch, tmp_path):
    with pytest.raises(ModelRefused, match="cannot be fetched: LocalEntryNotFoundError"):
        fetch("hf-hub:timm/no-such-model-here")

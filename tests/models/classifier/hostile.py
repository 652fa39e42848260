"""Model files that carry a payload: each would write a marker file if anything in it ran."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import torch
from torch import nn


class Payload:
    """Writes ``marker`` when unpickled."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return (_write, (self.marker,))


def _write(marker):
    Path(marker).write_text("it ran")


class Net(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def pickled_module(path, marker):
    torch.save({"net": Net(), "x": Payload(marker)}, path)


def state_dict_with_payload(path, marker):
    torch.save({"weight": torch.zeros(3), "extra": Payload(marker)}, path)


def legacy_checkpoint(path, marker):
    torch.save({"x": Payload(marker)}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path, marker):
    path.write_bytes(pickle.dumps(Payload(marker)))


def protocol_zero_pickle(path, marker):
    path.write_bytes(pickle.dumps(Payload(marker), protocol=0))


def joblib_like(path, marker):
    import zlib

    path.write_bytes(zlib.compress(pickle.dumps(Payload(marker))))


def torchscript(path, marker):
    torch.jit.save(torch.jit.script(Net()), str(path))


def exported(path, marker):
    buffer = io.BytesIO()
    torch.save(((Payload(marker),), {}), buffer)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/models/model.json", "{}")
        archive.writestr("m/data/sample_inputs/model.pt", buffer.getvalue())


def keras(path, marker):
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": f"open({str(marker)!r}, 'w')"}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(layer))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.9.0"}))
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")


def keras_h5(path, marker):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 600)


def keras_h5_behind_user_block(path, marker):
    path.write_bytes(b"\0" * 512 + b"\x89HDF\r\n\x1a\n" + b"\0" * 600)


def gguf(path, marker):
    path.write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\0" * 64)


def tflite(path, marker):
    path.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 64)


def tfjs(path, marker):
    path.write_text('{"format": "graph-model", "modelTopology": {}}')


def numpy_array(path, marker):
    path.write_bytes(b"\x93NUMPY\x01\0" + b"\0" * 64)


def tar(path, marker):
    import tarfile

    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model.pkl"))


def other_zip(path, marker):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def text(path, marker):
    path.write_text(f"open({str(marker)!r}, 'w')")


def empty(path, marker):
    path.write_bytes(b"")


REFUSED = {
    pickled_module: "pickled_module",
    state_dict_with_payload: "pickled_module",
    legacy_checkpoint: "state_dict",
    plain_pickle: "pickle",
    protocol_zero_pickle: "pickle",
    joblib_like: "compressed",
    torchscript: "torchscript",
    exported: "pt2",
    keras: "keras",
    gguf: "gguf",
    tflite: "tflite",
    tfjs: "tfjs",
    numpy_array: "numpy",
    tar: "tar",
    other_zip: "zip",
    text: "unknown",
    empty: "unknown",
}


REFUSED_IN_A_CHILD = {keras_h5: "keras_h5", keras_h5_behind_user_block: "keras_h5"}

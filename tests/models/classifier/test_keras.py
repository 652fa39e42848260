"""Keras files: judged by their config and their HDF5, then run in the sandbox."""

import json
import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from hostile import REFUSED_IN_A_CHILD

from runner.errors import ModelRefused
from runner.models.classifier import load_classifier
from runner.models.classifier.keras_checks import KerasProblem, check_archive, check_config, check_hdf5
from runner.models.classifier.preprocess import PreprocessSpec
from runner.models.classifier.sniff import sniff

LABELS = ["cat", "dog", "bird"]
FULL = {"labels": LABELS, "preprocess": PreprocessSpec(size=(16, 24), crop="none", range=(0, 255))}
MAKE = """
import sys, keras, numpy as np
keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    layers.Input((16, 24, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu"),
    layers.BatchNormalization(), layers.Dropout(0.5), layers.GlobalAveragePooling2D(),
    layers.Dense(3, activation="softmax"),
])
model.save("model.keras")
model.save("model.h5")
batch = np.random.default_rng(0).uniform(0, 255, (5, 16, 24, 3)).astype("float32")
np.save("probabilities.npy", keras.ops.convert_to_numpy(model(batch, training=False)))
with_lambda = keras.Sequential([layers.Input((4,)), layers.Lambda(lambda x: x * 2)])
with_lambda.save("lambda.keras")
with_lambda.save("lambda.h5")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder)}
    subprocess.run([sys.executable, "-c", MAKE], cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(("file", "format"), [("model.keras", "keras"), ("model.h5", "keras_h5")])
def test_a_keras_file_gives_what_keras_gives(file, format, made, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes((made / file).read_bytes())
    model = load_classifier(path, **FULL)
    batch = np.random.default_rng(0).uniform(0, 255, (5, 16, 24, 3)).astype(np.float32)
    np.testing.assert_allclose(np.exp(model.logits(batch)), np.load(made / "probabilities.npy"), rtol=1e-4)
    assert (model.format, model.preprocess.layout) == (format, "hwc")
    model.close()


def test_preprocessing_is_asked_for_with_the_size_of_the_model(made):
    with pytest.raises(ModelRefused, match=r"size: \[16, 24\], range"):
        load_classifier(made / "model.keras", labels=LABELS)


def test_a_lambda_is_refused_in_either_format(made):
    with pytest.raises(ModelRefused, match="Lambda layer, which holds a program"):
        load_classifier(made / "lambda.keras", **FULL)
    with h5py.File(made / "lambda.h5") as file, pytest.raises(KerasProblem, match="Lambda"):
        check_config(json.loads(file.attrs["model_config"]))


@pytest.mark.parametrize("make", REFUSED_IN_A_CHILD, ids=lambda make: make.__name__)
def test_damaged_hdf5_is_one_clear_error(make, tmp_path):
    make(tmp_path / "m.safetensors", None)
    assert sniff(tmp_path / "m.safetensors").format == REFUSED_IN_A_CHILD[make]
    if make.__name__ == "keras_h5":
        with pytest.raises(ModelRefused, match="cannot be loaded in its sandbox: damaged HDF5"):
            load_classifier(tmp_path / "m.safetensors", **FULL)


def dense(**changes):
    return {"module": "keras.layers", "class_name": "Dense", "config": {"units": 2}, "registered_name": None, **changes}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (dense(module="os", class_name="system"), "module 'os'"),
        (dense(module="keras.utils", class_name="get_file"), "module 'keras.utils'"),
        (dense(module="keras.src.utils.file_utils"), "not Keras' own"),
        (dense(module="keras.saving", class_name="load_model"), "not Keras' own"),
        (dense(module="keras_evil.layers"), "not Keras' own"),
        (dense(module="kerasx"), "not Keras' own"),
        (dense(module="keras.layers\n"), "not Keras' own"),
        (dense(module="keras.layers..os"), "not Keras' own"),
        (dense(module="builtins", class_name="eval"), "not Keras' own"),
        (dense(module=["os"]), "not Keras' own"),
        (dense(registered_name="Custom>Dense"), "registered object"),
        (dense(class_name="Custom>Dense"), "names the class"),
        (dense(class_name="__lambda__"), "names the class"),
        (dense(class_name=7), "names the class"),
        (dense(class_name="Lambda"), "Lambda"),
        (dense(class_name="TFOpLambda", module=None), "Lambda"),
        (dense(class_name="function", config="open"), "function by name"),
        (dense(class_name="TorchModuleWrapper"), "pickled network"),
        (dense(class_name="TFSMLayer"), "another model's folder"),
    ],
)
def test_a_config_that_names_what_is_not_keras_own_is_refused_at_any_depth(entry, said):
    check_config({"layers": [dense()]})
    for config in (entry, {"config": {"layers": [dense(), {"deep": [[entry]]}]}}):
        with pytest.raises(KerasProblem, match=said):
            check_config(config)


def rewritten(source, target, **entries):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, entries.get(name.partition(".")[0], old.read(name)))
        for name, data in entries.items():
            if name not in ("config", "metadata", "model"):
                new.writestr(name, data)
    return target


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"config": "[" * 100_000}, "recursion|nested|depth"),
        ({"config": "{"}, "refused: this is a Keras archive"),
        ({"assets/vocabulary": b"x"}, "expected config.json"),
        ({"../../escape": b"x"}, "expected config.json"),
        ({"model": b"\0" * 50_000_000}, "200 times its size"),
        ({"config": " " * 20_000_000 + "{}"}, "200 times its size"),
    ],
)
def test_a_strange_archive_is_refused_before_keras_sees_it(entries, said, made, tmp_path):
    with pytest.raises(ModelRefused, match=said):
        check_archive(rewritten(made / "model.keras", tmp_path / "m", **entries))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def external_link(file, other):
    file["x"] = h5py.ExternalLink(str(other), "/data")


def soft_link(file, other):
    file["x"] = h5py.SoftLink("/layers")


def external_storage(file, other):
    file.create_dataset("x", (3,), "f4", external=[(str(other), 0, 12)])


def virtual_dataset(file, other):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(str(other), "data", (3,))
    file.create_virtual_dataset("x", layout)


def cycle(file, other):
    file["layers/again"] = file["layers"]


def stored_type(file, other):
    file["x"] = np.dtype("f4")


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (external_link, "is a link"),
        (soft_link, "is a link"),
        (external_storage, "stored in another file"),
        (virtual_dataset, "stored in another file"),
        (cycle, "under two names"),
        (stored_type, "no dataset"),
    ],
)
def test_hdf5_that_reaches_out_of_its_file_is_refused(add, said, tmp_path):
    with h5py.File(tmp_path / "secret", "w") as other:
        other["data"] = np.arange(3, dtype="f4")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_group("layers")["w"] = np.zeros(3)
        check_hdf5(file)
        add(file["layers"] if add is not cycle else file, tmp_path / "secret")
    with h5py.File(tmp_path / "m.h5") as file, pytest.raises(KerasProblem, match=said):
        check_hdf5(file)

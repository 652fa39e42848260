import pickle
from pathlib import Path

import pytest
import torch
from hostile import REFUSED, Payload
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ModelRefused
from runner.models.classifier import load_classifier
from runner.models.classifier.formats import FORMATS, LOADED
from runner.models.classifier.preprocess import PreprocessSpec
from runner.models.classifier.sniff import pickle_globals, sniff
from runner.models.classifier.weights import _need_safe_unpickler

FULL = {
    "labels": ["cat", "dog", "bird"],
    "architecture": "runner:cifar_resnet20",
    "preprocess": PreprocessSpec(size=32),
}


@pytest.mark.parametrize("ending", [".safetensors", ".onnx", ".pt", ""])
@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_a_refused_format_stays_refused_under_any_name_and_nothing_runs(make, ending, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / f"model{ending}"
    make(path, marker)
    assert sniff(path).format == REFUSED[make]
    with pytest.raises(ModelRefused) as caught:
        load_classifier(path, **FULL)
    assert not marker.exists()
    assert caught.value.hint
    assert "weights_only" not in str(caught.value)


def test_the_payloads_would_run_when_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").read_text() == "it ran"


def test_declaring_another_format_does_not_open_a_file(tmp_path):
    from hostile import plain_pickle

    plain_pickle(tmp_path / "m", tmp_path / "marker")
    for declared in LOADED:
        with pytest.raises(ModelRefused, match="pickle"):
            load_classifier(tmp_path / "m", format=declared, **FULL)
    assert not (tmp_path / "marker").exists()


def test_every_refused_format_says_why_and_what_to_do():
    assert all(entry.refusal and entry.advice for entry in FORMATS.values() if not entry.loaded)


def test_a_missing_path_is_one_clear_error(tmp_path):
    with pytest.raises(ModelRefused, match="no such model"):
        load_classifier(tmp_path / "nothing")


def test_globals_of_a_pickle_are_read_without_running_it(tmp_path):
    for protocol in range(6):
        names = pickle_globals(pickle.dumps(Payload(tmp_path / "marker"), protocol))
        assert any(name.endswith("_write") for name in names)
    assert not (tmp_path / "marker").exists()


@given(st.binary(max_size=400))
def test_any_bytes_are_recognised_without_an_error(data):
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert sniff(Path(file.name)).format in FORMATS


@pytest.mark.parametrize("version", ["2.5.1", "2.9.0", "1.13.1+cu117"])
def test_old_torch_is_not_trusted_with_checkpoints(version):
    with pytest.raises(ModelRefused, match="cannot read checkpoints safely"):
        _need_safe_unpickler(version)


def test_this_torch_is_new_enough():
    _need_safe_unpickler(torch.__version__)

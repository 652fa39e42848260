"""What is refused in a torch.export archive before it is read, even when it was opted in."""

import io
import json
import zipfile

import pytest
import torch
from hostile import Payload

from runner.models.classifier.inside_torch import check_exported
from runner.models.sandbox.child import Refusal


def dumped(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def archive(**entries):
    buffer = io.BytesIO()
    good = {
        "archive_format": b"pt2", "models/model.json": b"{}",
        "data/weights/model_weights_config.json": json.dumps({"config": {"w": {"path_name": "weight_0", "use_pickle": False}}}).encode(),
        "data/sample_inputs/model.pt": dumped(((torch.zeros(1),), {})),
    }  # fmt: skip
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in {**good, **entries}.items():
            file.writestr(f"m/{name}", data)
    return buffer.getvalue()


def test_an_honest_archive_passes():
    check_exported(archive())


PICKLED = json.dumps({"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}).encode()
CASES = {
    "data/weights/model_weights_config.json": "use_pickle",
    "data/constants/model_constants_config.json": "use_pickle",
    "data/weights/other_weights_config.json": "use_pickle",
    "data/sample_inputs/model.pt": "more than tensors",
    "data/sample_inputs/other": "more than tensors",
    "data/weights/model.pt": "more than tensors",
    "data/constants/model.pt": "more than tensors",
    "data/aotinductor/model/x.so": "compiled library",
}


@pytest.mark.parametrize("name", CASES)
def test_what_would_unpickle_or_run_is_refused(name, tmp_path):
    marker = tmp_path / "marker"
    content = PICKLED if name.endswith(".json") else dumped(((Payload(marker),), {}))
    with pytest.raises(Refusal, match=CASES[name]):
        check_exported(archive(**{name: content}))
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused():
    data = io.BytesIO(archive())
    with zipfile.ZipFile(data, "a") as file:
        file.writestr("m/models/model.json", "{}")
    with pytest.raises(Refusal, match="same name"):
        check_exported(data.getvalue())


def test_the_format_writes_what_is_judged(tmp_path):
    """The names above are those of the installed torch."""
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "m.pt2")
    check_exported((tmp_path / "m.pt2").read_bytes())
    names = {name.partition("/")[2] for name in zipfile.ZipFile(tmp_path / "m.pt2").namelist()}
    assert {"data/weights/model_weights_config.json", "data/sample_inputs/model.pt"} <= names

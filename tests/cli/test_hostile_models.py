"""Models that mean harm, in one run: each is refused alone, nothing in them runs, the sound one is judged."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hostile_material import GIB, load, peak_of_children, picture, runner, tiny_network

PREPARED = {"labels": ["cat", "dog"], "preprocess": {"size": 8}}


class Payload:
    """Makes a file when unpickled, wherever that happens: it needs nothing but builtins."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (self.marker, "w"))


def costumes(folder: Path, marker: Path) -> None:
    """Files and folders that are none of the classifiers they look like."""
    builders = load("tests/models/classifier/hostile.py", "hostile_for_the_command_line")
    builders.Payload = Payload
    endings = [".safetensors", ".onnx", ".keras", ".jpg", ".pt", ""]
    for number, build in enumerate(builders.REFUSED):
        build(folder / f"{build.__name__}{endings[number % len(endings)]}", marker)
    bare = pickle.dumps(Payload(marker))
    (folder / "ev\x1b[31mil\n12:00:00 fine: done.onnx").write_bytes(bare + b" ")
    (folder / "zipped.onnx").write_bytes(gzip.compress(bare))
    (folder / "bomb.safetensors").write_bytes(gzip.compress(b"\0" * (64 << 20)))
    np.save(folder / "object.npy", np.array([Payload(marker)], dtype=object), allow_pickle=True)
    _external(folder)
    _folders(folder, marker, bare)


def _external(folder: Path) -> None:
    outside = folder.parent / "outside.bin"
    outside.write_bytes(b"\1" * 24)
    (folder / ".link.bin").symlink_to(outside)
    os.link(outside, folder / ".hard.bin")
    places = {
        "up": "../outside.bin",
        "root": str(outside),
        "device": "/dev/zero",
        "link": ".link.bin",
        "hard": ".hard.bin",
    }
    for name, place in places.items():
        (folder / f"external_{name}.onnx").write_bytes(tiny_network(2, external=place))


def _folders(folder: Path, marker: Path, bare: bytes) -> None:
    names = {"id2label": {"0": "cat", "1": "dog"}}
    own_code = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M"}}
    configs = {
        "own_code": json.dumps(own_code | names),
        "only_pickle": json.dumps({"model_type": "resnet"} | names),
        "deep": "[" * 100_000,
        "not_an_object": "[1, 2]",
        "climbing_timm": json.dumps({"architecture": "../../evil", "num_classes": 2}),
    }
    for name, text in configs.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)
        (folder / name / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
        (folder / name / "pytorch_model.bin").write_bytes(bare)
    (folder / "own_code/model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (folder / "climbing_timm/model.safetensors").write_bytes(bare)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "m").mkdir()
    costumes(folder / "m", folder / "marker")
    (folder / "fine.onnx").write_bytes(tiny_network(2))
    for number, group in enumerate(("cat/light/dark", "cat/light/bright", "dog/light/dark", "dog/light/bright")):
        (folder / "tree" / group).mkdir(parents=True)
        picture(number).save(folder / "tree" / group / "0.png")
    return folder


def test_the_payload_is_live(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps(Payload(tmp_path / "marker")))
    subprocess.run([sys.executable, "-c", "import pickle; pickle.load(open('p', 'rb'))"], cwd=tmp_path, check=True)
    assert (tmp_path / "marker").exists()


def test_every_costume_is_refused_alone_and_the_sound_model_is_judged(place: Path) -> None:
    paths = sorted(p for p in (place / "m").iterdir() if not p.name.startswith("."))
    models = {f"m{n}": {"provider": "file", "path": str(path), **PREPARED} for n, path in enumerate(paths)}
    models["sound"] = {"provider": "file", "path": "fine.onnx", **PREPARED}
    judge = {"uses": "c2b.assess", "images": "$tree", "gate": "warn"}
    steps = {f"judge-{name}": judge | {"classifier": f"${name}"} for name in models}
    tree = {"uses": "retrieval.folder_tree", "path": "tree", "task": "Tell."}
    (place / "s.yaml").write_text(yaml.safe_dump({"name": "x", "models": models, "steps": {"tree": tree} | steps}))
    said = runner("exec", "s.yaml", cwd=place)
    assert said.code == 1 and not (place / "marker").exists()
    lines = said.err.splitlines()
    for name, path in list(zip(models, paths, strict=False)):
        (refusal,) = [line for line in lines if f" judge-{name}: failed: " in line]
        assert len(refusal) < 900, path
    assert [line for line in lines if "judge-sound: done" in line]
    assert said.out.count("error: step 'judge-m") == len(paths)
    assert not [line for line in lines if line.startswith("12:00:00")], "a file name made a line of its own"
    assert peak_of_children() < 3 * GIB


@pytest.mark.parametrize("name", ["plain_pickle", "own_code", "deep", "not_an_object", "only_pickle"])
def test_a_dry_audit_touches_nothing_of_a_model(name: str, place: Path, tmp_path: Path) -> None:
    (model,) = (place / "m").glob(f"{name}*")
    call = ["audit", "--model", str(model), "--task", "Tell cats from dogs.", "--corpus", str(place / "tree")]
    classes = "$cat,\x1b[31mdog,<script>[bold]"
    said = runner(*call, "--classes", classes, "--dry-run", cwd=tmp_path, memory=4 * GIB)
    if name in ("deep", "not_an_object"):
        assert said.code == 2 and len(said.err.splitlines()) == 1 and "not a model configuration" in said.err
    else:
        assert said.code == 0, said.err
        (spec,) = tmp_path.glob("*.yaml")
        assert yaml.safe_load(spec.read_text())["steps"]["biases"]["classes"] == ["$" + classes.split(",")[0], *classes.split(",")[1:]]  # fmt: skip
    assert not (place / "marker").exists()

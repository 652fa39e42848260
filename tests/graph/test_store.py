"""An artifact is there whole or not at all, and never gives a number that was not saved."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graph_sample as sample
import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel

from runner.errors import StepError
from runner.graph import ArtifactStore, atomic
from runner.graph.store import DamagedArtifact, Meta
from runner.steps import Artifact, Table

META = Meta("sample.everything", "1", run="r", seconds=1.5, failures=(("x", "y"),), warnings=((None, "w"),))


class Point(BaseModel):
    x: float
    label: str | None = None


@dataclass(frozen=True)
class Values(Artifact):
    points: list[Point]
    mapping: dict[str, Any]
    number: float


@dataclass(frozen=True)
class More(Values):
    table: Table


@pytest.fixture
def store(workspace):
    return ArtifactStore(workspace)


def filled(store, key="k"):
    folder = store.workspace.staging(key) / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("a")
    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T, "n": np.arange(3)}
    table = pa.table({"x": [1, 2], "s": ["a", None]})
    return sample.Everything(sample.scores([1.0, 2.0]), table, weights, folder, 7)


@pytest.fixture
def saved(store):
    artifact = filled(store)
    store.save(artifact, "k", META, output=sample.Everything, step="all")
    return artifact


def test_what_was_saved_is_loaded(store, saved):
    loaded = store.load("k", sample.Everything)
    assert loaded.scores == saved.scores
    assert loaded.extra == saved.extra
    assert all(np.array_equal(loaded.weights[n], a) and loaded.weights[n].dtype == a.dtype
               for n, a in saved.weights.items())  # fmt: skip
    assert (loaded.files / "sub" / "a.txt").read_text() == "a"
    assert loaded.count == 7
    assert store.load_field("k", sample.Everything.outputs()["count"]) == 7
    assert store.tables("k") == {"encoder_score": saved.scores}
    assert store.verify("k") == []
    manifest = store.manifest("k")
    assert manifest.rows() == {"encoder_score": 2}
    assert manifest.meta.failures == [["x", "y"]] or manifest.meta.failures == (("x", "y"),)
    assert not (store.workspace.partial / "k").exists()


def test_values_come_back_as_annotated(store):
    artifact = Values([Point(x=1), Point(x=float("nan"), label="é")], {"a": [1, None], "f": float("inf")}, 2)
    store.save(artifact, "v", META, output=Values, step="s")
    loaded = store.load("v", Values)
    assert loaded.points[0] == Point(x=1) and np.isnan(loaded.points[1].x)
    assert loaded.mapping == artifact.mapping
    assert loaded.number == 2.0


def test_a_subclass_is_loaded_as_the_class_that_is_asked_for(store):
    store.save(More([], {}, 1.0, pa.table({"x": [1]})), "m", META, output=More, step="s")
    assert type(store.load("m", Values)) is Values
    assert store.load("m", More).table.num_rows == 1


def test_the_same_content_is_the_same_bytes(store):
    chunked = pa.concat_tables([sample.scores([1.0]), sample.scores([2.0])])
    whole = chunked.combine_chunks()
    for key, scores in (("a", chunked), ("b", whole)):
        values = [1.0, 2.0]
        store.save(sample.Numbers(values, scores), key, META, output=sample.Numbers, step="s")
    files = ("scores.parquet", "values.json")
    assert [(store.folder("a") / f).read_bytes() for f in files] == [
        (store.folder("b") / f).read_bytes() for f in files
    ]


def test_saving_again_replaces_and_leaves_nothing_behind(store, saved):
    store.save(filled(store), "k", META, output=sample.Everything, step="all")
    assert [p.name for p in store.workspace.artifacts.iterdir()] == ["k"]


# --- wrong returns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": sample.scores([1.0]).drop_columns(["value"])}, "table encoder_score: .* lacks column value"),
        ({"scores": sample.scores([1.0]).append_column("valeu", [[1.0]])}, "has no column valeu"),
        ({"scores": [1]}, "output 'scores': expected a pyarrow Table, found list"),
        ({"weights": {"w": [1.0]}}, "output 'weights': expected a numpy array under 'w', found list"),
        ({"weights": {"w": np.array(["x"])}}, "output 'weights': cannot be stored"),
        ({"weights": {"w": np.array([None])}}, "output 'weights': cannot be stored"),
        ({"files": Path("/tmp")}, "output 'files': expected the folder"),
        ({"count": "7"}, "output 'count': Input should be a valid integer"),
        ({"count": np.int64(7)}, "output 'count'"),
    ],
)
def test_a_wrong_output_is_named(store, change, says):
    import dataclasses

    artifact = dataclasses.replace(filled(store), **change)
    with pytest.raises(StepError, match=says) as caught:
        store.save(artifact, "k", META, output=sample.Everything, step="all")
    assert caught.value.step == "all"
    assert not store.exists("k")


def test_something_else_than_the_promised_class_is_refused(store):
    with pytest.raises(StepError, match="'s' must return Numbers, but returned int"):
        store.save(5, "k", META, output=sample.Numbers, step="s")


def test_numbers_of_another_width_are_fine_where_they_fit(store):
    scores = sample.scores([1.0])
    narrow = scores.set_column(scores.schema.get_field_index("n"), "n", pa.array([3], pa.int8()))
    store.save(sample.Numbers([1.0], narrow), "k", META, output=sample.Numbers, step="s")
    assert store.load("k", sample.Numbers).scores["n"].type == pa.int64()


def test_a_link_in_a_folder_is_refused(store):
    artifact = filled(store)
    (artifact.files / "link").symlink_to("/etc/passwd")
    with pytest.raises(StepError, match="link is neither file nor folder"):
        store.save(artifact, "k", META, output=sample.Everything, step="all")


# --- damage ----------------------------------------------------------------------------------------------------------

FILES = ["manifest.json", "values.json", "scores.parquet", "extra.parquet", "weights.safetensors", "files/sub/a.txt"]


def load_everything(store):
    store.load("k", sample.Everything)
    store.tables("k")


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_byte_is_found(store, saved, name):
    """Every byte of every file, at every eighth place."""
    path = store.folder("k") / name
    whole = path.read_bytes()
    for place in range(0, len(whole), 8):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(DamagedArtifact):
            load_everything(store)
        assert store.verify("k")
    path.write_bytes(whole)
    load_everything(store)


@pytest.mark.parametrize("name", FILES)
def test_a_short_or_missing_file_is_found_without_reading(store, saved, name):
    path = store.folder("k") / name
    path.write_bytes(path.read_bytes()[:-1])
    assert not store.exists("k")
    path.unlink()
    assert not store.exists("k")
    with pytest.raises(DamagedArtifact):
        load_everything(store)


def test_a_manifest_of_another_key_is_not_believed(store, saved):
    shutil.copytree(store.folder("k"), store.folder("other"))
    assert not store.exists("other")


# --- atomic writing --------------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    atomic.write_text(path, "old")
    for name in ("fsync", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                atomic.write_text(path, "new")
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_folder_is_replaced_whole(tmp_path):
    for number in range(2):
        source = tmp_path / "source"
        source.mkdir()
        (source / f"{number}").write_text(json.dumps(number))
        atomic.publish_folder(source, tmp_path / "target")
        assert [p.name for p in (tmp_path / "target").iterdir()] == [str(number)]
    assert [p.name for p in tmp_path.iterdir()] == ["target"]

"""Stored features: what the tensor and its metadata say reaches the right pictures, and what does not fit is refused."""

import json

import numpy as np
import pytest
import torch
from photographs import ColourEncoder, about, row
from pydantic import ValidationError

from results.tables import arrow_table
from runner.artifacts import Datasets
from runner.context import local_context
from runner.errors import DataError
from runner.nodes.classify.steps import FeatureFile, clip_zero_shot, import_features, knn, pool

NAMES = ["banded", "dotted"]


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "work")


@pytest.fixture
def images():
    rows = [
        row("dtd", split, f"{split}-{kind}-{n}", "dtd", f"{kind}/{kind}_{split}_{n}.jpg", kind, index)
        for split in ("test", "train")
        for index, kind in enumerate(NAMES)
        for n in range(3)
    ]
    return Datasets([about("dtd", NAMES)], [{"folder": "elsewhere"}], arrow_table("dataset_image", rows))


def stored(folder, images, split, *, dim=64, seed=0, change=None, target=None, vectors=None):
    """A pair as the official store writes it, rows in an order of their own."""
    rows = [r for r in images.images.to_pylist() if r["split"] == split]
    rng = np.random.default_rng(seed)
    rows = [rows[i] for i in rng.permutation(len(rows))]
    made = rng.normal(size=(len(rows), dim)) if vectors is None else vectors(rows)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    about_rows = {
        str(i): {"visual": f"./data/dtd/images/{r['uri']}", "target": target or r["target"]} for i, r in enumerate(rows)
    }
    if change is not None:
        made, about_rows = change(made, about_rows)
    tensor, metadata = folder / f"{split}.pt", folder / f"{split}_metadata.json"
    torch.save(torch.tensor(made, dtype=torch.float32), tensor)
    metadata.write_text(json.dumps(about_rows), "utf8")
    file = FeatureFile(dataset="dtd", split=split, features=str(tensor), metadata=str(metadata))
    return file, {r["sample_id"]: made[i] for i, r in enumerate(rows[: len(made)])}


def test_each_row_reaches_its_picture(ctx, images, tmp_path):
    train, known = stored(tmp_path, images, "train")
    test, more = stored(tmp_path, images, "test", seed=1)
    found = import_features(ctx, images=images, files=[train, test])
    rows = found.rows.to_pylist()
    assert len(rows) == 12
    for i, r in enumerate(rows):
        np.testing.assert_allclose(found.features["features"][i], (known | more)[r["sample_id"]], atol=1e-6)
    assert found.encoder["dim"] == 64 and found.encoder["family"] == "imported"
    drawn = pool(ctx, images=images, shots_per_class=2)
    assert len(knn(ctx, features=found, pool=drawn, k=1).answers) == 6
    with pytest.raises(DataError, match="in another space"):
        clip_zero_shot(ctx, encoder=ColourEncoder(), features=found)
    named = import_features(ctx, images=images, files=[train, test], encoder=ColourEncoder())
    assert len(clip_zero_shot(ctx, encoder=ColourEncoder(), features=named).answers) == 6


def test_features_without_unit_norm_are_scaled_with_a_warning(ctx, images, tmp_path):
    file, _ = stored(tmp_path, images, "train", change=lambda v, m: (v * 3, m))
    found = import_features(ctx, images=images, files=[file])
    np.testing.assert_allclose(np.linalg.norm(found.features["features"], axis=1), 1, atol=1e-6)
    assert [m["text"] for m in ctx.journal.messages] == ["6 of 6 features had no unit norm and were scaled"]


def bad_row(vectors, rows):
    vectors[2, 1] = np.nan
    return vectors, rows


def renamed(vectors, rows):
    rows["0"]["target"] = NAMES[1 - NAMES.index(rows["0"]["target"])]
    return vectors, rows


def twice(vectors, rows):
    rows["1"] = rows["0"]
    return vectors, rows


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v, m: (v[:-1], m), "train.pt has 5 rows and train_metadata.json 6"),
        (lambda v, m: (v, m | {"0": {"visual": m["0"]["visual"], "target": "striped"}}), "no class 'striped'"),
        (lambda v, m: (v, m | {"3": {"visual": 5}}), "row 3 must have the texts"),
        (lambda v, m: (v, {f"x{k}": r for k, r in m.items()}), "row 0 must have"),
        (
            lambda v, m: (v, {k: r | {"visual": f"no/{k}.jpg"} for k, r in m.items()}),
            "no stored picture is in the split",
        ),
        (lambda v, m: (v[0], m), "found \\(64,\\)"),
        (bad_row, "NaN, infinite or all zero"),
        (renamed, "in the store"),
        (twice, "two stored rows"),
    ],
)
def test_what_does_not_fit_is_refused(ctx, images, tmp_path, change, said):
    def apply(vectors, rows):
        return change(vectors, rows)

    file, _ = stored(tmp_path, images, "train", change=apply)
    with pytest.raises(DataError, match=said):
        import_features(ctx, images=images, files=[file])


def test_files_that_are_something_else_are_refused(ctx, images, tmp_path):
    file, _ = stored(tmp_path, images, "train")
    with pytest.raises(DataError, match="64 numbers a picture, the encoder colours has 65"):
        wider = ColourEncoder()
        wider.dim = 65
        import_features(ctx, images=images, files=[file], encoder=wider)
    with pytest.raises(DataError, match="there is no dataset 'other'"):
        import_features(ctx, images=images, files=[file.model_copy(update={"dataset": "other"})])
    with pytest.raises(DataError, match="in two of the files"):
        import_features(ctx, images=images, files=[file, file])

    class Payload:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save(Payload(), tmp_path / "train.pt")
    with pytest.raises(DataError, match="cannot be read as a tensor"):
        import_features(ctx, images=images, files=[file])
    (tmp_path / "train_metadata.json").write_text("[1, 2")
    torch.save(torch.eye(6), tmp_path / "train.pt")
    with pytest.raises(DataError, match="no JSON"):
        import_features(ctx, images=images, files=[file])
    with pytest.raises(ValidationError, match="no such file"):
        FeatureFile(dataset="dtd", features=str(tmp_path / "none.pt"), metadata=str(tmp_path / "none.json"))

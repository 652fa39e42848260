"""Generated people end to end on the real networks: reproducible, measured sanely, edited in one respect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runner import assets
from runner.context import StepContext, local_context
from runner.data.sources import open_source
from runner.data.sources.specs import FolderSource
from runner.errors import DataError
from runner.models.faces.classifiers import DlibGender, FaceRes
from runner.nodes.faces.steps import FaceParts, Faces, association, counterfactual, generate, parts

pytestmark = pytest.mark.assets


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_seed_draws_the_same_people_and_another_does_not(people: Faces, tmp_path: Path) -> None:
    again = generate(local_context(tmp_path / "a"), faces=2, seed=0)
    other = generate(local_context(tmp_path / "b"), faces=1, seed=1)
    first = bytes_of(people.pictures)
    assert bytes_of(again.pictures) == {name: first[name] for name in ("face-000000.jpg", "face-000001.jpg")}
    assert bytes_of(other.pictures)["face-000000.jpg"] != first["face-000000.jpg"]
    assert np.array_equal(again.styles["styles"], people.styles["styles"][:2])


def test_what_was_drawn_is_not_drawn_again(people: Faces, context: StepContext, tmp_path: Path, monkeypatch) -> None:
    from runner.nodes.faces.generator import FaceGenerator

    monkeypatch.setattr(FaceGenerator, "picture", None)  # a portrait that is not in the cache would fail
    fresh = local_context(tmp_path)
    fresh.items = context.items
    assert bytes_of(generate(fresh, faces=len(bytes_of(people.pictures))).pictures) == bytes_of(people.pictures)


def test_the_folder_is_an_image_source_and_the_reader_is_told(people: Faces, context: StepContext) -> None:
    source = open_source(FolderSource(folder=str(people.pictures)))
    assert [record.uri for record in source] == sorted(bytes_of(people.pictures))
    assert any("do not exist" in message["text"] for message in context.journal.messages)
    assert "FFHQ" in people.summary["note"]


def test_faces_have_skin_and_some_have_hair(measured: FaceParts, people: Faces) -> None:
    rows = measured.measurements.to_pylist()
    count = len(bytes_of(people.pictures))
    by_measure = {m: np.array([r["value"] for r in rows if r["measure"] == m], float) for m in ("hair", "skin", "nose")}
    assert all(len(values) == count for values in by_measure.values())
    assert 0.1 < by_measure["hair"].mean() < 0.5
    assert by_measure["hair"].max() < 0.75
    assert np.all((by_measure["skin"] > 0.1) & (by_measure["skin"] < 0.6))
    assert np.all((by_measure["nose"] > 0.005) & (by_measure["nose"] < 0.06))


def test_association_counts_everybody_once(measured: FaceParts, people: Faces, tmp_path: Path) -> None:
    dlib = DlibGender(assets.ensure("face-gender-dlib").path)
    ctx = local_context(tmp_path)
    found = association(ctx, classifiers={"dlib": dlib}, pictures=people.pictures, measurements=measured, bins=2)
    rows = found.rates.to_pylist()
    assert [row["bin"] for row in rows] == [0, 1]
    assert sum(row["n"] for row in rows) == len(bytes_of(people.pictures))
    assert rows[0]["high_edge"] == rows[1]["low_edge"]
    with pytest.raises(DataError, match="has no label 'cat'"):
        association(ctx, classifiers={"dlib": dlib}, pictures=people.pictures, measurements=measured, outcome="cat")
    with pytest.raises(DataError, match="nothing called 'beard'"):
        association(
            ctx, classifiers={"dlib": dlib}, pictures=people.pictures, measurements=measured, circumstances=["beard"]
        )


def test_pairs_are_drawn_measured_checked_and_asked(people: Faces, measured: FaceParts, context: StepContext) -> None:
    classifiers = {"dlib": DlibGender(assets.ensure("face-gender-dlib").path)}
    faceres = FaceRes(assets.ensure("faceres").path)
    found = counterfactual(
        context,
        people=people,
        measurements=measured,
        classifiers=classifiers,
        describer=faceres,
        pairs=2,
        hold=["skin"],
    )
    effects = {row["kind"]: row for row in found.effects.to_pylist()}
    assert set(effects) == {"edit", "placebo"}
    assert effects["placebo"]["pairs"] == 2
    assert effects["placebo"]["q_bh"] is None
    pairs = [row for row in found.pairs.to_pylist() if row["kind"] == "edit"]
    assert len(pairs) == effects["edit"]["people"] == 2
    assert effects["edit"]["pairs"] == sum(row["kept"] for row in pairs)
    for row in effects.values():
        assert row["both_yes"] + row["gained"] + row["lost"] + row["neither"] == row["pairs"]
        assert set(json.loads(row["side_effects"])) >= {"skin", "hat", "hair_luminance"}
    assert all((row["reason"] is None) == row["kept"] for row in pairs)
    assert all((row["thumbnail_less"] is not None) == row["kept"] for row in pairs)
    assert all(-1 <= row["identity_cosine"] <= 1 for row in pairs)


@pytest.mark.large
def test_more_hair_is_more_hair_and_little_else(tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    people = generate(ctx, faces=100)
    measured = parts(ctx, pictures=people.pictures)
    classifiers = {"dlib": DlibGender(assets.ensure("face-gender-dlib").path)}
    found = counterfactual(
        ctx, people=people, measurements=measured, classifiers=classifiers, pairs=20, hold=["skin", "cloth", "hat"]
    )
    effects = {row["kind"]: row for row in found.effects.to_pylist()}
    assert effects["edit"]["pairs"] >= 8
    assert effects["edit"]["measured_change"] > 0.7 * effects["edit"]["wanted_change"]
    assert abs(json.loads(effects["edit"]["side_effects"])["skin"][0]) < 0.6
    assert abs(effects["placebo"]["measured_change"]) < 0.5 * effects["edit"]["measured_change"]

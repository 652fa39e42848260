"""Parts of faces from labels, measures inside them, splits; and the step on a few real generated faces."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.artifacts import PartImages
from runner.context import StepContext, local_context
from runner.data.datasets.specs import Fractions
from runner.data.parts.reading import PartReader
from runner.errors import DataError
from runner.nodes.faces.part_masks import (
    ATTRIBUTES,
    DEFINES_PRESENCE,
    FACE_PARTS,
    measured,
    object_mask,
    part_masks,
    resized,
    split_at,
)
from runner.nodes.faces.part_steps import part_images
from runner.nodes.faces.parts import PARTS
from runner.nodes.faces.steps import Faces

NAMES = list(ATTRIBUTES)


def painted(blocks: dict[str, tuple[int, int, int]], size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 4 pixels a label, in its colour, on a white background."""
    labels, pixels = np.zeros((size, size), np.uint8), np.full((size, size, 3), 255, np.uint8)
    for i, (name, colour) in enumerate(blocks.items()):
        labels[4 * i : 4 * i + 4], pixels[4 * i : 4 * i + 4] = PARTS.index(name), colour
    return labels, pixels


def values(blocks: dict[str, tuple[int, int, int]]) -> dict[str, float]:
    return dict(zip(NAMES, measured(*painted(blocks), NAMES).tolist(), strict=True))


def test_both_sides_make_one_part_and_specks_none() -> None:
    labels, _ = painted({"l_eye": (0, 0, 0), "skin": (9, 9, 9), "r_eye": (0, 0, 0), "ear_ring": (1, 1, 1)})
    large = np.kron(labels, np.ones((3, 3), np.uint8))
    large[-1, -1] = PARTS.index("hat")  # 1 of 14,400 pixels
    masks = part_masks(large)
    assert masks.keys() == {"eyes", "skin"}
    assert masks["eyes"].sum() == 2 * 4 * 40 * 9 and not (masks["eyes"] & masks["skin"]).any()
    assert object_mask(large).sum() == 4 * 4 * 40 * 9 + 1


@given(st.permutations(sorted({*PARTS} - {"background"})).map(lambda names: names[:10]))
def test_no_pixel_belongs_to_two_parts(names: list[str]) -> None:
    labels, _ = painted(dict.fromkeys(names, (1, 2, 3)))
    masks = part_masks(labels)
    assert np.sum([*masks.values(), np.zeros_like(labels)], 0).max() <= 1
    assert masks.keys() == {part for part, held in FACE_PARTS.items() if {*held} & {*names}}


def test_measures_by_hand() -> None:
    found = values({
        "hair": (100, 50, 50), "skin": (200, 150, 100), "upper_lip": (150, 50, 100), "mouth": (0, 0, 0),
        "lower_lip": (150, 50, 100), "cloth": (10, 60, 30), "eye_glasses": (0, 0, 0),
    })  # fmt: skip
    assert found["hair: dark"] == pytest.approx((0.2126 * 100 + 0.7874 * 50) / 255)
    assert found["hair: reddish"] == pytest.approx(50 / 200)
    assert found["skin: reddish"] == pytest.approx(100 / 450)
    assert found["lips: red"] == pytest.approx(100 / 300)  # without the dark inside
    assert found["mouth: open"] == pytest.approx(1 / 3)
    assert found["cloth: colourful"] == pytest.approx(50 / 255)
    assert (found["glasses: worn"], found["hat: worn"]) == (1, 0)
    assert all(np.isnan(found[name]) for name in ("nose: light", "ears: light", "neck: light", "brows: dark"))


def test_a_measure_knows_only_its_own_part() -> None:
    blocks = dict.fromkeys(("hair", "skin", "l_brow", "l_eye", "nose", "mouth", "upper_lip", "neck", "cloth"), (90, 80, 70))  # fmt: skip
    before = values(blocks)
    for part, labels in FACE_PARTS.items():
        if blocks.keys() & {*labels}:
            after = values({name: (250, 10, 40) if name in labels else colour for name, colour in blocks.items()})
            changed = {name for name in NAMES if not np.isclose(before[name], after[name], equal_nan=True)}
            assert changed and {ATTRIBUTES[name].owner for name in changed} == {part}


def test_splits_are_at_the_median_of_train_or_where_they_are_said_to_be() -> None:
    names = ["skin: light", "hair: dark", "hat: worn", "neck: light"]
    nan = float("nan")
    measures = np.array(
        [[0.1, 0.1, 0, nan], [0.5, 0.5, 1, nan], [0.9, 0.9, 0, nan], [0.6, 0.2, 0, nan], [nan, nan, 1, 0.4]]
    )
    found = split_at(measures, names, np.array([True, True, True, False, False]), {})
    assert found.thresholds == {"skin: light": 0.5, "hair: dark": 0.5, "hat: worn": 0.5, "neck: light": 0.0}
    assert found.value.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    assert found.valid.tolist() == [[1, 1, 1, 0]] * 4 + [[0, 0, 1, 1]]
    assert split_at(measures, names, np.ones(5, bool), {"skin: light": 0.7}).value[:, 0].tolist() == [0, 0, 1, 0, 0]


def test_labels_are_resized_like_the_picture_they_were_made_of() -> None:
    labels = np.arange(16).reshape(4, 4)
    assert np.array_equal(resized(labels, 8, 8), np.kron(labels, np.ones((2, 2), int)))
    assert np.array_equal(resized(np.kron(labels, np.ones((2, 2), int)), 4, 4), labels)
    assert resized(labels, 2, 6).shape == (2, 6)


@pytest.fixture(scope="module")
def few(people: Faces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    for path in sorted(people.pictures.iterdir())[:4]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def made(few: Path, context: StepContext) -> PartImages:
    return part_images(context, pictures=few, split=Fractions(train=0.5, val=0.0, test=0.5))


@pytest.mark.assets
def test_faces_have_the_parts_that_faces_have(made: PartImages) -> None:
    reader = PartReader(made)
    assert reader.parts == list(FACE_PARTS) and sorted(reader.splits) == ["test", "test", "train", "train"]
    index = {part: i for i, part in enumerate(reader.parts)}
    names = made.about["attributes"]
    for row, picture in reader.pictures(range(4)):
        found = reader.masks(row)
        assert found.masks.shape[1:] == np.asarray(picture).shape[:2] and found.masks.sum(0).max() == 1
        assert {"skin", "nose", "mouth"} <= {part for part, i in index.items() if found.visible[i]}
        rows = {part: np.argwhere(found.masks[i]).mean(0)[0] for part, i in index.items() if found.visible[i]}
        assert rows["nose"] < rows["mouth"] and rows.get("brows", 0) < rows["nose"]
        for a, name in enumerate(names):
            owner = ATTRIBUTES[name].owner
            assert made.labels["valid"][row, a] == (found.visible[index[owner]] or ATTRIBUTES[name].presence)
    assert made.about["excluded"] == {"glasses: worn": DEFINES_PRESENCE, "hat: worn": DEFINES_PRESENCE}
    assert "non-commercial" in made.datasets[0]["licence"]


@pytest.mark.assets
def test_thresholds_are_used_and_the_parser_is_not_run_twice(
    few: Path, context: StepContext, made: PartImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.nodes.faces.bisenet.parse", lambda *args: pytest.fail("parsed again"))
    given = {"skin: light": 0.0, "hair: dark": 0.0}
    half = Fractions(train=0.5, val=0.0, test=0.5)
    found = part_images(context, pictures=few, split=half, attributes=list(given), thresholds=given)
    assert found.labels["value"].tolist() == [[1, 0]] * 4
    assert found.masks.equals(made.masks)


@pytest.mark.parametrize("given", [{"attributes": ["nose: long"]}, {"attributes": ["hair: dark"], "thresholds": {"skin: light": 0.5}}])  # fmt: skip
def test_what_is_not_measured_is_said_before_anything_is_read(given: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing measures"):
        part_images(local_context(tmp_path), pictures=tmp_path / "nothing", **given)  # type: ignore[arg-type]

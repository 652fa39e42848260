"""CUB-200-2011 with parts, on a miniature in its published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from part_miniatures import BIRDS, CUB_PARTS, GROUPS, SIZE, cub, cub_answers, cub_points, cub_silhouette, mask

from runner.artifacts import PartImages
from runner.context import local_context
from runner.data.parts import cub as cub_layout
from runner.data.parts import cub_labels, keypoints
from runner.data.parts.loading import Options, load
from runner.data.parts.reading import PartReader
from runner.data.parts.specs import CubParts
from runner.errors import DataError

TRAIN, TEST = (0, 2), (1, 3)
ORDER = [*TRAIN, *TEST]
"""Places of the birds in the order of the result."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cub(tmp_path_factory.mktemp("cub"))


def _load(folder: Path, tmp_path: Path, **more: Any) -> PartImages:
    return load(local_context(tmp_path / "run"), CubParts(cub=str(folder), **more), Options(thumbnails=0))


def _merged(name: str) -> int:
    return cub_layout.PARTS.index(name.split()[-1])


def _assigned(bird: int, radius: float) -> np.ndarray:
    """Part of each pixel by going through pixels and keypoints one by one; -1 for none. Exact in integers (half pixels)."""
    points, silhouette = cub_points()[bird], cub_silhouette(bird)
    found = np.full(silhouette.shape, -1)
    for row in range(SIZE[1]):
        for column in range(SIZE[0]):
            if not silhouette[row, column]:
                continue
            near = [
                (int((2 * x - 2 * column) ** 2 + (2 * y - 2 * row) ** 2), _merged(CUB_PARTS[k]))
                for k, (x, y, seen) in enumerate(points.tolist())
                if seen
            ]
            distance, part = min(near)  # of equals the part that stands first
            found[row, column] = part if distance <= 4 * radius**2 else -1
    return found


def test_voronoi_masks_are_those_of_the_nearest_visible_keypoint(root: Path, tmp_path: Path) -> None:
    reader = PartReader(_load(root, tmp_path))
    ties = 0
    for row, bird in enumerate(ORDER):
        width, height = BIRDS[bird][3][2:]
        expected = _assigned(bird, 0.35 * (width * height) ** 0.5)
        found = reader.masks(row)
        for part in range(12):
            assert (found.masks[part] == (expected == part)).all()
        assert (found.object == (cub_silhouette(bird) > 0)).all()
        ties += len(np.unique(expected))
    assert ties > 12, "the miniature must hold several parts"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_voronoi_splits_the_foreground_within_the_radius(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points, owner = rng.uniform(0, 12, (count, 2)), rng.integers(0, 3, count)
    foreground, radius = rng.random((11, 13)) < 0.7, float(rng.uniform(0.5, 9))
    masks = keypoints.voronoi(points, owner, 3, foreground, radius)
    rounds = keypoints.discs(points, owner, 3, foreground, radius)
    assert (masks.sum(0) <= 1).all() and (masks.any(0) == rounds.any(0)).all()
    assert not (masks & ~rounds).any(), "a pixel of a part is within the radius of it"
    swapped = keypoints.voronoi(points[::-1], owner[::-1], 3, foreground, radius)
    assert (swapped == masks).all(), "the order of the keypoints does not matter"


def test_a_tie_goes_to_the_part_that_stands_first() -> None:
    masks = keypoints.voronoi(np.array([[4.0, 0], [0, 0]]), np.array([0, 1]), 2, np.ones((1, 5), bool), 9)
    assert masks[:, 0].astype(int).tolist() == [[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]


def test_discs_do_without_segmentations(tmp_path: Path) -> None:
    folder = cub(tmp_path / "cub", segmentations=False)
    with pytest.raises(DataError, match=r"needs the masks of the birds(.|\n)*keypoint_disc"):
        _load(folder, tmp_path)
    images = _load(folder, tmp_path, part_source="keypoint_disc", disc_radius=0.2)
    reader = PartReader(images)
    x, y, seen = cub_points()[0, 1].tolist()
    assert seen
    left, top, width, height = (int(v) for v in BIRDS[0][3])
    box = np.zeros((SIZE[1], SIZE[0]), bool)
    box[top : top + height, left : left + width] = True
    assert (reader.masks(0).object == box).all()
    assert any("rectangle of its bounding box" in note for note in images.about["notes"])
    radius = 0.2 * 20
    rows, columns = np.indices((SIZE[1], SIZE[0]))
    assert (reader.masks(0).masks[1] == ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)).all()


def test_own_masks_of_parts(root: Path, tmp_path: Path) -> None:
    values = np.zeros((SIZE[1], SIZE[0]))
    values[2:5, 3:9] = 1
    mask(tmp_path / "masks/beak" / BIRDS[0][0].replace(".jpg", ".png"), values)
    reader = PartReader(_load(root, tmp_path, part_source="masks", part_masks=str(tmp_path / "masks")))
    assert (reader.masks(0).masks[1] == (values > 0)).all() and not reader.masks(1).masks.any()


def test_left_and_right_are_one_part_and_keypoints_stay(root: Path, tmp_path: Path) -> None:
    reader = PartReader(_load(root, tmp_path))
    points = cub_points()
    for row, bird in enumerate(ORDER):
        found = reader.masks(row)
        for part, name in enumerate(cub_layout.PARTS):
            seen = [points[bird, k] for k, own in enumerate(CUB_PARTS) if _merged(own) == part and points[bird, k, 2]]
            assert found.visible[part] == bool(seen), name
            if seen:
                assert found.keypoints[part].tolist() == seen[0][:2].tolist(), name


def test_reading_twice_gives_the_same_keypoints_and_boxes(root: Path) -> None:
    found = cub_layout.read_cub(CubParts(cub=str(root)))
    first, again = found.draw(1), found.draw(1)
    assert [row.keypoint for row in first] == [row.keypoint for row in again]
    assert all((a.mask == b.mask).all() for a, b in zip(first, again, strict=True))
    one, two = (cub_layout.read_birds(root / "CUB_200_2011") for _ in range(2))
    assert (one.box == two.box).all() and np.array_equal(one.points, two.points, equal_nan=True)


def test_owners_follow_the_groups_of_attributes(root: Path, tmp_path: Path) -> None:
    images = _load(root, tmp_path)
    owners = list(images.about["owners"].values())
    assert len(owners) == 312
    # id ranges, counted from 1
    for first, last, owner in (
        (1, 9, "beak"), (10, 24, "wing"), (25, 39, ["back", "nape", "wing"]), (40, 54, ["belly", "breast", "throat"]),
        (55, 58, "breast"), (74, 94, "tail"), (95, 105, ["crown", "forehead", "eye", "nape"]), (136, 149, "eye"),
        (150, 152, "beak"), (153, 167, "forehead"), (213, 217, "wing"), (218, 236, "global"), (249, 263, "global"),
        (264, 278, "leg"), (279, 293, "beak"), (294, 308, "crown"), (309, 312, "wing"),
    ):  # fmt: skip
        assert owners[first - 1 : last] == [owner] * (last - first + 1), (first, last)
    assert len(images.about["excluded"]) == GROUPS["head_pattern"]


def test_labels_of_pictures_are_valid_where_certain(root: Path, tmp_path: Path) -> None:
    answers = cub_answers()[ORDER]
    labels = _load(root, tmp_path).labels
    assert (labels["valid"] == (answers[..., 1] >= 3)).all()
    assert (labels["value"] == (answers[..., 0] * (answers[..., 1] >= 3))).all()
    assert (_load(root, tmp_path, min_certainty=4).labels["valid"] == (answers[..., 1] == 4)).all()


def test_labels_of_species(root: Path, tmp_path: Path) -> None:
    images = _load(root, tmp_path, label_mode="class")
    shares = np.random.default_rng(3).uniform(0, 100, (2, 312)) > 50
    assert (images.labels["value"] == shares[[0, 1, 0, 1]]).all() and images.labels["valid"].all()
    assert any("leakage is overstated" in note for note in images.about["notes"])


def test_voted_labels_by_hand() -> None:
    # 10 species with two training pictures each, two attributes; the second is in 9 species only
    present = np.zeros((21, 2), np.uint8)
    certainty = np.full((21, 2), 4, np.uint8)
    present[:20:2] = 1  # a tie in every species: present
    present[0, 1] = 0  # the first species lacks the second attribute
    certainty[1, 0] = 1  # not visible and absent: no vote
    certainty[20] = 1
    species = np.array([*np.repeat(np.arange(10), 2), 0])
    train = np.array([True] * 20 + [False])
    labels = cub_labels.voted_labels(cub_labels.Answers(present, certainty), species, train, 10)
    assert labels.kept.tolist() == [0] and labels.value.tolist() == [[1]] * 21


def test_a_vote_of_none_against_none_is_a_tie() -> None:
    nobody = cub_labels.Answers(np.zeros((20, 1), np.uint8), np.full((20, 1), 1, np.uint8))
    labels = cub_labels.voted_labels(nobody, np.repeat(np.arange(10), 2), np.ones(20, bool), 10)
    assert labels.kept.tolist() == [0] and labels.value.all()


def test_attributes_may_stand_inside_and_owners_be_ones_own(tmp_path: Path) -> None:
    folder = cub(tmp_path / "cub", inside=True)
    default = (Path(cub_layout.__file__).parent / "owner_tables/cub.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(default + "has_bill_shape::value_3: throat\n")
    images = _load(folder / "CUB_200_2011", tmp_path, owners=str(tmp_path / "mine.yaml"), exclude=["size::value_0"])
    assert images.about["owners"]["bill_shape::value_3"] == "throat"
    assert images.about["owners"]["bill_shape::value_2"] == "beak"
    assert list(images.about["excluded"]) == ["size::value_0"]


def test_owners_of_nothing_are_refused(root: Path, tmp_path: Path) -> None:
    default = (Path(cub_layout.__file__).parent / "owner_tables/cub.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(default.replace("bill_shape: beak", "beak_shape: beak"))
    with pytest.raises(DataError, match=r"do not exist: 'beak_shape'(.|\n)*'bill_shape'"):
        _load(root, tmp_path, owners=str(tmp_path / "mine.yaml"))


def _change(home: Path, file: str, old: str, new: str) -> None:
    text = (home / file).read_text()
    assert old in text
    (home / file).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("attributes/image_attribute_labels.txt", "\n1 3 ", "\n9 3 ", "row 3 names the picture 9"),
        ("attributes/image_attribute_labels.txt", "\n1 3 ", "\n1 2 ", "row 3 repeats picture 1, attribute 2"),
        ("attributes/image_attribute_labels.txt", "\n1 3 ", "\n1 x ", "line 3: expected 4 numbers"),
        ("attributes/image_attribute_labels.txt", "\n1 3 ", "\n1 ", "line 3: expected 4 numbers"),
        ("attributes/image_attribute_labels.txt", "\n1 3 0 ", "\n1 3 2 ", "row 3: is_present is 2"),
        ("attributes/image_attribute_labels.txt", "\n1 3 1 ", "\n1 3 nan ", "line 3: expected 4 numbers"),
        ("parts/parts.txt", "1 back", "1 hoof", "'hoof' is none of CUB's parts"),
        ("parts/part_locs.txt", "1 1 ", "1 99 ", "names the part 99"),
        ("bounding_boxes.txt", "20.0 20.0", "0.0 20.0", "picture 1 has a box without area"),
        ("images.txt", "001.Black_footed_Albatross/a.jpg", "../a.jpg", "leads elsewhere"),
        ("train_test_split.txt", "2 0", "2 1 0\n2 0", "lines for 4 pictures"),
        ("classes.txt", "1 001", "one 001", "line 1: expected a number and a text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    home = cub(tmp_path) / "CUB_200_2011"
    text = (home / file).read_text()
    if old not in text:  # which of the two answers stands there is drawn
        old, new = old.replace(" 0 ", " 1 ") if " 0 " in old else old.replace(" 1 ", " 0 "), new
    _change(home, file, old, new)
    with pytest.raises(DataError, match=message):
        _load(tmp_path, tmp_path)


def test_a_segmentation_of_another_size_is_refused(tmp_path: Path) -> None:
    home = cub(tmp_path) / "CUB_200_2011"
    mask(home / "segmentations" / BIRDS[1][0].replace(".jpg", ".png"), np.zeros((5, 5)))
    with pytest.raises(DataError, match=r"b.png has \(5, 5\)"):
        _load(tmp_path, tmp_path)

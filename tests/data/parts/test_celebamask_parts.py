"""CelebAMask-HQ with parts, on a miniature in its published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from part_miniatures import FACE_MASKS, FACE_NAMES, FACES, celeba_partition, celebamask, mask, write

from runner.artifacts import PartImages
from runner.context import local_context
from runner.data.parts.celebamask import PARTS, split_skin, united
from runner.data.parts.loading import Options, load
from runner.data.parts.owners import read_owners
from runner.data.parts.reading import PartReader
from runner.data.parts.specs import CelebaMaskParts
from runner.errors import DataError

OWNERS = "5_o_Clock_Shadow: lower_face\nEyeglasses: glasses\nMale: global\nSmiling: mouth\n"


def _load(root: Path, **more: Any) -> PartImages:
    (root / "owners.yaml").write_text(OWNERS)
    spec = CelebaMaskParts(celebamask_hq=str(root), owners=str(root / "owners.yaml"), **more)
    return load(local_context(root / "run"), spec, Options(thumbnails=0))


@pytest.fixture
def images(tmp_path: Path) -> PartImages:
    return _load(celeba_partition(celebamask(tmp_path)))


def test_the_split_is_that_of_celeba_through_the_mapping(images: PartImages) -> None:
    rows = images.images.select(["sample_id", "split"]).to_pylist()
    found = {row["sample_id"]: row["split"] for row in rows}
    assert found == {"0.jpg": "train", "3.jpg": "train", "2.jpg": "val", "1.jpg": "test"}
    assert images.about["notes"][-1] == "splits are those of CelebA"


def test_attributes_are_ones_own_values(images: PartImages) -> None:
    assert images.about["attributes"] == FACE_NAMES
    order = [int(name.split(".")[0]) for name in images.images["sample_id"].to_pylist()]
    assert images.labels["value"].tolist() == [[int(v > 0) for v in FACES[i]] for i in order]
    assert list(images.about["excluded"]) == ["Eyeglasses"] and "mask" in images.about["excluded"]["Eyeglasses"]


def test_files_are_united_to_parts_and_absent_files_are_absent_parts(images: PartImages) -> None:
    reader = PartReader(images)
    by_name = {name: reader.masks(row) for row, name in enumerate(reader.sample_ids)}
    first, second, third, last = (by_name[f"{i}.jpg"] for i in range(4))
    eyes = (FACE_MASKS[0]["l_eye"] > 0) | (FACE_MASKS[0]["r_eye"] > 0)
    assert (first.masks[PARTS.index("eyes")] == eyes).all()
    assert [p for p, seen in zip(PARTS, first.visible, strict=True) if seen] == [
        "eyes",
        "nose",
        "upper_face",
        "lower_face",
    ]
    assert second.masks[PARTS.index("mouth")].sum() == 8 and not second.visible[PARTS.index("nose")]
    assert third.masks[PARTS.index("hair")].sum() == 64 and not third.visible[PARTS.index("upper_face")]
    assert last.masks[PARTS.index("neck")].sum() == 3 * 6 + 2
    assert first.masks.shape[1:] == (16, 16) and images.about["mask_resize"] == "nearest"


def test_skin_holds_nothing_of_other_files(tmp_path: Path) -> None:
    """The file of the skin covers the whole face: brow, eye, nose, mouth and a strand of hair lie over it."""
    over = {
        "nose": (6, 9, 7, 9),
        "l_eye": (4, 5, 4, 6),
        "mouth": (10, 12, 5, 11),
        "hair": (0, 4, 0, 16),
        "r_brow": (3, 5, 9, 12),
    }
    files, rest = {}, np.zeros((16, 16), bool)
    for name, (top, bottom, left, right) in ({"skin": (2, 14, 3, 13)} | over).items():
        values = np.zeros((16, 16), bool)
        values[top:bottom, left:right] = True
        rest = values if name == "skin" else rest & ~values
        files[name] = tmp_path / f"{name}.png"
        mask(files[name], values * 255)
    drawn = {part: found for part, found, *_ in united(files)}
    upper, lower = drawn["upper_face"], drawn["lower_face"]
    assert (upper | lower == rest).all() and not (upper & lower).any()
    assert not upper[9:].any() and not lower[:9].any() and lower.any() and upper.any()


def test_the_lower_face_starts_below_the_nose(images: PartImages) -> None:
    skin = np.ones((6, 2), bool)
    nose = np.zeros_like(skin)
    nose[1:3] = True
    assert split_skin(skin, nose)[1][:, 0].tolist() == [False] * 3 + [True] * 3
    assert split_skin(skin, None)[1][:, 0].tolist() == [False] * 3 + [True] * 3
    upper, lower = split_skin(np.zeros((3, 3), bool), None)
    assert not upper.any() and not lower.any()


def test_without_a_partition_splits_are_dealt_out_and_said_to_be(tmp_path: Path) -> None:
    root = celebamask(tmp_path)
    images = _load(root, fractions={"train": 0.5, "val": 0, "test": 0.5})
    assert "dealt out by seed 0" in images.about["notes"][-1]


def test_every_attribute_of_celeba_has_an_owner_among_the_parts() -> None:
    from runner.data.parts.found import OWNERS as TABLES

    owners = read_owners(TABLES / "celebamask_hq.yaml")
    assert len(owners) == 40 and {*owners.values()} <= {*PARTS, "global"}


def _no_folder(root: Path) -> None:
    (root / "CelebA-HQ-img").rename(root / "images")


def _odd_part(root: Path) -> None:
    (root / "CelebAMask-HQ-mask-anno/0/00000_skin.png").rename(root / "CelebAMask-HQ-mask-anno/0/00000_face.png")


def _odd_folder(root: Path) -> None:
    (root / "CelebAMask-HQ-mask-anno/0").rename(root / "CelebAMask-HQ-mask-anno/all")


def _grey(root: Path) -> None:
    mask(root / "CelebAMask-HQ-mask-anno/0/00000_skin.png", np.full((16, 16), 100))


def _cut_off(root: Path) -> None:
    path = root / "CelebAMask-HQ-attribute-anno.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))


def _foreign_name(root: Path) -> None:
    path = root / "CelebAMask-HQ-attribute-anno.txt"
    path.write_text(path.read_text().replace("2.jpg", "two.jpg"))


def _no_mapping(root: Path) -> None:
    (root / "CelebA-HQ-to-CelebA-mapping.txt").unlink()


def _short_mapping(root: Path) -> None:
    write(root / "CelebA-HQ-to-CelebA-mapping.txt", ["idx orig_idx orig_file", "0 119612 119613.jpg"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_folder, "no folder CelebA-HQ-img; found(.|\n)*unpacked folder"),
        (_odd_part, "'00000_face.png' is no mask of a known part(.|\n)*eye_g"),
        (_odd_folder, "expected folders 0 to 14 of 2000 faces, found 'all'"),
        (_grey, "00000_skin.png: a mask holds 0 and 1.*'100'"),
        (_cut_off, "announces 4 rows, but 3 follow"),
        (_foreign_name, "'two.jpg' is no picture"),
        (_no_mapping, "mapping.txt cannot be read"),
        (_short_mapping, "give no split to 3 pictures, such as 1.jpg"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Any, message: str) -> None:
    root = celeba_partition(celebamask(tmp_path))
    spoil(root)
    with pytest.raises(DataError, match=message):
        _load(root)

"""Pictures sorted into folders of classes and groups by their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval.steps import folder_tree
from runner.artifacts import PartImages
from runner.context import local_context
from runner.data.parts.building import MaskRow, part_images
from runner.data.parts.made_steps import PartTree, tree
from runner.errors import DataError

NAMES = ["cat", "dog", "hair: red", "not a hat", "hat"]


@pytest.fixture
def images(tmp_path: Path) -> PartImages:
    """24 pictures, the first 4 of train: cat, dog and red in turn; the last has no valid class, the one before two."""
    (tmp_path / "in/a b").mkdir(parents=True)
    value = np.array([[i % 2, 1 - i % 2, (i // 2) % 2, 0, i % 3 == 0] for i in range(24)], np.uint8)
    valid = np.ones_like(value)
    valid[23, :2], value[22, :2] = 0, 1
    for i in range(24):
        Image.new("RGB", (4, 4), (i, *(60 * value[i, :2]).tolist())).save(tmp_path / f"in/a b/{i}.PNG")
    pictures = [
        {"sample_id": f"a b/{i}", "split": "train" if i < 4 else "test", "source_id": "in", "uri": f"a b/{i}.PNG"}
        for i in range(24)
    ]
    return part_images(
        name="toy", object="toy", parts=["head"], attributes=NAMES, owners=dict.fromkeys(NAMES, "head"),
        pictures=pictures, corpus=[{"folder": str(tmp_path / "in"), "name": "in"}],
        masks=[MaskRow(0, "head", np.ones((4, 4), bool))], value=value, valid=valid,
    )  # fmt: skip


def run(images: PartImages, tmp_path: Path, **changes: Any) -> tuple[PartTree, list[str]]:
    ctx = local_context(tmp_path / "run")
    given: dict[str, Any] = {
        "targets": {"cat": "cat", "dog": "dog"},
        "groups": {"hair": {"red": "hair: red", "other": "not hair: red"}},
        "least": 5,
    } | changes
    return tree(ctx, images=images, **given), [message["text"] for message in ctx.journal.messages]  # type: ignore[attr-defined]


def files(folder: Path) -> dict[str, list[int]]:
    """Red values (numbers of the pictures) by folder."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            number = image.convert("RGB").getpixel((0, 0))[0]  # type: ignore[index]
        found.setdefault(path.parent.relative_to(folder).as_posix(), []).append(number)
    return found


def test_pictures_stand_where_their_labels_say(images: PartImages, tmp_path: Path) -> None:
    made, said = run(images, tmp_path)
    expected = {
        f"{target}/hair/{value}": [i for i in range(4, 22) if i % 2 == odd and (i // 2) % 2 == red]
        for target, odd in (("cat", 1), ("dog", 0))
        for value, red in (("red", 1), ("other", 0))
    }
    assert files(made.tree) == expected
    assert made.summary == {
        "split": "test", "pictures": {k: len(v) for k, v in expected.items()}, "used": 18, "left_out": 2,
    }  # fmt: skip
    assert len(said) == sum(len(v) < 5 for v in expected.values()) and all("too few" in text for text in said)
    found = folder_tree(local_context(tmp_path / "t"), path=made.tree, task="Which animal?")
    kept = {f"{r['target']}/{r['attribute']}/{r['value']}": r["kept"] for r in found.counts.to_pylist()}
    assert kept == made.summary["pictures"]


def test_a_limit_takes_the_same_ones_again_and_several_groups_share_pictures(
    images: PartImages, tmp_path: Path
) -> None:
    groups = {"hair": {"red": "hair: red", "other": "not hair: red"}, "hat": {"yes": "hat", "no": "not hat"}}
    made, _ = run(images, tmp_path, limit=2, groups=groups)
    assert {len(v) for v in files(made.tree).values()} == {2} and len(files(made.tree)) == 8
    again, _ = run(images, tmp_path / "again", limit=2, groups=groups)
    assert files(again.tree) == files(made.tree)


def test_an_attribute_that_is_called_not_is_itself(images: PartImages, tmp_path: Path) -> None:
    made, _ = run(images, tmp_path, groups={"hat": {"no": "not not a hat", "yes": "not a hat"}})
    assert made.summary["pictures"] == {"cat/hat/no": 9, "cat/hat/yes": 0, "dog/hat/no": 9, "dog/hat/yes": 0}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"targets": {"cat": "cat", "dog": "wolf"}}, "no attribute 'wolf'"),
        ({"groups": {"hair": {"red": "hair: red"}}}, "'hair' has one value"),
        ({"split": "val"}, "no picture of the split val"),
    ],
)
def test_what_cannot_be_sorted_is_said_before_anything_is(
    changes: dict[str, Any], says: str, images: PartImages, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=says):
        run(images, tmp_path, **changes)
    assert not list((tmp_path / "run").rglob("*.png"))

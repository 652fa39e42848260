"""PACO-LVIS and PartImageNet, on miniatures in their published layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from part_miniatures import paco, partimagenet

from runner.artifacts import PartImages
from runner.context import local_context
from runner.data.parts.loading import Options, load
from runner.data.parts.reading import PartReader
from runner.data.parts.specs import PacoParts, PartImageNetParts
from runner.errors import DataError


def _paco(root: Path, **more: Any) -> PartImages:
    values = {"pictures": str(root / "coco"), "object": "mug", "min_pictures": 1, "min_side": 10} | more
    return load(local_context(root / "run"), PacoParts(paco_lvis=str(root), **values), Options(thumbnails=1))


def test_every_box_becomes_a_picture_with_the_masks_cut_alike(tmp_path: Path) -> None:
    images = _paco(paco(tmp_path))
    reader = PartReader(images)
    assert reader.splits == ["train", "train", "test", "test"] and reader.parts == ["handle"]
    sizes = {row: picture.size for row, picture in reader.pictures(range(4))}
    # the box (6.2, 4, 19.3, 15.5) touches columns 6 to 25 and rows 4 to 19
    assert sizes == dict.fromkeys(range(4), (20, 16))
    found = reader.masks(0)
    handle = np.zeros((16, 20), bool)
    handle[2:8, 14:20] = True
    assert (found.masks[0] == handle).all() and found.object.all()
    assert all(small for small in images.images["thumbnail"].to_pylist()[::2])


def test_attributes_that_nobody_looked_at_are_not_valid(tmp_path: Path) -> None:
    images = _paco(paco(tmp_path))
    # wood and "whole mug: red" never differ; background attributes ("other") are none
    assert images.about["attributes"] == ["handle: red", "handle: blue"]
    assert images.about["owners"] == {"handle: red": "handle", "handle: blue": "handle"}
    assert images.labels["value"].tolist() == [[1, 0], [0, 1]] * 2 and images.labels["valid"].all()
    assert "2 with a side below 10 pixels, 2 without attributes" in images.about["notes"][-1]
    everything = _paco(tmp_path, annotated_only=False)
    assert everything.labels["valid"].sum(1).tolist() == [2, 2, 0, 2, 2, 0]


def _change(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _spoil(key: str, place: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[key][place].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_spoil("annotations", 1, attribute_ids="red"), "annotation 11: attribute_ids is no list"),
        (_spoil("annotations", 1, category_id=77), "annotation 11: its category 77 is no part"),
        (_spoil("annotations", 0, image_id=9), "annotation 10: its picture is not in the list"),
        (_spoil("annotations", 0, bbox=[1, 2]), "annotation 10: bbox is"),
        (
            _spoil("annotations", 0, segmentation={"size": [1, 1], "counts": [1]}),
            "annotation 10: its mask has the size",
        ),
        (_spoil("images", 0, file_name="../../x.jpg"), "leads elsewhere"),
        (_spoil("images", 0, file_name="train2017/x.jpg"), "missing"),
        (_spoil("images", 0, width="30"), "image 1: width is '30', expected int"),
        (_spoil("images", 0, width=31), "its size is not the one"),
        (_spoil("images", 0, file_name="train2017/000000000003.jpg"), "stands in train and in test"),
        (_spoil("annotations", 0, obj_ann_id=[1]), "annotations, entry 1: obj_ann_id .* is no number"),
        (_spoil("annotations", 1, id=10), "annotations, entry 2: id 10 stands twice"),
        (lambda content: content.pop("attr_type_to_attr_idxs"), "attr_type_to_attr_idxs"),
    ],
)
def test_what_is_wrong_in_paco_is_named(tmp_path: Path, change: Any, message: str) -> None:
    paco(tmp_path)
    _change(tmp_path / "paco_lvis_v1_train.json", change)
    context = local_context(tmp_path / "run")
    spec = PacoParts(
        paco_lvis=str(tmp_path), pictures=str(tmp_path / "coco"), object="mug", min_pictures=1, min_side=10
    )
    if "missing" in message:  # one picture that cannot be read costs no other
        images = load(context, spec, Options(thumbnails=0))
        assert len(images.images) == 3 and context.failures[0][0].startswith("train2017/x.jpg")
        assert PartReader(images).masks(0).masks[0].sum() == 36
        return
    with pytest.raises(DataError, match=message):
        load(context, spec, Options(thumbnails=0))


def test_classes_without_enough_pictures_or_that_do_not_exist(tmp_path: Path) -> None:
    paco(tmp_path)
    with pytest.raises(DataError, match=r"no class of objects is called 'cup'(.|\n)*'mug'"):
        _paco(tmp_path, object="cup")
    with pytest.raises(DataError, match=r"in 9 pictures of train(.|\n)*min_pictures"):
        _paco(tmp_path, min_pictures=9)


def test_parts_may_have_categories_of_their_own(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["categories"].pop()
        content["part_categories"] = [{"id": 6, "name": "handle", "supercategory": "PART"}]

    expected = _paco(paco(tmp_path / "a"))
    paco(tmp_path / "b")
    for split in ("train", "test"):
        _change(tmp_path / f"b/paco_lvis_v1_{split}.json", change)
    found = _paco(tmp_path / "b")
    assert found.about["parts"] == ["handle"] and found.masks.equals(expected.masks)


def test_a_folder_without_the_pictures_is_said_at_once(tmp_path: Path) -> None:
    paco(tmp_path)
    with pytest.raises(DataError, match=r"none of the first 4 pictures(.|\n)*pictures:"):
        _paco(tmp_path, pictures=str(tmp_path / "run"))


def _partimagenet(root: Path, kind: str = "Quadruped") -> PartImages:
    return load(
        local_context(root / "run"), PartImageNetParts(partimagenet=str(root), object=kind), Options(thumbnails=0)
    )


def test_partimagenet_has_masks_and_no_attributes(tmp_path: Path) -> None:
    images = _partimagenet(partimagenet(tmp_path))
    assert images.about["parts"] == ["head", "body"] and images.labels["value"].shape == (2, 0)
    found = PartReader(images).masks(0)
    head, body = np.zeros((16, 20), bool), np.zeros((16, 20), bool)
    head[3:8, 2:6] = True  # the box (2, 3, 4, 5) in place of a polygon of four numbers
    body[1:11, 8:18], body[12:16, 0:4] = True, True
    assert (found.masks == np.stack([head, body])).all()
    assert images.images["target"].to_pylist() == ["n0211", "n0211"]
    assert any("4 annotations" in note for note in images.about["notes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_spoil("annotations", 1, segmentation=[[1, 2]]), "annotation 2: a polygon of 2 numbers"),
        (_spoil("annotations", 1, image_id=5), "annotation 2: its picture is not in the list"),
        (_spoil("images", 0, height=17), "its annotations"),
        (_spoil("categories", 0, id="zero"), "categories, entry 1: id 'zero' is no number"),
    ],
)
def test_what_is_wrong_in_partimagenet_is_named(tmp_path: Path, change: Any, message: str) -> None:
    _change(partimagenet(tmp_path) / "annotations/train.json", change)
    with pytest.raises(DataError, match=message):
        _partimagenet(tmp_path)


def test_super_categories_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no part of 'Whale'(.|\n)*'Quadruped'"):
        _partimagenet(partimagenet(tmp_path), "Whale")
    with pytest.raises(DataError, match=r"annotations/train.json"):
        _partimagenet(tmp_path / "annotations")

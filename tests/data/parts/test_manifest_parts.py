"""Own data with parts: tables, masks, keypoints, owners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from part_miniatures import manifest, mask

from runner.artifacts import PartImages
from runner.context import local_context
from runner.data.parts.loading import Options, load
from runner.data.parts.reading import PartReader
from runner.data.parts.specs import ManifestParts
from runner.errors import DataError


def _load(root: Path, **more: Any) -> PartImages:
    spec = ManifestParts(manifest=str(root), **more)
    return load(local_context(root / "run"), spec, Options(thumbnails=0))


def _check(images: PartImages) -> None:
    assert images.images.select(["sample_id", "split"]).to_pylist() == [
        {"sample_id": "a", "split": "train"}, {"sample_id": "c", "split": "train"}, {"sample_id": "b", "split": "test"},
    ]  # fmt: skip
    assert images.about["attributes"] == ["red", "big"] and images.about["owners"] == {
        "red": "head",
        "big": ["head", "tail"],
    }
    assert images.labels["value"].tolist() == [[1, 0], [0, 0], [0, 1]]
    assert images.labels["valid"].tolist() == [[1, 0], [0, 0], [1, 1]]
    reader = PartReader(images)
    head = np.zeros((6, 8), bool)
    head[1:3, 2:5] = True
    first, second, last = (reader.masks(row) for row in range(3))
    assert (first.masks[0] == head).all() and first.visible.tolist() == [True, False]
    assert not second.visible.any() and not second.masks.any()
    assert (last.masks[0] == head).all() and last.visible.tolist() == [True, True]
    assert last.keypoints.tolist() == [[3.5, 2], [1, 2]]


def test_csv_tables(tmp_path: Path) -> None:
    _check(_load(manifest(tmp_path), object="bird", swaps=[["head", "tail"]]))


def test_parquet_tables_with_numbers(tmp_path: Path) -> None:
    root = manifest(tmp_path)
    for name in ("images", "parts", "attributes"):
        table = pacsv.read_csv(root / f"{name}.csv", parse_options=pacsv.ParseOptions(newlines_in_values=True))
        if name == "attributes":
            table = table.set_column(3, "valid", pa.array([value == 1 for value in table["valid"].to_pylist()]))
        pq.write_table(table, root / f"{name}.parquet")
        (root / f"{name}.csv").unlink()
    _check(_load(root))


def test_masks_without_attributes(tmp_path: Path) -> None:
    root = manifest(tmp_path)
    (root / "attributes.csv").unlink()
    (root / "owners.yaml").unlink()
    assert _load(root).labels["value"].shape == (3, 0)


def test_masks_of_another_size_need_a_rule(tmp_path: Path) -> None:
    root = manifest(tmp_path)
    mask(root / "masks/a_head.png", np.ones((3, 4)))
    with pytest.raises(DataError, match=r"parts.csv, line 2: the mask is \(3, 4\)(.|\n)*mask_resize: nearest"):
        _load(root)
    images = _load(root, mask_resize="nearest")
    assert PartReader(images).size(0) == (3, 4) and images.about["mask_resize"] == "nearest"


IMAGES, PARTS = "image_id,path,split\n", "image_id,part,mask_path,rle,keypoint_x,keypoint_y,visible\n"
ATTRIBUTES = "image_id,attribute,value\n"
TWO = "a,pictures/a.png,train\nb,pictures/b.png,test\n"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"attributes.csv": ATTRIBUTES + "a,red,1\nz,red,1\n"}, "attributes.csv, line 3: there is no picture 'z'"),
        ({"attributes.csv": ATTRIBUTES + "a,red,1\na,red,0\n"}, "line 3: this picture and attribute stand twice"),
        ({"attributes.csv": ATTRIBUTES + "a,red,maybe\n"}, "line 2: value is 'maybe'"),
        ({"attributes.csv": "image_id,attribute\n"}, "no single column 'value'"),
        ({"attributes.csv": ATTRIBUTES + "a,red,1\nb,re\u0007d,1\n"}, "cannot name an attribute"),
        ({"owners.yaml": "red: head\n"}, "owners.yaml: 1 attribute has no owner: 'big'"),
        ({"owners.yaml": "red: head\nbig: global\nhuge: head\n"}, "owners.yaml, line 3: owners name attributes that do not exist: 'huge'"),
        ({"owners.yaml": "red: hoof\nbig: global\n"}, "owners.yaml, line 1: .* part that does not exist: 'hoof'"),
        ({"images.csv": IMAGES + TWO + "a,pictures/c.png,test\n"}, "line 4: 'a' stands twice, in train and test"),
        ({"images.csv": IMAGES + TWO + "c,pictures/a.png,test\n"}, "a.png' in train and test"),
        ({"images.csv": IMAGES + "a,pictures/a.png,train\nb,pictures/b.png,dev\nc,pictures/c.png,test\n"}, "line 3: the split 'dev'"),
        ({"images.csv": IMAGES + TWO + "c,../c.png,test\n"}, "leads elsewhere"),
        ({"images.csv": IMAGES + TWO + "c,pictures/x.png,test\n"}, "'pictures/x.png'"),
        ({"images.csv": IMAGES + TWO + ",pictures/c.png,test\n"}, "line 4: image_id is empty"),
        ({"images.csv": "image_id,path,split,width\na,pictures/a.png,train,9\nb,pictures/b.png,test,\nc,pictures/c.png,test,\n"}, "line 2: width is '9', the picture's is 8"),
        ({"images.csv": IMAGES + "a,pictures/a.png,train\nb,pictures/b.png,train\nc,pictures/c.png,train\n"}, "no picture in test"),
        ({"images.csv": IMAGES + TWO + '"c\nd",pictures/c.png,test\n'}, "line 4: .* cannot name a picture"),
        ({"images.csv": "image_id,path,split,target\na,pictures/a.png,train,cat\nb,pictures/b.png,test,\"d\no\"\n"}, "line 3: .* cannot name a target"),
        ({"images.csv": IMAGES}, "images.csv: no row"),
        ({"parts.csv": PARTS}, "parts.csv: no row"),
        ({"attributes.csv": ATTRIBUTES}, "attributes.csv: no row.*Delete the file"),
        ({"images.csv": ""}, "images.csv cannot be read"),
        ({"parts.csv": PARTS + "z,head,,,1,1,\n"}, "parts.csv, line 2: there is no picture 'z'"),
        ({"parts.csv": PARTS + "a,head,,,1,1,\na,head,,,1,1,\nb,tail,,,1,1,\n"}, "this part has two masks"),
        ({"parts.csv": PARTS + "a,head,,,1,1,\nb,tail,,,x,1,\n"}, "line 3: a keypoint is two numbers"),
        ({"parts.csv": PARTS + "a,head,,,1,1,\nb,tail,,,1,,\n"}, "line 3: a keypoint is two numbers"),
        ({"parts.csv": PARTS + "a,head,,,8,6,\nb,tail,,,8.5,1,\n"}, r"line 3: the keypoint \(8.5, 1\) lies outside its picture of 8 x 6"),
        ({"parts.csv": PARTS + "a,head,,,1,-1,\nb,tail,,,1,1,\n"}, "line 2: the keypoint .* outside"),
        ({"parts.csv": PARTS + "a,head,,,nan,1,\nb,tail,,,1,1,\n"}, "line 2: the keypoint .* outside"),
        ({"parts.csv": PARTS + "a,head,,,1e300,1,0\nb,tail,,,1,1,\n"}, "no point"),
        ({"parts.csv": PARTS + "a,head,,,1,1,\nb,tail,,,,,\n"}, "line 3: a visible part has"),
        ({"parts.csv": PARTS + "a,head,,,1,1,\nb,tail,,{},,,\n"}, "line 3: rle is JSON"),
        ({"parts.csv": PARTS + 'a,head,,,1,1,\nb,tail,,"{""size"":[true,8],""counts"":[8]}",,,\n'}, "line 3: rle is JSON"),
        ({"parts.csv": PARTS + 'a,head,,,1,1,\nb,tail,,"{""size"":[6,8],""counts"":[47,true]}",,,\n'}, "line 3: its run lengths do not fill"),
        ({"parts.csv": PARTS + "a,head,,,1,1,\nb,tail,,,1,1,perhaps\n"}, "line 3: visible is 'perhaps'"),
        ({"parts.csv": PARTS + "a,head,,,1,1,\nb,tail,masks/no.png,,,,\n"}, "line 3: there is no file 'masks/no.png'"),
        ({"parts.csv": PARTS + "a,head,pictures/a.png,,1,1,\nb,tail,,,1,1,\n"}, "a mask is grey"),
        ({"parts.csv": PARTS + "a,head,owners.yaml,,1,1,\nb,tail,,,1,1,\n"}, "cannot be read as a mask"),
        ({"parts.csv": PARTS + "a,head,../a.png,,1,1,\nb,tail,,,1,1,\n"}, "leads elsewhere"),
        ({"parts.csv": PARTS + "a,whole,,,1,1,\nb,tail,,,1,1,\n", "owners.yaml": "red: tail\nbig: tail\n"}, "no part can be called 'whole'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, tables: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        _load(manifest(tmp_path, **tables))


def test_grey_masks_are_refused(tmp_path: Path) -> None:
    root = manifest(tmp_path)
    mask(root / "masks/a_head.png", np.full((6, 8), 77))
    with pytest.raises(DataError, match=r"a_head.png: a mask holds 0 and 1.*'77'"):
        _load(root)


def test_links_must_stay_below_the_folder(tmp_path: Path) -> None:
    root = manifest(tmp_path / "set")
    mask(tmp_path / "secret.png", np.ones((6, 8)))
    (root / "masks/a_head.png").unlink()
    (root / "masks/a_head.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="leads out of the folder"):
        _load(root)


def test_one_table_a_kind(tmp_path: Path) -> None:
    root = manifest(tmp_path)
    (root / "parts.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"found 'parts.parquet', 'parts.csv'"):
        _load(root)
    (root / "parts.csv").unlink()
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        _load(root)


def test_rows_of_parquet_are_counted_from_one(tmp_path: Path) -> None:
    root = manifest(tmp_path)
    (root / "images.csv").unlink()
    columns = {"path": ["pictures/a.png", "pictures/b.png"], "split": ["train", "test"]}
    for ids, message in ((["a", None], "row 2: image_id is empty"), (["a", "a"], "row 2: 'a' stands twice")):
        pq.write_table(pa.table({"image_id": ids, **columns}), root / "images.parquet")
        with pytest.raises(DataError, match=f"images.parquet, {message}"):
            _load(root)


def test_a_point_of_a_hidden_part_may_lie_anywhere(tmp_path: Path) -> None:
    images = _load(manifest(tmp_path, **{"parts.csv": PARTS + "a,head,,,-1,-1,0\nb,tail,,,1,1,\n"}))
    assert images.masks["visible"].to_pylist() == [False, True]

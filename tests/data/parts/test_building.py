"""Pictures with parts from plain rows: what comes out, and everything that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from runner.artifacts import PartImages
from runner.data.parts import rle
from runner.data.parts.building import MaskRow, as_mask, part_images
from runner.data.parts.owners import read_owners
from runner.data.parts.reading import PartReader
from runner.errors import DataError


def _square(top: int, left: int, side: int = 2) -> np.ndarray:
    mask = np.zeros((6, 8), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    """Three pictures, test before train, so that the order must change."""
    names = ("c", "a", "b")
    for number, name in enumerate(names):
        Image.new("RGB", (8, 6), (number * 40, 10, 10)).save(tmp_path / f"{name}.png")
    splits = dict(zip(names, ("test", "train", "train"), strict=True))
    return {
        "name": "toy",
        "object": "toy",
        "parts": ["head", "tail"],
        "attributes": ["red head", "long tail", "big"],
        "owners": {"long tail": ["tail"], "red head": "head", "big": "global"},
        "pictures": [
            {"sample_id": n, "split": splits[n], "source_id": "toy", "uri": f"{n}.png", "target": f"kind {n}"}
            for n in names
        ],
        "corpus": [{"folder": str(tmp_path), "name": "toy"}],
        "masks": [
            MaskRow(0, "head", _square(0, 0)),
            MaskRow(1, 1, _square(2, 2) * np.uint8(255)),
            MaskRow(1, 0, _square(0, 4).astype(np.uint8), keypoint=(4.5, 0.5)),
            MaskRow(1, -1, _square(0, 0, 5)),
            MaskRow(2, "tail", keypoint=(1, 2)),
        ],
        "value": np.array([[1, 1, 1], [0, 1, 0], [1, 0, 0]]),
        "valid": np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1]]),
    }


def _made(plain: dict[str, Any], **change: Any) -> PartImages:
    return part_images(**{**plain, **change})


def test_pictures_masks_and_labels_take_the_order_of_the_splits(plain: dict[str, Any]) -> None:
    images = _made(plain, swaps=[("head", "tail")], excluded={"big": "no part"})
    assert images.images["sample_id"].to_pylist() == ["a", "b", "c"]
    assert images.images["target"].to_pylist() == ["kind a", "kind b", "kind c"]
    assert images.labels["value"].tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]], "what is not valid is 0"
    assert images.labels["valid"].tolist() == [[1, 1, 1], [0, 1, 1], [1, 0, 1]]
    assert images.about["owners"] == {"red head": "head", "long tail": "tail", "big": "global"}
    reader = PartReader(images)
    first, second, last = (reader.masks(row) for row in range(3))
    assert (first.masks[1] == _square(2, 2)).all() and (first.masks[0] == _square(0, 4)).all()
    assert (first.object == _square(0, 0, 5)).all() and first.keypoints[0].tolist() == [4.5, 0.5]
    assert second.visible.tolist() == [False, True] and second.keypoints[1].tolist() == [1, 2]
    assert (last.masks[0] == _square(0, 0)).all() and not last.visible[1] and (last.object == last.masks[0]).all()


def test_numbers_of_originals_follow_their_pictures(plain: dict[str, Any]) -> None:
    images = _made(plain, groups=[7, 3, 7])
    assert images.images["sample_id"].to_pylist() == ["a", "b", "c"]
    assert images.labels["group"].tolist() == [3, 7, 7] and images.labels["group"].dtype == np.int32
    assert "group" not in _made(plain).labels
    assert images.attributes.equals(_made(plain).attributes)
    for wrong in ([1, 2], [0, -1, 2], [0.5, 1.0, 2.0], [[1, 2, 3]]):
        with pytest.raises(DataError, match="groups are 3 whole numbers from 0"):
            _made(plain, groups=wrong)


def test_attributes_are_counted_by_split(plain: dict[str, Any]) -> None:
    rows = _made(plain, owners={**plain["owners"], "big": ["head", "tail"]}).attributes.to_pylist()
    found = {(r["attribute"], r["split"]): (r["owner"], r["n_valid"], r["n_positive"]) for r in rows}
    assert found["red head", "train"] == ("head", 1, 0)
    assert found["long tail", "train"] == ("tail", 2, 1)
    assert found["big", "test"] == ("head+tail", 1, 1)
    assert len(rows) == 6


def test_pictures_without_attributes_need_one_split_only(plain: dict[str, Any]) -> None:
    bare = {"attributes": [], "owners": {}, "value": np.zeros((1, 0)), "valid": np.zeros((1, 0))}
    images = _made(plain, pictures=plain["pictures"][:1], masks=plain["masks"][:1], **bare)
    assert images.labels["value"].shape == (1, 0) and images.attributes.num_rows == 0


def test_thumbnails_come_from_the_corpus(plain: dict[str, Any]) -> None:
    thumbnails = _made(plain, thumbnails=1).images["thumbnail"].to_pylist()
    assert [small is not None for small in thumbnails] == [True, False, True]


def _picture(plain: dict[str, Any], place: int, **change: Any) -> dict[str, Any]:
    pictures = [{**picture, **(change if i == place else {})} for i, picture in enumerate(plain["pictures"])]
    return {"pictures": pictures}


WRONG: dict[str, tuple[Any, str]] = {
    "owner of an unknown part": (lambda p: {"owners": {**p["owners"], "big": "hed"}}, "'hed'.*\n.*'head'"),
    "owner of an unknown attribute": (lambda p: {"owners": {**p["owners"], "huge": "head"}}, "do not exist: 'huge'"),
    "attribute without owner": (lambda p: {"owners": {"big": "global"}}, "2 attributes have no owner: 'red head'"),
    "owner twice": (lambda p: {"owners": {**p["owners"], "big": ["head", "head"]}}, "names a part twice"),
    "owner of nothing": (lambda p: {"owners": {**p["owners"], "big": []}}, "owner of 'big'"),
    "part twice": (lambda p: {"parts": ["head", "head"]}, "part 'head' stands twice"),
    "reserved part": (lambda p: {"parts": ["head", "whole"]}, "'whole'"),
    "newline in a part": (lambda p: {"parts": ["head", "ta\nil"]}, "cannot name a part"),
    "unknown excluded": (lambda p: {"excluded": {"huge": "why"}}, "excluded names.*'huge'"),
    "swap of one": (lambda p: {"swaps": [("head", "head")]}, "a swap is a pair"),
    "no test split": (lambda p: {"pictures": p["pictures"][1:], "masks": []}, "no picture in test"),
    "newline in a picture": (
        lambda p: _picture(p, 0, sample_id="c\nd") | {"masks": [MaskRow(0, 9)]},
        "^c d, part 9: there is no such part",
    ),
    "in two splits": (lambda p: _picture(p, 0, sample_id="a"), "'a' in train and test"),
    "one file, two splits": (lambda p: _picture(p, 0, uri="a.png"), "in train and test"),
    "unknown split": (lambda p: _picture(p, 0, split="dev"), "the split 'dev'"),
    "unknown source": (lambda p: _picture(p, 0, source_id="x"), "no source 'x'"),
    "labels of another shape": (lambda p: {"value": np.zeros((3, 2))}, r"shape \(3, 2\)"),
    "label of 2": (lambda p: {"value": p["value"] * 2}, "a, attribute 'long tail': value is 2"),
    "mask of an unknown part": (lambda p: {"masks": [MaskRow(0, "wing")]}, "c, part 'wing': there is no such part"),
    "mask of a part beyond": (lambda p: {"masks": [MaskRow(0, 2)]}, "c, part 2: there is no such part"),
    "mask of no picture": (lambda p: {"masks": [MaskRow(3, 0)]}, "picture 3"),
    "mask twice": (lambda p: {"masks": [MaskRow(0, 0), MaskRow(0, "head")]}, "c, part 'head': this part has two"),
    "grey mask": (lambda p: {"masks": [MaskRow(0, 0, np.full((6, 8), 128))]}, "c, part 0.*0 and 255.*'128'"),
    "flat mask": (lambda p: {"masks": [MaskRow(0, 0, np.zeros(4, bool))]}, r"shape \(4,\)"),
    "sizes": (lambda p: {"masks": [MaskRow(0, 0, _square(0, 0)), MaskRow(0, 1, np.ones((2, 2)))]}, r"\(2, 2\)"),
    "no point": (lambda p: {"masks": [MaskRow(0, 0, keypoint=(float("nan"), 1))]}, "keypoint .nan, 1.0. is no point"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_with_its_place(plain: dict[str, Any], case: str) -> None:
    change, message = WRONG[case]
    with pytest.raises(DataError, match=f"(?s){message}") as error:
        _made(plain, **change(plain))
    # every message stays on few lines, whatever the names hold
    assert len(str(error.value).splitlines()) <= 2


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)))
def test_runs_give_the_mask_back(mask: np.ndarray) -> None:
    assert (rle.decode(rle.encode(mask), *mask.shape) == mask).all()


@given(hnp.arrays(np.uint8, (3, 4), elements=st.sampled_from([0, 1, 7, 255])))
def test_masks_hold_two_values_only(values: np.ndarray) -> None:
    mixed = bool((values == 7).any() or ((values == 1).any() and (values == 255).any()))
    if mixed:
        with pytest.raises(DataError, match="a mask holds 0 and 1"):
            as_mask(values, "here")
    else:
        assert (as_mask(values, "here") == (values > 0)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: head\na: tail\n", "line 2: no YAML: 'a' stands twice"),
        ("a: {b: c}\n", "the owner of 'a'"),
        ("- a\n", "expected a mapping"),
        ("a: &x [head]\nb: *x\n", "line 2: no YAML: aliases are not read"),
        ("a: !!python/object:os.system {}\n", "line 1: no YAML"),
        ("a: [\n", "no YAML"),
        ("a: head\n? [b, c]\n: tail\n", "line 2: no YAML: a key is a text"),
        ("a: head\n? {b: c}\n: tail\n", "line 2: no YAML: a key is a text"),
        ("a: head\nb: yes\n", r"line 2: the owner of 'b' (.|\n)*quotes"),
        ("a: head\n\nb:\n", "line 3: the owner of 'b'"),
    ],
)
def test_owners_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "owners.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_owners(path)


def test_keypoints_outside_are_warned_of(plain: dict[str, Any]) -> None:
    heard: list[tuple[str, str]] = []
    here = {"masks": [
        MaskRow(0, "head", _square(0, 0), keypoint=(8, 6)), MaskRow(0, "tail", keypoint=(8.5, 1)), MaskRow(1, 0, keypoint=(99, 1)),
        MaskRow(1, 1, keypoint=(1, -1)), MaskRow(2, "tail", keypoint=(-1, -1), visible=False),
    ]}  # fmt: skip
    _made(plain, **here, warn=lambda text, item: heard.append((text, item)))
    _made(plain, **here, mask_resize="nearest", warn=lambda text, item: heard.append((text, item)))
    assert [text.split(":")[0] for text, _ in heard] == [
        "2 keypoints lie outside the picture, first in c",
        "1 keypoint lies outside the picture, first in a",
    ]


@pytest.mark.parametrize("point", [(1e39, 0), (0, -1e300), (0, float("nan")), (0, float("inf"))])
def test_keypoints_are_numbers_of_single_precision(plain: dict[str, Any], point: tuple[float, float]) -> None:
    with pytest.raises(DataError, match=r"c, part 'head': its keypoint .* is no point"):
        _made(plain, masks=[MaskRow(0, "head", keypoint=point)])


def test_owners_are_read(tmp_path: Path) -> None:
    path = tmp_path / "owners.yaml"
    path.write_text("# mine\nred head: head\nstripes: [head, tail]\nsize: global\n5_o_Clock: tail\n")
    assert read_owners(path) == {
        "red head": "head", "stripes": ["head", "tail"], "size": "global", "5_o_Clock": "tail",
    }  # fmt: skip


def test_keys_are_texts_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "owners.yaml"
    path.write_text("yes: head\nnull: head\n007: head\n2020-13-01: head\n1.50: head\n<<: head\n")
    assert {*read_owners(path)} == {"yes", "null", "007", "2020-13-01", "1.50", "<<"}

"""COCO's masks: polygons, run lengths, compressed run lengths, and what hostile files hold instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from part_miniatures import column_runs

from runner.data.parts import coco
from runner.errors import DataError

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def _compressed(runs: list[int]) -> str:
    """COCO's text of run lengths, from its definition: 5 bits a character, least significant first, sign by the last one."""
    text = ""
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + (32 if more else 0))
    return text


@given(MASKS)
def test_run_lengths_give_the_mask(mask: np.ndarray) -> None:
    runs = column_runs(mask)
    assert (coco.decode(runs, *mask.shape, "here") == mask).all()
    packed = {**runs, "counts": _compressed(runs["counts"])}
    assert (coco.decode(packed, *mask.shape, "here") == mask).all()


def test_a_text_of_run_lengths_from_elsewhere() -> None:
    # 3 x 4, second column set: 3 zeros, 3 ones, 6 zeros
    mask = coco.decode({"size": [3, 4], "counts": "336"}, 3, 4, "here")
    assert mask.astype(int).tolist() == [[0, 1, 0, 0]] * 3


def _inside(polygon: np.ndarray, x: float, y: float) -> bool:
    """Even-odd rule for one point: crossings to its left, one edge at a time."""
    count = 0
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if (y0 <= y) != (y1 <= y):
            count += x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x
    return count % 2 == 1


@given(hnp.arrays(np.float64, st.tuples(st.integers(3, 7), st.just(2)), elements=st.floats(-4, 14).map(lambda v: round(v, 3) + 0.0001)))  # fmt: skip
def test_polygons_hold_the_pixels_whose_centre_is_inside(polygon: np.ndarray) -> None:
    found = coco.fill(polygon, 9, 11)
    for row, column in np.ndindex(9, 11):
        near = False
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            if y0 != y1:
                at = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                near |= abs(at - column - 0.5) < 1e-6  # rounding may decide either way
        assert near or found[row, column] == _inside(polygon, column + 0.5, row + 0.5)


def test_a_rectangle_fills_its_pixels() -> None:
    mask = coco.decode([[2, 1, 5, 1, 5, 4, 2, 4]], 6, 8, "here")
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:5] = True
    assert (mask == expected).all()
    assert (coco.decode([[2, 1, 5, 4]], 6, 8, "here", bbox=(2, 1, 3, 3)) == expected).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("x", "polygons or run lengths"),
        (None, "polygons or run lengths"),
        ([[1, 2, 3, 4]], "a polygon of 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a list of numbers"),
        ([[1, 2, 3, 4, 5, 1e300]], "a list of numbers"),
        ([[1, 2, 3, 4, 5, True]], "a list of numbers"),
        ([3], "a list of numbers"),
        ({"size": [3, 3], "counts": [12]}, r"size \[3, 3\]"),
        ({"size": [3, 4], "counts": [11]}, "do not fill"),
        ({"size": [3, 4], "counts": [11, True]}, "do not fill"),
        ({"size": [3, 4], "counts": [13, -1]}, "do not fill"),
        ({"size": [3, 4], "counts": [0] * 14}, "do not fill"),
        ({"size": [3, 4], "counts": None}, "do not fill"),
        ({"size": [3, 4], "counts": "3\n6"}, "is no part of compressed"),
        ({"size": [3, 4], "counts": "3o"}, "cut off"),
        ({"size": [3, 4], "counts": "o" * 100}, "is no part of compressed"),
        ({"size": [3, 4], "counts": "33"}, "do not fill"),
    ],
)
def test_hostile_segmentations_are_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"(?s)^here.*{message}"):
        coco.decode(segmentation, 3, 4, "here")


def test_a_polygon_without_end_is_refused() -> None:
    saw = np.stack([np.arange(100_000) % 2 * 400.0, np.arange(100_000) % 2 * 400.0], 1)
    with pytest.raises(DataError, match="no outline of a part"):
        coco.fill(saw, 400, 400)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[", "no JSON"), ("[" * 100_000, "no JSON"), ("[]", "expected an object"), ('{"images": [1]}', "under 'images'")],
)
def test_files_that_are_no_annotations(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        coco.read_json(tmp_path / "a.json", "images")


@given(st.lists(st.floats(-20, 40), min_size=4, max_size=4))
def test_boxes_are_clipped_to_whole_pixels(values: list[float]) -> None:
    x, y, w, h = values[0], values[1], abs(values[2]), abs(values[3])
    left, top, right, bottom = coco.pixels_of((x, y, w, h), 12, 17)
    assert 0 <= left <= right <= 17 and 0 <= top <= bottom <= 12
    assert left <= max(x, 0) and right >= min(x + w, 17)


def test_true_is_no_side_of_a_mask() -> None:
    with pytest.raises(DataError, match=r"size \[True, 4\]"):
        coco.decode({"size": [True, 4], "counts": [4]}, 1, 4, "here")

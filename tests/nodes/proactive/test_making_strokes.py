"""Paths as lines: lengths and places that geometry knows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.proactive.making.strokes import begun, flattened, ink, length, rotated


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("M0 0h3v4", [7]), ("M1 1l3 4", [5]), ("m1 1 3 4 0 2", [7]), ("M0,0H6V8L0 0z", [24]), ("M0 0h4m1 0h2", [4, 2]),
        ("M0 0h3v3h-3z", [12]), ("M0 0v.01", []), ("M0 0C1 0 2 0 3 0", [3]), ("M0 0Q2 0 4 0T8 0", [8]), ("M0 0c1 0 2 0 3 0s2 0 3 0", [6]),
        ("M2 0a2 2 0 1 1 4 0", [2 * math.pi]), ("M2 0a2 2 0 114 0", [2 * math.pi]), ("M2 0a2 2 0 0 1 2 2", [math.pi]),
        ("M2 0a2 2 0 1 1 2 2", [3 * math.pi]), ("M0 0a1 1 0 0 0 6 0", [3 * math.pi]), ("M0 0a0 2 0 0 0 3 4", [5]),
    ],
)  # fmt: skip
def test_lines_are_as_long_as_geometry_says(path, expected):
    assert [length(line) for line in flattened(path)] == pytest.approx(expected, rel=4e-3)


def test_arcs_bend_to_the_side_that_their_flag_says():
    """Down is positive: with the sweep flag an arc from left to right passes above."""
    (above,), (below,) = flattened("M0 0a2 2 0 0 1 4 0"), flattened("M0 0a2 2 0 0 0 4 0")
    assert above[:, 1].min() == pytest.approx(-2) and below[:, 1].max() == pytest.approx(2)
    (tilted,) = flattened("M0 0a4 2 90 0 1 4 0")
    assert tilted[:, 1].min() == pytest.approx(-4, abs=0.05)


@pytest.mark.parametrize("path", ["h3", "M0 0L1", "3 4", "M0 0h", "M0 0 X", "M0 0z1", "M0 0a1 1 0 2 0 1 1", "M1"])
def test_text_that_is_no_path_is_refused(path):
    if path == "M0 0h":  # a command without numbers draws nothing
        assert flattened(path) == []
    else:
        with pytest.raises(ValueError, match="path"):
            flattened(path)


@given(
    st.floats(0, 1), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=9, unique=True)
)
def test_a_share_of_the_ink_is_that_share_of_the_length(share, corners):
    lines = [np.asarray(corners, float), np.asarray([[0.0, 0.0], [3.0, 4.0]])]
    drawn = ink(lines, share)
    assert sum(map(length, drawn)) == pytest.approx(share * sum(map(length, lines)), abs=1e-9)
    assert all(np.array_equal(line, whole) for line, whole in zip(drawn[:-1], lines, strict=False))


@given(st.floats(0, 0.999))
def test_a_closed_line_may_begin_anywhere_and_an_open_one_stays(start):
    closed = np.asarray([[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]], float)
    moved = rotated(closed, start)
    assert length(moved) == length(closed) and np.array_equal(moved[0], moved[-1])
    assert {*map(tuple, moved)} == {*map(tuple, closed)}
    assert rotated(closed[:-1], start) is not None and np.array_equal(rotated(closed[:-1], start), closed[:-1])


def test_part_of_a_line_ends_on_it():
    assert begun(np.asarray([[0.0, 0], [4, 0], [4, 4]]), 6).tolist() == [[0, 0], [4, 0], [4, 2]]

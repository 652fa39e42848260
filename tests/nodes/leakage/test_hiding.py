"""Regions of keypoints, drawn pictures, hidden pixels: against plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.leakage.hiding import draw_order, draw_pairs, hide, keypoint_radius, keypoint_regions, mean_colour

NAN = float("nan")


def slow_regions(points, height, width, radius):
    regions = torch.zeros((len(points), height, width), dtype=torch.bool)
    for p, (x, y) in enumerate(points):
        for row in range(height):
            for column in range(width):
                own = (column - x) ** 2 + (row - y) ** 2
                others = [(column - u) ** 2 + (row - v) ** 2 for q, (u, v) in enumerate(points) if q != p and u == u]
                regions[p, row, column] = x == x and own < radius**2 and all(own < other for other in others)
    return regions


point = st.one_of(
    st.just((NAN, NAN)), st.tuples(st.integers(-4, 28).map(lambda v: v / 2), st.integers(-4, 28).map(lambda v: v / 2))
)


@settings(max_examples=40, deadline=None)
@given(st.lists(point, min_size=1, max_size=5), st.integers(1, 12), st.integers(1, 12), st.integers(0, 6))
def test_regions_are_those_of_a_plain_loop(points, height, width, radius):
    found = keypoint_regions(torch.tensor(points, dtype=torch.float32), height, width, radius)
    assert torch.equal(found, slow_regions(points, height, width, radius))
    assert (found.sum(0) <= 1).all()  # no pixel belongs to two parts


def test_the_radius_and_ties_are_strict():
    alone = keypoint_regions(torch.tensor([[5.0, 5.0]]), 11, 11, 3)
    assert alone[0, 5, 7] and not alone[0, 5, 8] and alone[0, 3, 3]  # distances 2, 3 and sqrt(8)
    pair = keypoint_regions(torch.tensor([[2.0, 0.0], [6.0, 0.0]]), 1, 9, 9)
    assert pair[0, 0].tolist() == [True] * 4 + [False] * 5 and pair[1, 0].tolist() == [False] * 5 + [True] * 4
    same = keypoint_regions(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), 1, 9, 9)
    assert not same.any()


@pytest.mark.parametrize(
    ("height", "width", "share", "radius"), [(10, 10, 0.3, 3), (299, 299, 0.3, 89), (64, 20, 0.33, 6)]
)
def test_radius(height, width, share, radius):
    assert keypoint_radius(height, width, share) == radius


def test_hidden_pixels_have_the_colour_and_the_others_are_untouched():
    picture = torch.randint(0, 255, (3, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    regions = torch.zeros((2, 6, 5), dtype=torch.bool)
    regions[0, 1:3, 2:] = True
    hidden = hide(picture, regions, torch.tensor([1.0, 2.0, 3.0]))
    assert hidden.shape == (2, 3, 6, 5) and hidden.dtype == torch.float32
    assert torch.equal(hidden[1], picture.float())
    assert torch.equal(hidden[0][:, ~regions[0]], picture.float()[:, ~regions[0]])
    assert (hidden[0][:, regions[0]] == torch.tensor([[1.0], [2.0], [3.0]])).all()
    expected = [sum(plane.flatten().tolist()) / 30 for plane in picture]
    assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(mean_colour(picture).tolist(), expected, strict=True))


def drawn_set(drawn):
    return set(zip(*(column.tolist() for column in drawn), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_drawn_pictures_show_both_parts(data, n, parts, most, draws):
    cells = st.lists(st.lists(st.booleans(), min_size=parts, max_size=parts), min_size=n, max_size=n)
    visible = torch.tensor(data.draw(cells))
    orders = [draw_order([f"s{i}" for i in range(n)], 3, draw) for draw in range(draws)]
    drawn = draw_pairs(visible, orders, most, range(parts))
    rows = drawn_set(drawn)
    assert len(rows) == len(drawn.picture)  # none twice
    for q in range(parts):
        for k in range(parts):
            there = [i for i in range(n) if visible[i, q] and visible[i, k]]
            for draw in range(draws):
                mine = {i for i, part, hidden, d in rows if (part, hidden, d) == (q, k, draw)}
                assert mine <= set(there) and len(mine) == min(most, len(there))
                assert mine == {i for i, part, hidden, d in rows if (part, hidden, d) == (k, q, draw)}


def test_an_order_hangs_on_seed_and_draw_and_not_on_other_pictures():
    names = [f"bird {i}\n" for i in range(30)]
    order = draw_order(names, 1, 0).tolist()
    assert sorted(order) == list(range(30)) and order == draw_order(names, 1, 0).tolist()
    assert order != draw_order(names, 1, 1).tolist() and order != draw_order(names, 2, 0).tolist()
    fewer = [names[i] for i in draw_order(names, 1, 0)[:].tolist() if i != 7]
    without = names[:7] + names[8:]
    assert [without[i] for i in draw_order(without, 1, 0)] == fewer


def test_no_picture_and_no_part():
    assert len(draw_pairs(torch.zeros((0, 2), dtype=torch.bool), [draw_order([], 0, 0)], 5, [0, 1]).picture) == 0
    assert len(draw_pairs(torch.ones((4, 2), dtype=torch.bool), [draw_order(list("abcd"), 0, 0)], 5, []).picture) == 0
    assert keypoint_regions(torch.zeros((0, 2)), 4, 5, 3).shape == (0, 4, 5)

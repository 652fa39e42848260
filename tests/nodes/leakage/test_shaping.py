"""Loss terms of part maps: their values where they are known by hand, and that no map breaks them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runner.nodes.leakage import shaping


def _maps(seed: int, batch: int = 2, parts: int = 4, side: int = 6, sharp: float = 1.0) -> Tensor:
    draw = torch.randn(batch, parts, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.softmax(sharp * draw, 1)


def _one_hot(slots: Tensor, parts: int) -> Tensor:
    return torch.nn.functional.one_hot(slots, parts).movedim(-1, 1).double()


def test_entropy_of_one_hot_is_0_and_of_uniform_is_the_logarithm() -> None:
    one_hot = _one_hot(torch.randint(5, (3, 4, 4), generator=torch.Generator().manual_seed(0)), 5)
    assert float(shaping.entropy(one_hot)) == 0
    assert float(shaping.entropy(torch.full((2, 5, 3, 3), 0.2))) == pytest.approx(math.log(5), abs=1e-6)


def test_total_variation_counts_borders_by_the_actual_batch() -> None:
    slots = torch.zeros(1, 4, 6, dtype=torch.long)
    slots[:, :, 3:] = 1
    halves = _one_hot(slots, 3)
    # One border of four places, seen by two channels, over 24 pixels; the same for any number of such pictures.
    for batch in (1, 3):
        assert float(shaping.total_variation(halves.expand(batch, -1, -1, -1))) == pytest.approx(8 / 24)
    assert float(shaping.total_variation(torch.full((2, 3, 4, 4), 1 / 3))) == 0


def test_orthogonality_compares_parts() -> None:
    assert float(shaping.orthogonality(3 * torch.eye(4, 7)[None])) == pytest.approx(0, abs=1e-7)
    same = torch.ones(2, 4, 7)
    assert float(shaping.orthogonality(same)) == pytest.approx(1 - 1 / 4, abs=1e-6)
    assert float(shaping.orthogonality(torch.zeros(1, 4, 7))) == 0


def test_presence_is_0_when_every_part_fills_a_window_somewhere_in_the_batch() -> None:
    slots = torch.full((2, 6, 6), 2)
    slots[0, :3, :3] = 0
    slots[1, 3:, 3:] = 1
    maps = _one_hot(slots, 3)
    assert float(shaping.presence(maps)) == pytest.approx(0)
    assert float(shaping.presence(maps[:1])) == pytest.approx(0.5)
    assert float(shaping.presence(maps, "soft_constraint")) == pytest.approx(0)
    assert float(shaping.presence(maps, "tanh")) == pytest.approx(-math.log(math.tanh(1)), abs=1e-3)


def test_soft_constraint_by_its_formula() -> None:
    maps = torch.full((1, 2, 3, 3), 0.4, dtype=torch.float64)
    assert float(shaping.presence(maps, "soft_constraint")) == pytest.approx(0.6 * (0.9 * 0.4 + 0.1))


def test_an_absent_part_costs_a_bounded_sum() -> None:
    absent = torch.zeros(2, 3, 6, 6)
    absent[:, 2] = 1
    assert float(shaping.presence(absent, "tanh")) == pytest.approx(-math.log(shaping.FLOOR), rel=1e-4)
    gone = torch.zeros(2, 3, 6, 6)
    gone[:, 0] = 1
    for kind in ("enforced", "log"):
        assert float(shaping.background_presence(gone, kind)) == pytest.approx(-math.log(shaping.FLOOR), rel=1e-4)


def test_background_in_a_corner_is_enough_and_in_the_middle_is_not() -> None:
    corner, middle = (torch.zeros(1, 2, 7, 7), torch.zeros(1, 2, 7, 7))
    corner[0, 1, :3, :3] = 1
    middle[0, 1, 2:5, 2:5] = 1
    assert float(shaping.background_presence(corner)) == pytest.approx(0, abs=1e-6)
    assert float(shaping.background_presence(middle)) > 1
    assert float(shaping.background_presence(corner, "linear")) == pytest.approx(1 - 9 / 49)
    assert float(shaping.background_presence(corner, "mse")) == pytest.approx((1 - 9 / 49) ** 2)


def test_concentration_by_hand_and_of_nothing() -> None:
    maps = torch.zeros(1, 2, 1, 4, dtype=torch.float64)
    maps[0, 0, 0, [0, 2]] = 1
    # Two places at 0 and 2 of a width of 4: 1 from their middle, a quarter of the side.
    assert float(shaping.concentration(maps)) == pytest.approx((1 / 4) ** 2)
    nothing = torch.zeros(2, 3, 4, 4, requires_grad=True)
    torch.autograd.backward(shaping.concentration(nothing))
    assert nothing.grad is not None and bool(nothing.grad.isfinite().all())


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 50.0, 2000.0]), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_every_term_and_its_gradient_are_finite(seed: int, sharp: float, side: int) -> None:
    maps = _maps(seed, side=side, sharp=sharp).float().requires_grad_()
    terms = [
        shaping.total_variation(maps),
        shaping.entropy(maps),
        shaping.concentration(maps),
        shaping.equivariance(maps, maps),
    ]
    terms += [shaping.presence(maps, kind) for kind in ("max", "soft_constraint", "tanh", "soft_tanh")]
    terms += [shaping.background_presence(maps, kind) for kind in ("enforced", "log", "linear", "mse")]
    torch.autograd.backward(torch.stack(terms).sum())
    assert all(bool(term.isfinite()) and float(term.detach()) > -1e-6 for term in terms)
    assert maps.grad is not None and bool(maps.grad.isfinite().all())


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_slots_have_no_order(seed: int) -> None:
    maps = _maps(seed)
    mixed = torch.cat([maps[:, [2, 0, 1]], maps[:, 3:]], 1)
    for term in (
        shaping.total_variation,
        shaping.presence,
        shaping.entropy,
        shaping.concentration,
        shaping.background_presence,
    ):
        assert float(term(maps)) == pytest.approx(float(term(mixed)), abs=1e-9)


def test_equivariance_of_identical_maps_is_0_and_of_disjoint_ones_1() -> None:
    maps = _maps(0)
    still = shaping.Affine(torch.zeros(2), torch.zeros(2, 2), torch.ones(2))
    assert float(shaping.equivariance(maps, maps)) == pytest.approx(0, abs=1e-9)
    assert float(shaping.equivariance(maps, maps, still)) == pytest.approx(0, abs=1e-6)
    slots = torch.zeros(1, 4, 4, dtype=torch.long)
    assert float(shaping.equivariance(_one_hot(slots, 2), _one_hot(slots + 1, 2))) == pytest.approx(1)


def test_a_quarter_turn_is_exact_and_is_undone() -> None:
    planes = _maps(1, side=8)
    turn = shaping.Affine(torch.full((2,), math.pi / 2), torch.zeros(2, 2), torch.ones(2))
    turned = shaping.warp(planes, turn)
    # y points down: a positive angle turns clockwise on the screen.
    torch.testing.assert_close(turned, planes.rot90(-1, (2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(shaping.warp(turned, turn, back=True), planes, atol=1e-6, rtol=0)
    assert float(shaping.equivariance(planes, turned, turn)) == pytest.approx(0, abs=1e-6)


def test_a_shift_moves_right_and_down() -> None:
    planes = _maps(2, side=8)
    moved = shaping.warp(
        planes, shaping.Affine(torch.zeros(2), torch.tensor([[0.25, 0.0], [0.0, 0.25]]), torch.ones(2))
    )
    torch.testing.assert_close(moved[0, :, :, 2:], planes[0, :, :, :-2], atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[1, :, 2:], planes[1, :, :-2], atol=1e-6, rtol=0)


def test_random_affine_stays_within_its_bounds() -> None:
    drawn = shaping.random_affine(500, torch.Generator().manual_seed(0))
    assert float(drawn.angle.abs().max()) <= math.pi / 2
    assert float(drawn.shift.abs().max()) <= 0.11
    assert float(drawn.scale.min()) >= 0.8 and float(drawn.scale.max()) <= 1.4
    assert float(drawn.angle.abs().max()) > 1.4 and float(drawn.scale.max()) > 1.38

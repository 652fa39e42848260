"""What stays: counts, ties, protection, one ranking for all layers, targets."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import DataError
from runner.nodes.pruning.select import (
    UnitScores,
    keep_angular,
    keep_best,
    keep_count,
    keep_every_kth,
    keep_explicit,
    keep_global,
    keep_last,
    keep_layers,
    keep_random,
    keep_units,
    ranks,
    solve_ratio,
    target_params,
)

hundredths = st.integers(0, 99).map(lambda n: n / 100)
values = st.lists(st.integers(0, 4), min_size=1, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float32))


@settings(deadline=None)
@given(values, st.data())
def test_the_lowest_blocks_go_and_the_lower_index_first(scores: torch.Tensor, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(scores) - 1))
    order = sorted(range(len(scores)), key=lambda i: (float(scores[i]), i))
    assert keep_layers(scores, n) == sorted(order[n:])
    assert [i for _, i in sorted(zip(ranks(scores), range(len(scores)), strict=True))] == order


def test_protected_blocks_stay() -> None:
    scores = torch.tensor([0.0, 3.0, 2.0, 1.0, 0.5])
    assert keep_layers(scores, 2, protect_first=1, protect_last=1) == [0, 1, 4]
    with pytest.raises(DataError, match="protection leaves 3 of 5"):
        keep_layers(scores, 4, 1, 1)
    with pytest.raises(DataError, match="at least one has to stay"):
        keep_layers(scores, 5)


def test_the_run_that_turns_least_goes() -> None:
    distances = torch.tensor([0.3, 0.1, 0.1, 0.4])  # runs of 3 in 6 blocks
    assert keep_angular(distances, 3) == [0, 4, 5]
    assert keep_angular(distances, 3, protect_first=2) == [0, 1, 5]
    assert keep_angular(distances, 3, protect_last=3) == [3, 4, 5]


def test_orders_without_scores() -> None:
    assert keep_last(6, 2) == [0, 1, 2, 5]
    assert keep_every_kth(7, 3) == [0, 1, 3, 4, 6]
    assert keep_every_kth(7, 3, n_remove=1) == [0, 1, 3, 4, 5, 6]
    assert keep_explicit(4, [2, 0]) == [1, 3]
    with pytest.raises(DataError, match="no block 4"):
        keep_explicit(4, [4])
    assert set(keep_random(9, 5, seed=1)) < set(keep_random(9, 2, seed=1))
    assert keep_random(9, 5, seed=1) == keep_random(9, 5, seed=1)


# --- units ---------------------------------------------------------------------------------------------------------------


def test_counts_of_vicuna_7b() -> None:
    """32 heads of 128 channels and 11008 neurons: 15.3, 31.1 and 46.4 % of the language model in the published ranges."""
    heads = [keep_count(32, p, channels=128) for p in (0.3, 0.6, 0.9)]
    neurons = [keep_count(11008, p) for p in (0.3, 0.6, 0.9)]
    assert (heads, neurons) == ([23, 13, 4], [7705, 4403, 1100])
    shares = []
    for h, n in zip(heads, neurons, strict=True):
        removed = 18 * 4 * (32 - h) * 128 * 4096 + 17 * 3 * (11008 - n) * 4096
        shares.append(round(100 * removed / 6_738_415_616, 1))
    assert shares == [15.3, 31.1, 46.4]


def test_the_reference_loses_a_channel_to_binary_floats() -> None:
    assert keep_count(10240, 0.9) == 1024
    assert keep_count(10240, 0.9, compat="reference") == 1023


@settings(deadline=None)
@given(st.integers(1, 300), hundredths, st.sampled_from([1, 8, 64]))
def test_counts_are_those_of_exact_arithmetic(units: int, ratio: float, channels: int) -> None:
    exact = Fraction(Decimal(str(ratio)))
    removed = math.ceil(units * channels * exact)
    assert keep_count(units, ratio, channels=channels) == max(1, units - removed // channels)
    assert keep_count(units, float(exact / 3 * 3), channels=channels) == keep_count(units, exact, channels=channels)


@settings(deadline=None)
@given(st.integers(1, 300), hundredths, st.integers(1, 64))
def test_rounding_keeps_a_multiple_and_at_least_one(units: int, ratio: float, m: int) -> None:
    plain, kept = keep_count(units, ratio), keep_count(units, ratio, round_to=m)
    assert 1 <= kept <= units
    if plain == units or units < m:
        assert kept == units
    else:
        assert kept % m == 0
        assert kept == max(m, plain - plain % m)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_outside_its_range_is_refused(ratio: float) -> None:
    with pytest.raises(DataError, match="outside"):
        keep_count(4, ratio)


@settings(deadline=None)
@given(values, hundredths)
def test_the_best_units_stay_in_order(scores: torch.Tensor, ratio: float) -> None:
    kept = keep_units(scores, ratio).tolist()
    order = sorted(range(len(scores)), key=lambda i: (float(scores[i]), i))
    assert kept == sorted(order[len(scores) - len(kept) :])


def test_best_by_number() -> None:
    assert keep_best(torch.tensor([2.0, 9.0, 2.0, 5.0]), 3).tolist() == [1, 2, 3]


# --- all layers together ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(values, hundredths, st.sampled_from([1, 8]), st.sampled_from(["per_parameter", "zscore", "none"]))
def test_one_layer_and_kind_is_the_local_choice(
    scores: torch.Tensor, ratio: float, channels: int, normalize: str
) -> None:
    units = {(3, "kv_group"): UnitScores(scores, 24 * channels, channels)}
    kept = keep_global(units, ratio, normalize)  # type: ignore[arg-type]
    assert kept[3, "kv_group"].tolist() == keep_units(scores, ratio, channels=channels).tolist()


def test_heads_and_neurons_compare_by_parameter() -> None:
    """A head of 8 channels has 4 x 8 x 2 = 64 parameters, a neuron 6; the reference's plain comparison never takes a head."""
    heads, neurons = torch.tensor([64.0, 640.0]), torch.tensor([12.0, 18.0, 24.0, 30.0])
    units = {(0, "kv_group"): UnitScores(heads, 64, 8), (0, "neuron"): UnitScores(neurons, 6)}
    kept = keep_global(units, Fraction(64, 152))
    assert kept[0, "kv_group"].tolist() == [1]
    assert kept[0, "neuron"].tolist() == [0, 1, 2, 3]
    plain = keep_global(units, Fraction(64, 152), "none")
    assert plain[0, "kv_group"].tolist() == [0, 1]
    assert plain[0, "neuron"].tolist() == [3]


def test_z_scores_compare_layers_of_other_scales() -> None:
    units = {(0, "neuron"): UnitScores(torch.tensor([1.0, 2.0, 3.0]), 1), (1, "neuron"): UnitScores(torch.tensor([100.0, 200.0, 300.0]), 1)}  # fmt: skip
    assert [v.tolist() for v in keep_global(units, Fraction(1, 3), "zscore").values()] == [[1, 2], [1, 2]]
    assert [v.tolist() for v in keep_global(units, Fraction(1, 3), "none").values()] == [[2], [0, 1, 2]]


def test_budgets_by_kind_and_one_unit_of_each_stays() -> None:
    units = {
        (0, "kv_group"): UnitScores(torch.tensor([1.0, 2.0]), 64, 8),
        (0, "neuron"): UnitScores(torch.arange(10.0), 6),
        (1, "neuron"): UnitScores(torch.arange(10.0) + 50, 6),
    }
    kept = keep_global(units, {"kv_group": 0.0, "neuron": 0.5})
    assert list(kept) == list(units)
    assert [len(v) for v in kept.values()] == [2, 1, 9]
    assert kept[0, "neuron"].tolist() == [9]
    with pytest.raises(DataError, match="no ratio for neuron"):
        keep_global(units, {"kv_group": 0.1})


# --- targets -----------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 4000), st.integers(1, 50), st.integers(0, 10**6))
def test_the_least_ratio_that_reaches_the_target(units: int, each: int, fixed: int) -> None:
    def count(ratio: float) -> int:
        return fixed + each * keep_count(units, ratio)

    target = fixed + each * max(1, units // 2)
    ratio = solve_ratio(target, count)
    assert count(ratio) <= target
    assert ratio <= 2e-6 or count(ratio - 2e-6) > target
    assert solve_ratio(count(0), count) == 0


def test_a_target_out_of_reach_says_what_is_left() -> None:
    with pytest.raises(DataError, match="the largest cut leaves 1,001"):
        solve_ratio(900, lambda ratio: 1000 + keep_count(100, ratio))


def test_parameters_of_a_fraction() -> None:
    assert target_params(1000, 0.9) == 100
    with pytest.raises(DataError, match="target fraction"):
        target_params(10, 1.0)

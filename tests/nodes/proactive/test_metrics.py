"""Ratios by sample, their intervals, means over scenarios, paired differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.intervals import wilson_interval
from runner.nodes.proactive.metrics import (
    Ratio,
    accuracy,
    difference,
    discrimination,
    estimates,
    macro,
    macro_estimate,
    mean_of,
    proactive_rate,
    success_per_request,
)

ALONE = np.arange(40)


def one(ratio, group=None, **settings):
    return estimates([ratio], np.arange(len(ratio.above)) if group is None else np.asarray(group), **settings)[0]


def test_values_by_hand():
    assert accuracy([True, False, True, True]) == 75.0
    assert proactive_rate([1, 4, 2, 1]) == 1.0
    assert macro({"ROD": 10.0, "QD": 30.0, "COCO": float("nan")}) == 20.0
    assert one(discrimination([1.0, 0.5, 1.0], [0.0, 0.5, 0.25])).value == pytest.approx(100 * 1.75 / 3)
    assert one(success_per_request([1, 1, 0, 1], [0, 2, 3, 1])).value == pytest.approx(100 * 2 / 6)
    assert one(mean_of([2.0, np.nan, 4.0], 1.0, ends=None)).value == 3.0


def test_nothing_to_count_has_no_value():
    assert np.isnan([accuracy([]), proactive_rate([]), macro({}), macro_estimate([]).value]).all()
    assert np.isnan(one(mean_of([]))[:3]).all()
    assert np.isnan(one(mean_of([np.nan, np.nan]))[:3]).all()


def test_shares_of_samples_that_stand_alone_have_wilsons_interval():
    found = one(mean_of(ALONE < 13))
    low, high = wilson_interval(13, 40)
    assert (found.low, found.high) == pytest.approx((100 * float(low), 100 * float(high)))


@pytest.mark.parametrize(
    ("value", "ends", "low", "high"), [(0, (0, 5), 0, 5), (2, (0, 5), 0, 0), (5, (0, 5), -5, 0), (1, (-1, 1), -2, 0)]
)
def test_means_of_samples_that_agree_are_not_certain(value, ends, low, high):
    """Of 20 that agree at an end up to z^2 / (20 + z^2) may be at the other; between the ends of a count the rules made them agree."""
    found = one(mean_of(np.full(20, value), 1.0, ends=ends))
    share = 3.8415 / 23.8415
    assert (found.low, found.high) == pytest.approx((value + share * low, value + share * high), rel=1e-3)
    assert np.isnan(one(mean_of(np.full(20, value), 1.0, ends=None))[1:3]).all()


def test_wilson_counts_groups_where_all_or_none_are_right():
    """Ten drawings of four samples: certainty comes from ten, not from forty."""
    group = ALONE // 4
    assert one(mean_of(np.zeros(40)), group).high == pytest.approx(100 * float(wilson_interval(0, 10)[1]))
    assert one(Ratio(np.full(40, 3.0), np.full(40, 3.0)), group).low == pytest.approx(100 * float(wilson_interval(10, 10)[0]))  # fmt: skip


@given(st.integers(0, 10**6), st.integers(4, 30))
def test_bootstrap_of_groups_has_the_spread_of_group_means(seed, groups):
    """For groups of one size the variance of the resampled mean is that of the group means over their number."""
    values = np.random.default_rng(seed).gamma(2.0, 1.0, (groups, 3))
    found = one(mean_of(values.ravel(), 1.0, ends=None), np.repeat(np.arange(groups), 3), draws=4000)
    assert found.value == pytest.approx(values.mean())
    assert found.draws.std() == pytest.approx(values.mean(1).std() / np.sqrt(groups), rel=0.08)
    assert found.low <= found.value <= found.high


def test_one_group_alone_has_no_interval():
    found = one(mean_of(np.arange(6.0), 1.0, ends=None), np.zeros(6, np.int64))
    assert found.value == 2.5
    assert np.isnan([found.low, found.high]).all()


def test_the_same_seed_draws_the_same_and_ratios_share_their_draws():
    values = np.random.default_rng(1).random(40)
    first, second = (mean_of(v, 1.0, ends=None) for v in (values, 1 - values))
    a, b = estimates([first, second], ALONE, seed=(3, 4))
    assert (a.draws + b.draws == pytest.approx(1)) and (one(first, seed=(3, 4)).draws == a.draws).all()
    assert (one(first, seed=(3, 5)).draws != a.draws).any()


def test_paired_differences_see_what_both_have_in_common():
    values = np.random.default_rng(2).normal(0, 10, 40)
    first, second = (mean_of(v, 1.0, ends=None) for v in (values + 1 + 0.01 * (ALONE % 2), values))
    found = difference(first, second, ALONE)
    assert (found.value, found.low, found.high) == pytest.approx((1.005, 1.005, 1.005), abs=0.002)
    wide = difference(first, mean_of(values[::-1], 1.0, ends=None), ALONE)
    assert wide.high - wide.low > 3


def test_twins_may_differ_where_nobody_looked():
    """Alike in all of 40 samples: up to z^2 / (n + z^2) of others may differ, by everything. Of unknown ends nothing is known."""
    half = mean_of(ALONE % 2)
    found = difference(half, half, ALONE)
    off = 100 * 3.8415 / 43.8415
    assert found[:3] == pytest.approx((0, -off, off), rel=1e-3)
    unknown = mean_of(ALONE % 2, ends=None)
    assert np.isnan(difference(unknown, unknown, ALONE)[1:3]).all()


def test_differences_of_certain_ends_are_no_more_certain_than_the_ends():
    """40 of 40 against 0 of 40: each end has Wilson's limit z^2 / (n + z^2) off."""
    found = difference(mean_of(np.ones(40)), mean_of(np.zeros(40)), ALONE)
    off = 100 * 3.8415 / 43.8415
    assert (found.value, found.high) == (100, 100)
    assert found.low == pytest.approx(100 - np.hypot(off, off), rel=1e-3)


def test_one_certain_end_keeps_its_uncertainty():
    """20 of 20 against 19 of 20: Wilson's limits by hand, [83.89, 100] and [76.39, 99.11], joined as of independent shares."""
    found = difference(mean_of(np.ones(20)), mean_of(np.arange(20) < 19), np.arange(20))
    assert found.value == pytest.approx(5)
    assert found.low == pytest.approx(5 - np.hypot(16.11, 4.11), abs=0.01)
    assert found.high == pytest.approx(5 + 18.61, abs=0.01)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=20), min_size=1, max_size=7), st.integers(1, 5))
def test_the_mean_over_scenarios_does_not_hang_on_their_sizes(scenarios, times):
    once = macro_estimate([one(mean_of(np.array(s)), draws=50) for s in scenarios])
    more = macro_estimate([one(mean_of(np.array(s * (times if i == 0 else 1))), draws=50) for i, s in enumerate(scenarios)])  # fmt: skip
    expected = 100 * sum(sum(s) / len(s) for s in scenarios) / len(scenarios)
    assert once.value == pytest.approx(expected)
    assert more.value == pytest.approx(expected)


def test_limits_are_joined_where_draws_have_no_width():
    parts = [one(mean_of(np.zeros(n))) for n in (10, 40)]
    tops = [100 * 3.8416 / (n + 3.8416) for n in (10, 40)]  # Wilson's upper limit of 0 of n
    found = macro_estimate(parts)
    assert (found.low, found.value) == (0, 0)
    assert found.high == pytest.approx(np.hypot(*tops) / 2, rel=1e-3)


def test_one_certain_scenario_keeps_its_uncertainty():
    """0 of 20 and 19 of 20: from above Wilson's 16.11 and what the bootstrap of the other leaves."""
    still, moving = one(mean_of(np.zeros(20))), one(mean_of(np.arange(20) < 19))
    found, alone = macro_estimate([still, moving]), np.percentile(moving.draws, (2.5, 97.5))
    assert found.value == pytest.approx(47.5) and found.low == pytest.approx(alone[0] / 2)
    assert found.high == pytest.approx(47.5 + np.hypot(16.11, alone[1] - 95) / 2, abs=0.01)
    nested = macro_estimate([difference(mean_of(np.ones(20)), mean_of(np.arange(20) < 19), np.arange(20))] * 2)
    assert nested.high == pytest.approx(5 + 18.61 / np.sqrt(2), abs=0.01)


def test_scenarios_of_the_same_drawings_are_drawn_together():
    """The same values in both: their mean is no more certain than each; drawn apart it would be by the root of 2."""
    values = mean_of(np.random.default_rng(3).random(30), 1.0)
    together = [estimates([values], np.arange(30), groups=30, seed=(1,))[0] for _ in range(2)]
    apart = [estimates([values], np.arange(30), seed=(i,))[0] for i in range(2)]
    spread = [macro_estimate(parts).draws.std() for parts in (together, apart)]
    assert spread[0] == pytest.approx(together[0].draws.std()) and spread[0] / spread[1] == pytest.approx(np.sqrt(2), rel=0.1)  # fmt: skip


def test_drawings_of_other_scenarios_leave_an_interval_as_wide():
    values = mean_of(np.random.default_rng(3).random(30), 1.0)
    own, among = (estimates([values], np.arange(30), groups=groups)[0] for groups in (None, 210))
    assert among.value == own.value and among.draws.std() == pytest.approx(own.draws.std(), rel=0.1)


def test_the_mean_has_no_interval_where_a_scenario_has_none():
    found = macro_estimate([one(mean_of(ALONE < 3)), one(mean_of([0.0, 1.0]), [0, 0])])
    assert found.value == pytest.approx((7.5 + 50) / 2)
    assert np.isnan([found.low, found.high]).all()


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Thirty drawings of three samples that share half of their luck."""
    rng, held, trials = np.random.default_rng(5), 0, 300
    group = np.repeat(np.arange(30), 3)
    for trial in range(trials):
        luck = rng.random(30)[group]
        success = np.where(rng.random(90) < 0.5, luck, rng.random(90)) < 0.3
        found = one(mean_of(success), group, draws=400, seed=(trial,))
        held += found.low <= 30 <= found.high
    assert 0.88 <= held / trials <= 0.99

"""Association and paired effects: identities, golden numbers, and a planted cause beside a planted correlate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runner.nodes.faces import counterfactual as cf
from runner.nodes.faces.directions import edit_direction, ridge_slopes, standardised, whitening

counts = st.integers(0, 60)
tables = st.builds(cf.PairedTable, counts, counts, counts, counts)


@given(tables)
def test_the_effect_is_the_difference_of_the_rates_and_lies_in_its_interval(table: cf.PairedTable) -> None:
    found = cf.paired_effect(table)
    if not table.pairs:
        assert math.isnan(found.effect)
        return
    rates = (table.both + table.gained) / table.pairs - (table.both + table.lost) / table.pairs
    assert found.effect == pytest.approx(rates)
    assert -1 <= found.low <= found.effect + 1e-12
    assert found.effect - 1e-12 <= found.high <= 1
    assert 0 <= found.p <= 1


@given(tables)
def test_swapping_before_and_after_turns_the_sign(table: cf.PairedTable) -> None:
    found, turned = cf.paired_effect(table), cf.paired_effect(table._replace(gained=table.lost, lost=table.gained))
    assert np.allclose([-found.effect, -found.high, -found.low, found.p], turned, equal_nan=True)


@given(tables)
def test_saying_yes_for_no_turns_the_sign(table: cf.PairedTable) -> None:
    found = cf.paired_effect(table)
    turned = cf.paired_effect(cf.PairedTable(table.neither, table.lost, table.gained, table.both))
    assert np.allclose([-found.effect, -found.high, -found.low, found.p], turned, equal_nan=True)


def test_newcombe_and_mcnemar_of_a_published_table() -> None:
    # Newcombe (1998), table III: a=36, b=12, c=2, d=0 gives 0.2 with 0.0569 to 0.3404 by method 10.
    found = cf.paired_effect(cf.PairedTable(both=36, gained=12, lost=2, neither=0))
    assert (found.effect, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=1e-4)
    assert found.p == pytest.approx(2 * sum(math.comb(14, i) for i in range(3)) / 2**14)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_the_table_counts_every_pair_once(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [p[0] for p in pairs], [p[1] for p in pairs]
    table = cf.paired_table(before, after)
    assert table.pairs == len(pairs)
    assert (table.both + table.lost, table.both + table.gained) == (sum(before), sum(after))


def test_outcomes_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        cf.paired_table([True], [True, False])


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=60), st.integers(2, 5))
def test_bins_hold_what_lies_between_their_edges(values: list[float], bins: int) -> None:
    if len(set(values)) < 2:
        with pytest.raises(ValueError, match="two different"):
            cf.quantile_bins(values, bins)
        return
    edges, index = cf.quantile_bins(values, bins)
    assert len(edges) - 1 <= bins
    array = np.array(values)
    assert np.all(edges[index] <= array)
    assert np.all((array < edges[index + 1]) | ((index == len(edges) - 2) & (array == edges[-1])))


def test_a_missing_value_stands_in_no_bin() -> None:
    _, index = cf.quantile_bins([0.0, 1.0, np.nan, 2.0, 3.0], 2)
    assert index.tolist() == [0, 0, -1, 1, 1]
    assert cf.associate([True] * 5, index, 2).n.tolist() == [2, 2]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=80))
def test_association_counts_and_limits(rows: list[tuple[bool, int]]) -> None:
    found = cf.associate([r[0] for r in rows], [r[1] for r in rows], 3)
    assert found.n.sum() == len(rows)
    assert found.k.sum() == sum(r[0] for r in rows)
    some = found.n > 0
    assert np.all(found.rate_limits[0][some] <= found.rate[some] + 1e-12)
    assert np.isnan(found.gap[0])
    both = some & (found.n[0] > 0)
    both[0] = False
    assert found.gap[both] == pytest.approx(found.rate[both] - found.rate[0])


def test_mean_change_is_the_t_interval() -> None:
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(0)
    before, after = rng.normal(size=20), rng.normal(0.5, size=20)
    found = cf.mean_change(before, after)
    wanted = ttest_1samp(after - before, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(wanted))
    assert math.isnan(cf.mean_change([], []).mean)


def test_a_pair_is_kept_when_the_one_thing_moved_and_no_other() -> None:
    kept, moved, still = cf.manipulated([1.0, 0.4, 2.0], [[0.1], [0.0], [-1.5]], least=0.5, most=1.0)
    assert kept.tolist() == [True, False, False]
    assert moved.tolist() == [True, False, True]
    assert still.tolist() == [True, True, False]


# --- the whole inference on a planted world --------------------------------------------------------------------------

STYLE = 24


def _world(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Styles [n, 24] with an uneven covariance, and true slopes [2, 24] of two correlated measures (hair, jewellery)."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(STYLE, STYLE)) / np.sqrt(STYLE)
    styles = rng.normal(size=(300, STYLE)) @ mixing
    hair = rng.normal(size=STYLE)
    return styles, np.stack([hair, 0.8 * hair + 0.6 * rng.normal(size=STYLE)])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cause", [0, 1])
def test_cause_and_mere_correlate_are_told_apart(seed: int, cause: int) -> None:
    """The outcome depends on measure ``cause`` alone. Both are associated with it; only an edit of the cause flips it."""
    styles, truth = _world(seed)
    rng = np.random.default_rng(seed + 100)
    measures = standardised(styles @ truth.T + 0.05 * rng.normal(size=(len(styles), 2)))
    scale, centre = (styles @ truth.T).std(0), (styles @ truth.T).mean(0)

    def outcome(people: NDArray[np.float64]) -> NDArray[np.bool_]:
        return ((people @ truth[cause]) - centre[cause]) / scale[cause] > 0

    white = whitening(styles, 0.9999)
    slopes, fit = ridge_slopes(white.to_white(styles), measures)
    assert fit.min() > 0.9
    for measure in (0, 1):
        index = cf.quantile_bins(measures[:, measure], 3).number
        seen = cf.associate(outcome(styles), index, 3)
        assert seen.gap[2] > 0.3
        assert seen.gap_limits[0][2] > 0
        step = white.step(edit_direction(slopes, measure, [1 - measure]))
        less, more = styles[:120] - step, styles[:120] + step
        effect = cf.paired_effect(cf.paired_table(outcome(less), outcome(more)))
        if measure == cause:
            assert effect.effect > 0.4
            assert effect.p < 1e-6
        else:
            assert abs(effect.effect) < 0.08
            assert effect.low < 0.08

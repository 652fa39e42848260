"""Rogan-Gladen estimates against simulation and by-hand numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.bias.verification import (
    UNKNOWN,
    Answers,
    Quality,
    group_precision,
    held_out_answers,
    precision_rows,
    quality_of,
    quality_row,
    youden_low,
    youden_threshold,
)


def test_by_hand():
    # 54 of 100 yes with Se 0.9 and Sp 0.8: q = (0.54 - 0.2) / 0.7; of the accepted 0.9 q / 0.54 show the target.
    done = group_precision(54, 46, 0.9, 0.8)
    assert done.retrieved == pytest.approx(0.34 / 0.7)
    assert done.target == pytest.approx(0.9 * (0.34 / 0.7) / 0.54)
    assert done.retrieved_low < done.retrieved < done.retrieved_high
    assert group_precision(54, 46, 0.9, 0.8, reject=False).target == pytest.approx(0.34 / 0.7)


# With 1,500 runs a coverage of 0.95 is seen within 0.011 (two standard errors). Over 6,000 runs a cell it was 0.944 or more
# for q = 0.1, 0.4, 0.6, 0.9 and 1 with each of the three verifiers.
@pytest.mark.parametrize(
    ("se", "sp", "trials", "truth"),
    [(0.95, 0.9, 200, 0.1), (0.95, 0.9, 200, 0.6), (0.95, 0.9, 200, 1.0), (0.8, 0.97, 60, 0.6), (0.7, 0.75, 400, 0.6)],
)
def test_unbiased_and_covering_in_simulation(se, sp, trials, truth):
    rng = np.random.default_rng(7)
    runs, n = 1500, 80
    found_se, found_sp = rng.binomial(trials, se, runs) / trials, rng.binomial(3 * trials, sp, runs) / (3 * trials)
    shows = rng.binomial(n, truth, runs)
    yes_right, yes_wrong = rng.binomial(shows, se), rng.binomial(n - shows, 1 - sp)
    yes = yes_right + yes_wrong
    done = group_precision(yes, n - yes, found_se, found_sp, positives=trials, negatives=3 * trials)
    covered = (done.retrieved_low <= truth) & (truth <= done.retrieved_high)
    assert covered.mean() >= 0.93
    left = se * truth / (se * truth + (1 - sp) * (1 - truth))
    assert ((done.target_low <= left) & (left <= done.target_high)).mean() >= 0.93
    if 0.3 < truth < 0.7:  # elsewhere clipping to [0, 1] must bend it
        assert done.retrieved.mean() == pytest.approx(truth, abs=0.02)


counts = st.integers(0, 60)
rate = st.floats(0.55, 1.0)


@given(counts, counts, counts, rate, rate, st.integers(5, 500), st.integers(5, 500), st.booleans())
def test_shares_and_ends_are_in_order(yes, no, blank, se, sp, positives, negatives, reject):
    done = group_precision(
        yes, no, se, sp, positives=positives, negatives=negatives, unanswered=blank, reject=reject
    )  # fmt: skip
    for low, point, high in (done[1], done[0], done[2]), (done[4], done[3], done[5]):
        if yes + no == 0:
            assert np.isnan([low, point, high]).all()
        elif not np.isnan(point):
            assert 0 <= low <= high <= 1
            assert 0 <= point <= 1
    if yes and no and reject and not blank and done.retrieved > 0:
        assert done.target >= done.retrieved - 1e-12  # refusing can only help


def test_edges():
    empty = group_precision(0, 0, 0.9, 0.9)
    assert np.isnan(empty).all()
    all_yes = group_precision(30, 0, 0.9, 0.9, positives=100, negatives=100)
    assert (all_yes.retrieved, all_yes.retrieved_high, all_yes.target) == (1, 1, 1)
    all_no = group_precision(0, 30, 0.9, 0.9, positives=100, negatives=100)
    assert (all_no.retrieved, all_no.retrieved_low) == (0, 0)
    assert np.isnan(all_no.target)  # nothing is left to assess
    # 10 pictures without an answer stay, with the share of the whole group.
    assert group_precision(0, 30, 0.9, 0.9, unanswered=10).target == 0
    half = group_precision(20, 20, 1.0, 1.0, unanswered=20)
    assert half.target == pytest.approx((20 * 1 + 20 * 0.5) / 40)
    assert np.isnan(group_precision(5, 5, 0.5, 0.5).retrieved)  # guessing says nothing
    assert np.isnan(group_precision(5, 5, float("nan"), 0.9).retrieved)
    for wrong in [(-1, 5, 0.9, 0.9), (5, 5, 1.1, 0.9)]:
        with pytest.raises(ValueError, match=r"negative|lie in"):
            group_precision(*wrong)


def test_a_small_calibration_widens_the_interval():
    widths = [
        float(np.subtract(*group_precision(60, 40, 0.9, 0.9, positives=n, negatives=n)[2:0:-1])) for n in (10, 100, None)
    ]  # fmt: skip
    assert widths[0] > widths[1] > widths[2] > 0


def test_rows_and_unknown_targets():
    groups = [
        Answers("dog", "light", "dim", "caption", 54, 46, 0, 50, 40),
        Answers("elk", None, None, "measured", 0, 0, 7),
    ]
    rows = precision_rows(groups, {"dog": Quality(0.9, 0.8)}, reject=True)
    assert rows[0]["retrieved_precision"] == pytest.approx(0.34 / 0.7)
    assert rows[0]["value_precision"] == 0.8
    assert (rows[0]["images"], rows[1]["images"]) == (100, 7)
    assert (rows[1]["target_precision"], rows[1]["value_precision"], rows[1]["retrieved_high"]) == (None, None, None)
    assert precision_rows([], {}, reject=True) == []
    many = precision_rows([groups[0]] * 1100, {"dog": Quality(0.9, 0.8)}, reject=True)
    assert len(many) == 1100
    assert many[600]["target_precision"] == rows[0]["target_precision"]


def test_quality_of_rows():
    row = quality_row([True] * 9 + [False] + [False] * 19 + [True], [True] * 10 + [False] * 20)
    assert (row["positives"], row["negatives"], row["sensitivity"], row["specificity"]) == (10, 20, 0.9, 0.95)
    assert (row["sensitivity_low"], row["sensitivity_high"]) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert quality_of(row | {"usable": True}) == Quality(0.9, 0.95, 10, 20)
    assert quality_of(row | {"usable": False}) == UNKNOWN
    assert youden_low(row) == pytest.approx(
        0.85 - np.hypot(0.9 - row["sensitivity_low"], 0.95 - row["specificity_low"])
    )
    assert youden_low(quality_row([True], [True])) is None


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=40))
def test_the_threshold_has_the_largest_youden(pairs):
    score, shows = np.array([s for s, _ in pairs], float), np.array([t for _, t in pairs])
    threshold = youden_threshold(score, shows)
    if shows.all() or not shows.any():
        assert np.isnan(threshold)
        return

    def youden(t):
        said = score >= t
        return said[shows].mean() + (~said)[~shows].mean() - 1

    best = max(youden(t) for t in [*score, score.max() + 1])
    assert youden(threshold) == pytest.approx(max(best, 0))


def test_held_out_rates_are_not_too_good():
    """Scores without any information: on the pictures that chose the threshold J is above 0, held out it is not."""
    rng = np.random.default_rng(1)
    own, held = [], []
    for seed in range(150):
        score, shows = rng.random(60), np.arange(60) < 20
        said = score >= youden_threshold(score, shows)
        own.append(said[shows].mean() - said[~shows].mean())
        said = held_out_answers(score, shows, seed=seed)
        held.append(said[shows].mean() - said[~shows].mean())
    # Under no information held-out J is 0 on average; the standard error of the mean of 150 is about 0.011.
    assert abs(np.mean(held)) < 0.05
    assert np.mean(own) > np.mean(held) + 0.05

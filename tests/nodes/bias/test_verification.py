"""Rogan-Gladen estimates against simulation and by-hand numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.bias.verification import Quality, Answers, group_precision, precision_rows


def test_by_hand():
    # 54 of 100 yes with Se 0.9 and Sp 0.8: q = (0.54 - 0.2) / 0.7; of the accepted 0.9 q / 0.54 show the target.
    done = group_precision(54, 46, 0.9, 0.8)
    assert done.retrieved == pytest.approx(0.34 / 0.7)
    assert done.target == pytest.approx(0.9 * (0.34 / 0.7) / 0.54)
    assert done.retrieved_low < done.retrieved < done.retrieved_high
    assert group_precision(54, 46, 0.9, 0.8, reject=False).target == pytest.approx(0.34 / 0.7)


@pytest.mark.parametrize("truth", [0.1, 0.4, 0.6, 0.9, 1.0])
@pytest.mark.parametrize(("se", "sp", "trials"), [(0.95, 0.9, 200), (0.8, 0.97, 60), (0.7, 0.75, 400)])
def test_unbiased_and_covering_in_simulation(truth, se, sp, trials):
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

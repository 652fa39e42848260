"""Scores, matching, hit rates and agreement against slow loops and values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from runner.nodes.bias.evaluation import (
    TargetScores,
    agreement,
    celeba_ground_truth,
    detected,
    hit_rates,
    imagenet_x_ground_truth,
    match_proposals,
    mean_interval,
    mean_of,
    nearest_choice,
    outcomes,
    vqa_phi,
)

SCORE = st.one_of(st.floats(-1, 1), st.just(math.nan), st.sampled_from([0.05, -0.05, 0.0]))


def tpr(said, truth, chosen):
    right = asked = 0
    for s, t, c in zip(said, truth, chosen, strict=True):
        if t and c:
            asked += 1
            right += bool(s)
    return right / asked if asked else math.nan


def same(a, b):
    return (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, abs=1e-15)


@given(st.data(), st.integers(1, 30), st.integers(1, 5))
def test_celeba_scores_are_differences_of_true_positive_rates(data, n, attributes):
    truth = data.draw(arrays(bool, (n, attributes)))
    targets = data.draw(st.lists(st.integers(0, attributes - 1), min_size=1, max_size=attributes, unique=True))
    said = data.draw(arrays(bool, (n, len(targets))))
    scores = celeba_ground_truth(said, truth, targets).score
    assert scores.shape == (len(targets), attributes)
    for row, t in enumerate(targets):
        for b in range(attributes):
            own = tpr(said[:, row], truth[:, t], truth[:, b]) - tpr(
                said[:, row], truth[:, t], [not x for x in truth[:, b]]
            )
            assert same(scores[row, b], math.nan if b == t else own)


def test_celeba_by_hand():
    truth = [[1, 1], [1, 1], [1, 0], [1, 0], [1, 0], [0, 1]]
    said = [[1, 0], [0, 0], [1, 0], [1, 0], [1, 1], [1, 1]]
    gaps = celeba_ground_truth(said, truth)
    assert gaps.score[0, 1] == pytest.approx(1 / 2 - 3 / 3)
    assert gaps.score[1, 0] == pytest.approx(0 / 2 - 1 / 1)
    assert gaps.k[0, 1].tolist() == [1, 3] and gaps.n[0, 1].tolist() == [2, 3]
    assert np.isnan(gaps.score[0, 0]) and gaps.n[0, 0].tolist() == [0, 0]


@given(st.data(), st.integers(1, 40), st.integers(1, 4), st.integers(1, 3))
def test_imagenet_x_scores_need_two_pictures_on_both_sides(data, n, classes, factors):
    owner = data.draw(arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    correct, there = data.draw(arrays(bool, n)), data.draw(arrays(bool, (n, factors)))
    gaps = imagenet_x_ground_truth(correct, owner, there, classes)
    for c in range(classes):
        for f in range(factors):
            sides = [[], []]
            for i in range(n):
                if owner[i] == c:
                    sides[0 if there[i, f] else 1].append(bool(correct[i]))
            enough = all(len(side) > 1 for side in sides)
            wanted = sum(sides[0]) / len(sides[0]) - sum(sides[1]) / len(sides[1]) if enough else math.nan
            assert same(gaps.score[c, f], wanted)
            assert gaps.n[c, f].tolist() == [len(side) for side in sides]
            assert gaps.k[c, f].tolist() == [sum(side) for side in sides]


def test_labeller_scores_pool_the_others():
    # answer 0: 1 of 2 right; answer 1: 4 of 4; answer 2: 0 of 1; one picture without an answer.
    answers = [0, 0, 1, 1, 1, 1, 2, -1]
    correct = [1, 0, 1, 1, 1, 1, 0, 1]
    gaps = vqa_phi(correct, answers, 4)
    assert gaps.score[:3] == pytest.approx([1 / 2 - 4 / 5, 4 / 4 - 1 / 3, 0 / 1 - 5 / 6])
    # The unweighted mean of the others, which phi takes, is something else.
    assert gaps.score[0] != pytest.approx(1 / 2 - (4 / 4 + 0 / 1) / 2)
    assert np.isnan(gaps.score[3]) and gaps.n[3, 1] == 7


@given(st.data(), st.integers(0, 30), st.integers(1, 4))
def test_labeller_scores_equal_loops(data, n, values):
    answers = data.draw(arrays(np.int64, n, elements=st.integers(-1, values - 1)))
    correct = data.draw(arrays(bool, n))
    scores = vqa_phi(correct, answers, values).score
    for j in range(values):
        own = [bool(c) for c, a in zip(correct, answers, strict=True) if a == j]
        rest = [bool(c) for c, a in zip(correct, answers, strict=True) if a not in (j, -1)]
        assert same(scores[j], sum(own) / len(own) - sum(rest) / len(rest) if own and rest else math.nan)


def test_a_free_answer_goes_to_the_nearest_choice_and_ties_to_the_first():
    choices = np.array([[1.0, 0], [0, 1], [0, 1]])
    assert nearest_choice([[0.9, 0.1], [0.1, 0.9]], choices).tolist() == [0, 1]


# --- matching ---------------------------------------------------------------------------------------------------------


def test_matching_is_greedy_strict_and_one_to_one():
    # The best total would pair 0-1 and 1-0; the largest entry comes first and leaves 1 with nothing.
    assert match_proposals([[0.99, 0.98], [0.97, 0.2]]) == {0: 0}
    assert match_proposals([[0.99, 0.98], [0.97, 0.95]]) == {0: 0, 1: 1}
    assert match_proposals([[0.9]]) == {} and match_proposals([[np.nextafter(0.9, 1)]]) == {0: 0}
    assert match_proposals([[0.95, 0.95], [0.95, 0.95]]) == {0: 0, 1: 1}
    assert match_proposals([[0.91, 0.95], [0.95, 0.2]]) == {0: 1, 1: 0}
    assert match_proposals([[np.nan, 0.95], [0.99, np.nan]]) == {0: 1, 1: 0}
    assert match_proposals(np.zeros((0, 3))) == {} and match_proposals(np.zeros((3, 0))) == {}


def test_float32_cosines_of_09_do_not_match():
    assert match_proposals(np.array([[0.9]], np.float32)) == {}


@given(
    arrays(
        float, st.tuples(st.integers(0, 6), st.integers(0, 6)), elements=st.sampled_from([0.1, 0.9, 0.92, 0.95, 1.0])
    )
)
def test_matching_equals_the_slow_rule(cosines):
    wanted, rows, columns = {}, set(), set()
    while True:
        best = None
        for i in range(cosines.shape[0]):
            for j in range(cosines.shape[1]):
                free = i not in rows and j not in columns and cosines[i, j] > 0.9
                if free and (best is None or cosines[i, j] > cosines[best]):
                    best = (i, j)
        if best is None:
            break
        wanted[best[0]] = best[1]
        rows.add(best[0])
        columns.add(best[1])
    assert match_proposals(cosines) == wanted


# --- hit rates --------------------------------------------------------------------------------------------------------


def test_a_score_on_the_threshold_is_not_detected():
    assert detected([0.05, -0.05, 0.0500001, -0.2, np.nan]).tolist() == [False, False, True, True, False]


def test_scores_that_lie_on_the_threshold_but_for_rounding_lie_on_it():
    # 0.85 - 0.8 falls below 0.05 in doubles, 1 - 0.95 above it.
    assert 17 / 20 - 16 / 20 < 0.05 < 20 / 20 - 19 / 20
    assert not detected([17 / 20 - 16 / 20, 20 / 20 - 19 / 20]).any()
    assert agreement([17 / 20 - 16 / 20], [0.3]) == agreement([20 / 20 - 19 / 20], [0.3]) == 1


def scores(truth, found, pairs):
    return TargetScores(np.array(truth, float), np.array(found, float), pairs)


BY_HAND = [
    # truth 0: hit; 1: false hit; 2: match not detected; 3: no match; 4: no bias, though its match (3) is detected.
    # found 0: hit; 1: false hit; 2: not detected; 3: match is no true bias; 4: no match; 5: NaN.
    scores([0.2, -0.3, 0.1, 0.4, 0.05], [0.1, 0.2, 0.05, 0.3, -0.5, np.nan], {0: 0, 1: 1, 2: 2, 4: 3}),
    # one hit of one, in both directions
    scores([-0.2], [-0.06], {0: 0}),
    # nothing true, one thing detected: left out of the first direction, a miss in the second
    scores([0.01, np.nan], [0.4], {0: 0}),
    scores([], [], {}),
]


def test_outcomes_by_hand():
    of_truth, of_found = outcomes(BY_HAND[0])
    assert of_truth == ["hit", "false_hit", "miss", "miss", None]
    assert of_found == ["hit", "false_hit", None, "miss", "miss", None]


def test_hit_rates_by_hand():
    rates = hit_rates(BY_HAND)
    assert rates.found.counts.tolist() == [[1, 1, 2], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert rates.found.percent[:2].tolist() == [[25, 25, 50], [100, 0, 0]]
    assert np.isnan(rates.found.percent[2:]).all()
    assert rates.found.macro.tolist() == [62.5, 12.5, 25]
    assert rates.true.counts.tolist() == [[1, 1, 2], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert rates.true.macro == pytest.approx([125 / 3, 25 / 3, 50])


def test_no_target_gives_no_rate():
    assert np.isnan(hit_rates([]).found.macro).all() and hit_rates([]).true.counts.shape == (0, 3)


@given(st.lists(SCORE, max_size=6), st.lists(SCORE, max_size=6), st.randoms())
def test_hits_are_the_same_from_both_sides(truth, found, random):
    size = min(len(truth), len(found))
    pairs = dict(zip(range(size), random.sample(range(len(found)), size), strict=True))
    rates = hit_rates([scores(truth, found, pairs)])
    assert rates.found.counts[0, :2].tolist() == rates.true.counts[0, :2].tolist()
    assert rates.found.counts.sum() == sum(abs(x) > 0.05 for x in truth)
    assert rates.true.counts.sum() == sum(abs(x) > 0.05 for x in found)


# --- agreement --------------------------------------------------------------------------------------------------------


def test_agreement_by_hand():
    # same sign, both large (one exactly 0.05): +1; both small: +1; opposite, both large: -1; one large, one small: 0
    assert agreement([0.05], [0.3]) == 1 and agreement([0.049], [-0.049]) == 1
    assert agreement([0.05], [-0.05]) == -1 and agreement([0.2], [0.01]) == 0
    assert agreement([0.3, 0.0, -0.2, 0.2], [0.1, 0.01, 0.2, 0.0]) == pytest.approx((1 + 1 - 1 + 0) / 4)
    assert agreement([np.nan, np.nan], [0.0, 0.5]) == pytest.approx((1 + 0) / 2)
    assert math.isnan(agreement([], []))
    assert mean_of([1.0, math.nan, 0.0]) == 0.5 and math.isnan(mean_of([math.nan]))


@given(st.lists(st.tuples(SCORE, SCORE), min_size=1, max_size=8))
def test_agreement_is_bounded_symmetric_and_odd_in_both(pairs):
    a, b = np.array(pairs).T
    found = agreement(a, b)
    assert -1 <= found <= 1
    assert found == agreement(b, a) == agreement(-a, -b)
    assert agreement(a, a) == 1


def test_interval_of_a_mean():
    low, high = mean_interval([10, 20, 30, np.nan])
    # Student's quantile with two degrees of freedom: 4.302653
    assert (low, high) == pytest.approx((20 - 4.302653 * 10 / 3**0.5, 20 + 4.302653 * 10 / 3**0.5), abs=1e-4)
    assert all(map(math.isnan, mean_interval([5.0])))


def test_full_scale_takes_moments():
    rng = np.random.default_rng(0)
    truth = rng.random((19_867, 40)) < 0.3
    said = truth ^ (rng.random(truth.shape) < 0.1)
    gaps = celeba_ground_truth(said, truth)
    assert gaps.score.shape == (40, 40) and np.isnan(gaps.score).sum() == 40
    t, b = 7, 21
    assert gaps.score[t, b] == pytest.approx(
        said[truth[:, t] & truth[:, b], t].mean() - said[truth[:, t] & ~truth[:, b], t].mean()
    )
    classes = rng.integers(0, 1000, 50_000)
    x = imagenet_x_ground_truth(rng.random(50_000) < 0.7, classes, rng.random((50_000, 16)) < 0.2, 1000)
    assert x.n.sum() == 50_000 * 16 and x.k.sum() < x.n.sum()

"""Telling values apart: overlaps and areas under the curve by hand, and planted retrievals that can and cannot do it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from runner.nodes.bias.separability import (
    Agreement,
    Attribute,
    Bars,
    Looks,
    Nearest,
    agreement,
    expected_overlap,
    judge,
    margin,
    overlap,
    separability,
)

BARS = Bars(nearest=40)


def ranking(similarity):
    return Nearest((np.argsort(-similarity, kind="stable"),))


def test_overlap_by_hand():
    assert overlap(np.array([1, 2, 3, 4]), np.array([3, 4, 9])) == 0.5
    assert np.isnan(overlap(np.array([], np.int64), np.array([1])))


def test_the_nearest_of_several_captions_go_by_best_rank():
    near = Nearest((np.array([5, 1, 2]), np.array([1, 7, 5])))
    assert (
        near.first(2).tolist() == [1, 5]
        and near.first(3).tolist() == [1, 5, 7]
        and near.first(9).tolist() == [1, 2, 5, 7]
    )
    assert Nearest(()).first(3).tolist() == []


def test_expected_overlap_is_the_mean_over_pairs_that_say_the_same():
    first = Nearest((np.array([0, 1, 2, 3]), np.array([0, 1, 8, 9])))
    second = Nearest((np.array([4, 5, 6, 7]), np.array([4, 5, 6, 7])))
    assert expected_overlap([first, second, Nearest((np.array([1]),))], 4) == pytest.approx(0.75)
    assert np.isnan(expected_overlap([Nearest((np.array([1]),))], 4))


def test_margin_by_hand():
    # leads 1, 1, -1, -1: mean 0, standard deviation 1
    assert margin([2, 2, 0, 0], [[1, 0, 1, 1], [0, 1, 0, 1]], [True, True, False, False]) == 1
    assert margin([2, 2, 0, 0], [[1, 1, 1, 1]], [True, False, True, False]) == 0
    assert np.isnan(margin([1, 1], [[0, 0]], [True, False]))


numbers = st.lists(st.integers(0, 9).map(float), min_size=2, max_size=20)


@given(numbers, numbers)
def test_auc_is_that_of_mann_and_whitney(own, below):
    found = agreement(own, below, [])
    assert found.auc == pytest.approx(mannwhitneyu(own, below).statistic / (len(own) * len(below)))
    assert agreement(below, [], own).auc == pytest.approx(found.auc)
    assert agreement(below, own, []).auc == pytest.approx(1 - found.auc)
    assert found.low <= found.auc <= found.high


def test_values_on_both_sides_count_together():
    # 5 against [1, 6] below (1 right of 2) and [9] above (right), 7 likewise with both right
    assert agreement([5, 7], [1, 6], [9]).auc == pytest.approx(5 / 6)


def test_the_interval_covers_the_truth():
    """Normal data one standard deviation apart: the true AUC is Phi(1 / sqrt 2) = 0.7602."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = agreement(rng.normal(1, 1, 40), rng.normal(0, 1, 60), [])
        hits += found.low <= 0.7602 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def planted(strength, *, seed=0, pictures=400, measure=True):
    """Two captions whose similarity to pictures of one class follows how bright they are, by ``strength``, beside noise they share.

    Returns the attribute as the test sees it; the kept groups are the nearest 60 that the other caption does not win.
    """
    rng = np.random.default_rng(seed)
    bright, shared = rng.normal(size=pictures), rng.normal(size=pictures)
    similarity = {
        "dim": shared - strength * bright + 0.1 * rng.normal(size=pictures),
        "bright": shared + strength * bright + 0.1 * rng.normal(size=pictures),
    }
    won = similarity["bright"] > similarity["dim"]
    measured = {}
    for value, mine in (("dim", ~won), ("bright", won)):
        order = np.argsort(-similarity[value])
        measured[value] = bright[order[mine[order]][:60]]
    return Attribute(
        "cat", "light", {v: ranking(s) for v, s in similarity.items()}, (),
        {v: s[None] for v, s in similarity.items()}, "luminance" if measure else None, measured if measure else {},
    )  # fmt: skip


@pytest.mark.parametrize("measure", [True, False])
def test_captions_that_follow_the_circumstance_are_separable(measure):
    rows = separability([planted(1.0, measure=measure)], BARS)
    assert [r["separable"] for r in rows] == [True, True] and all(r["reason"] is None for r in rows)
    assert all(r["overlap"] < 0.5 and r["margin"] > 0.5 for r in rows)
    assert all((r["auc"] or 0) > 0.9 for r in rows) == measure


@pytest.mark.parametrize("measure", [True, False])
def test_captions_that_do_not_are_not(measure):
    rows = separability([planted(0.0, seed=1, measure=measure)], BARS)
    assert [r["separable"] for r in rows] == [False, False]
    assert all(r["overlap"] > 0.6 for r in rows)
    expected = "luminance of its pictures does not differ" if measure else "are also nearest for 'bright'"
    assert expected in rows[0]["reason"]


def test_a_measurement_unrelated_to_the_groups_is_rarely_called_agreement():
    wrong = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        found = agreement(rng.normal(size=50), rng.normal(size=50), [])
        wrong += judge(Looks(agreement=found, measure="luminance"), BARS)[0] is True
    assert wrong <= 3


def test_reasons_and_bars():
    apart, no = Looks(overlap=0.2, margin=0.9, like="b"), judge
    assert no(apart, BARS) == (True, None)
    assert no(Looks(), BARS)[0] is None and "nothing could be tested" in no(Looks(), BARS)[1]
    assert "61% of its nearest" in no(Looks(overlap=0.61, like="b"), BARS)[1]
    assert (
        "as much as between captions that say the same (30%)" in no(Looks(overlap=0.4, expected_overlap=0.3), BARS)[1]
    )
    assert "of this value hardly lean" in no(Looks(overlap=0.1, margin=0.1), BARS)[1]
    assert "of 'b' hardly lean" in no(Looks(overlap=0.1, margin=0.9, like="b", like_margin=0.1), BARS)[1]
    weak = Looks(agreement=Agreement(0.6, 0.55, 0.65), measure="clutter", overlap=0.1)
    assert (
        "clutter of its pictures hardly differs (AUC 0.60, interval 0.55 to 0.65; at least 0.65)" in no(weak, BARS)[1]
    )
    assert "the other way round" in no(Looks(agreement=Agreement(0.3, 0.2, 0.4), measure="clutter"), BARS)[1]
    # a measurement that agrees outweighs captions that share their nearest pictures
    assert no(Looks(agreement=Agreement(0.8, 0.7, 0.9), overlap=0.9), BARS) == (True, None)


def test_few_pictures_decide_nothing():
    few = Attribute("cat", "light", {v: Nearest((np.arange(5),)) for v in ("dim", "bright")})
    assert [r["separable"] for r in separability([few], BARS)] == [None, None]


def test_categories_are_compared_by_share():
    rng = np.random.default_rng(0)
    own = {"red": (rng.random(50) < 0.8).astype(float), "blue": (rng.random(50) < 0.1).astype(float)}
    other = {"red": 1 - own["red"], "blue": 1 - own["blue"]}
    a = Attribute("car", "colour", {v: Nearest(()) for v in own}, measure="hue", categories={"red": own, "blue": other})
    red, blue = separability([a], BARS)
    assert red["auc"] == pytest.approx(0.5 + (own["red"].mean() - own["blue"].mean()) / 2)
    assert red["separable"] and blue["separable"] and red["measure"] == "hue" and red["overlap"] is None

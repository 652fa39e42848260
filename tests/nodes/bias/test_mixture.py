"""Mixtures of known classes: EM against a slow reference, coverage in simulation, bands and their storage."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from runner.nodes.bias.mixture import (
    MAX_CLASSES,
    REST,
    Confusion,
    confusion_of,
    mixture_precision,
    mixture_weights,
    score_edges,
    target_odds,
)
from runner.nodes.bias.verification import Answers, Quality, group_precision, precision_rows

# Shares of each class's pictures in five bands of the score, the last three of which mean yes. A verifier that takes two
# thirds of the second class for the first, and next to nothing else.
DENSITIES = np.array([
    [0.03, 0.07, 0.15, 0.25, 0.50],
    [0.15, 0.18, 0.35, 0.22, 0.10],
    [0.90, 0.06, 0.02, 0.01, 0.01],
    [0.80, 0.12, 0.05, 0.02, 0.01],
])  # fmt: skip
EDGES = np.array([0.1, 0.3, 0.5, 0.7])


def tried(rng, pictures=100, densities=DENSITIES):
    """What a calibration with this many pictures of each class finds."""
    counts = rng.multinomial(pictures, densities).astype(float)
    return Confusion(("truck", "car", "frog", "deer"), EDGES, 2, counts)


def slow_em(n, p, steps):
    w = [0.5, *[0.5 / (len(p) - 1)] * (len(p) - 1)]
    for _ in range(steps):
        new = [0.0] * len(p)
        for v, count in enumerate(n):
            blend = sum(w[k] * p[k][v] for k in range(len(p)))
            for k in range(len(p)):
                new[k] += count * w[k] * p[k][v] / blend
        w = [x / sum(n) for x in new]
    return w


def test_em_against_a_slow_reference():
    rng = np.random.default_rng(0)
    n = rng.integers(1, 30, (3, 5))
    p = rng.dirichlet(np.ones(5), (2, 4))
    fast = mixture_weights(n, p, steps=37)
    assert fast.shape == (2, 3, 4)
    for draw in range(2):
        for group in range(3):
            assert fast[draw, group] == pytest.approx(slow_em(n[group], p[draw], 37), rel=1e-9)


def test_em_finds_the_most_likely_weights():
    """Against a general optimiser of the same likelihood."""
    rng = np.random.default_rng(1)
    n = rng.multinomial(400, np.array([0.5, 0.3, 0.1, 0.1]) @ DENSITIES)

    def loss(free):
        w = np.exp(free - free.max())
        return -float(n @ np.log(w / w.sum() @ DENSITIES))

    best = min((minimize(loss, rng.normal(size=4), method="BFGS") for _ in range(5)), key=lambda done: done.fun)
    w = mixture_weights(n[None], DENSITIES, steps=5000)[0]
    assert -float(n @ np.log(w @ DENSITIES)) == pytest.approx(best.fun, abs=1e-3)


@given(st.lists(st.integers(0, 40), min_size=5, max_size=5).filter(any), st.integers(0, 9))
def test_each_step_is_more_likely_and_stays_a_mixture(n, steps):
    counts = np.array([n])
    before, after = (mixture_weights(counts, DENSITIES, steps=s)[0] for s in (steps, steps + 1))
    assert after.sum() == pytest.approx(1)
    assert after.min() >= 0
    assert n @ np.log(after @ DENSITIES) >= n @ np.log(before @ DENSITIES) - 1e-9


def test_odds_by_hand():
    p = np.array([[0.2, 0.8], [0.6, 0.4]])
    odds = target_odds(np.array([[0.5, 0.5]]), p)
    assert odds == pytest.approx(np.array([[0.25, 2 / 3]]))


# Shares of the four classes in a group. Over 2,000 groups of other seeds a cell, with 30 and 100 pictures, the interval held
# the retrieved share in 0.936 to 0.983 and the share among accepted pictures in 0.943 to 0.994 of them.
MIXTURES = {
    "pure": (1.0, 0.0, 0.0, 0.0),
    "one similar class": (0.6, 0.4, 0.0, 0.0),
    "all of one similar class": (0.0, 1.0, 0.0, 0.0),
    "random": (0.6, 0.1, 0.15, 0.15),
}


def simulated(rng, weights, size, runs):
    """Verdicts of groups [runs, bands], and the true shares among all and among the accepted pictures."""
    of = np.round(np.array(weights) * size).astype(int)
    each = np.stack([rng.multinomial(k, p, runs) for k, p in zip(of, DENSITIES, strict=True)])
    n = each.sum(0)
    yes = n[:, 2:].sum(1)
    return n, of[0] / size, np.divide(each[0, :, 2:].sum(1), yes, out=np.full(runs, np.nan), where=yes > 0)


def covered(low, truth, high):
    return float(np.mean((low - 1e-9 <= truth) & (truth <= high + 1e-9)))


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("size", [30, 100])
def test_covering_in_simulation(name, size):
    """120 calibrations with 5 groups each."""
    rng = np.random.default_rng(5)
    retrieved, target, point = [], [], []
    for _ in range(120):
        confusion = tried(rng)
        n, share, left = simulated(rng, MIXTURES[name], size, 5)
        done = mixture_precision(n, confusion)
        retrieved.append(covered(done.retrieved_low, share, done.retrieved_high))
        target.append(covered(done.target_low, left, done.target_high))
        point.append(done.target)
    assert np.mean(retrieved) >= 0.88
    assert np.mean(target) >= 0.9
    if name == "all of one similar class":
        assert np.quantile(point, 0.95) < 0.7


def test_one_specificity_for_all_classes_misses_what_the_mixture_finds():
    """Groups that are all of the similar class: with one specificity most of them seem to show the target."""
    rng = np.random.default_rng(6)
    confusion = tried(rng, 200)
    n, _, _ = simulated(rng, MIXTURES["all of one similar class"], 50, 50)
    yes = n[:, 2:].sum(1)
    rates = confusion.counts[:, 2:].sum(1) / 200
    one = group_precision(yes, 50 - yes, rates[0], 1 - rates[1:].mean(), positives=200, negatives=600)
    done = mixture_precision(n, confusion)
    assert one.target_low.min() > 0.3
    assert np.mean(one.target > 0.7) > 0.95
    assert done.target.max() < 0.7
    assert done.target.mean() < 0.15


def test_alike_classes_give_a_wide_interval_that_holds_all_answers():
    """Car and truck get the same verdicts: every share between is as likely."""
    alike = DENSITIES.copy()
    alike[1] = alike[0]
    confusion = Confusion(("truck", "car", "frog", "deer"), EDGES, 2, 1000 * alike)
    done = mixture_precision((100 * alike[:1]).astype(int), confusion)
    assert done.target_low[0] < 0.1
    assert done.target_high[0] > 0.9
    known = mixture_precision((100 * alike[:1]).astype(int), confusion._replace(counts=1000 * DENSITIES))
    assert known.target_high[0] - known.target_low[0] < 0.5


@given(
    st.lists(st.lists(st.integers(0, 30), min_size=5, max_size=5), min_size=1, max_size=4),
    st.integers(0, 20),
    st.booleans(),
)
def test_points_lie_in_their_intervals(n, blank, reject):
    confusion = tried(np.random.default_rng(0))
    done = mixture_precision(n, confusion, unanswered=blank, reject=reject)
    for i, counts in enumerate(n):
        for point, low, high in ((done[0], done[1], done[2]), (done[3], done[4], done[5])):
            if not any(counts) or (point is done[3] and reject and not (blank or any(counts[2:]))):
                assert np.isnan([point[i], low[i], high[i]]).all()
            else:
                assert 0 <= low[i] <= point[i] <= high[i] <= 1 + 1e-12


def test_nothing_to_judge():
    confusion = tried(np.random.default_rng(0))
    assert mixture_precision(np.empty((0, 5), int), confusion).target.shape == (0,)
    done = mixture_precision([[9, 1, 0, 0, 0], [0, 0, 0, 0, 0]], confusion)
    assert done.retrieved[0] < 0.2
    assert np.isnan([done.target[0], done.retrieved[1]]).all()
    with pytest.raises(ValueError, match="negative"):
        mixture_precision([[1, -1, 0, 0, 0]], confusion)


def test_sixty_groups_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    began = time.process_time()
    for _ in range(10):
        mixture_precision(rng.multinomial(50, DENSITIES[0], 6), tried(rng))
    assert time.process_time() - began < 2


# --- calibration -----------------------------------------------------------------------------------------------------


def test_bands_hold_the_threshold_and_equal_shares():
    positive = np.linspace(0, 1, 201)
    edges = score_edges(positive, 0.2)
    assert len(edges) == 1 + 7 + 1
    assert 0.2 in edges
    share = np.histogram(positive[positive >= 0.2], np.append(edges[edges >= 0.2], 1.1))[0]
    assert share.max() - share.min() <= 1
    assert score_edges([0.3, 0.5], 0.4).tolist() == [0.4]


def test_confusion_of_scores():
    rng = np.random.default_rng(3)
    labels = [*["dog"] * 60, *["wolf"] * 60, *["cup"] * 60, *["elk"] * 3]
    score = np.concatenate([rng.beta(5, 2, 60), rng.beta(3, 3, 60), rng.beta(1, 20, 60), [0.1, 0.2, 0.9]])
    found = confusion_of(score, labels, "dog", 0.5)
    assert found.classes == ("dog", "wolf", "cup", REST)
    assert found.counts.sum(1).tolist() == [60, 60, 60, 3]
    said = found.counts[:, found.first_yes :].sum(1)
    assert said.tolist() == [(score[np.array(labels) == c] >= 0.5).sum() for c in ("dog", "wolf", "cup", "elk")]
    again = Confusion.from_json(found.to_json())
    assert again.classes == found.classes
    assert (again.edges == found.edges).all()
    assert (again.counts == found.counts).all()
    assert again.tally(score[:60]).tolist() == found.counts[0].tolist()
    assert confusion_of(score[:120], labels[:120], "dog", 0.5) is None


def test_of_many_classes_the_similar_ones_stay_apart():
    labels = [f"c{i:02}" for i in range(40) for _ in range(6)]
    score = np.array([i / 40 for i in range(40) for _ in range(6)])
    found = confusion_of(score, labels, "c39", 0.5)
    assert len(found.classes) == MAX_CLASSES
    assert found.classes[0] == "c39"
    assert found.classes[-1] == REST
    assert found.counts.sum() == 240


def test_rows_say_how_they_were_estimated():
    confusion = tried(np.random.default_rng(0))
    scored = Answers("truck", "light", "dim", "caption", 2, 1, 1, scores=(0.9, 0.05, 0.6))
    plain = scored._replace(scores=())
    rows = precision_rows(
        [scored, plain, scored._replace(target="elk"), scored],
        {"truck": Quality(0.9, 0.8, 100, 300, confusion)},
        reject=True,
    )
    assert [row["method"] for row in rows] == ["mixture", "rogan_gladen", None, "mixture"]
    assert [row["target"] for row in rows] == ["truck", "truck", "elk", "truck"]
    alone = mixture_precision([[1, 0, 0, 1, 1]], confusion, unanswered=[1])
    assert rows[0]["target_precision"] == pytest.approx(alone.target[0])
    assert rows[0]["target_low"] <= rows[0]["target_precision"] <= rows[0]["target_high"]

"""Metrics of retrieval and classification, folds, and their intervals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from runner.nodes.sem.folds import appearances, repeated_halves
from runner.nodes.sem.intervals_folds import (
    normal_interval,
    per_fold_interval,
    percentile_interval,
    published_interval,
    resample_images,
    resample_retrieval,
    retrieval_figures,
)
from runner.nodes.sem.metrics import (
    class_counts,
    cosines,
    kl_divergence,
    max_skew,
    precision_at,
    predicted,
    prior_of,
    ranked,
    worst_group,
)

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=40, deadline=None)


def counts_and_prior(seed, classes=4):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 20, (6, classes)) + np.eye(6, classes, dtype=int), rng.dirichlet(np.ones(classes), 6)


@given(SEEDS)
@few
def test_divergences_are_never_negative_and_zero_only_for_equal_shares(seed):
    counts, prior = counts_and_prior(seed)
    kl, skew = kl_divergence(counts, prior), max_skew(counts, prior)
    assert (kl >= -1e-12).all() and (skew >= 0).all()
    shares = counts / counts.sum(1, keepdims=True)
    positive = np.maximum(counts, 1)
    np.testing.assert_allclose(kl_divergence(positive, positive * 3), 0, atol=1e-12)
    np.testing.assert_allclose(max_skew(positive, positive * 3), 0, atol=1e-12)
    assert ((kl > 1e-9) == (np.abs(shares - prior).max(1) > 1e-9)).all()
    for i in range(6):
        expected = sum(r * math.log(r / p) for r, p in zip(shares[i], prior[i], strict=True) if r)
        assert kl[i] == pytest.approx(expected)
        assert skew[i] == pytest.approx(max(0, max(math.log(max(r / p, 1e-10)) for r, p in zip(shares[i], prior[i]))))  # noqa: B905


def test_one_class_alone_gives_the_logarithm_of_its_share():
    prior = [0.1, 0.4, 0.5]
    for c, p in enumerate(prior):
        counts = np.eye(3)[c] * 500
        assert kl_divergence(counts, prior) == pytest.approx(math.log(1 / p))
        assert max_skew(counts, prior) == pytest.approx(math.log(1 / p))


def test_a_class_that_the_population_lacks_is_refused():
    for of in (kl_divergence, max_skew):
        with pytest.raises(ValueError, match="absent"):
            of([3, 2, 0], [0.5, 0.5, 0.0])
        with pytest.raises(ValueError, match="at least one image"):
            of([0, 0], [0.5, 0.5])
        with pytest.raises(ValueError, match="classes"):
            of([1, 0], [0.5, 0.3, 0.2])
    with pytest.raises(ValueError, match="bias class 1 is absent"):
        prior_of([0, 2, 2], 3)
    np.testing.assert_allclose(prior_of([0, 1, 1, 2], 3), [0.25, 0.5, 0.25])


@given(SEEDS)
@few
def test_ranking_and_prediction_are_those_of_sorted_cosines(seed):
    rng = np.random.default_rng(seed)
    images, queries = torch.tensor(rng.normal(size=(50, 7))), torch.tensor(rng.normal(size=(3, 7)))
    similarity = cosines(images, queries)
    expected = torch.nn.functional.cosine_similarity(queries[:, None], images[None], dim=-1)
    torch.testing.assert_close(similarity, expected)
    evaluated = rng.permutation(50)[:20]
    got = ranked(similarity, evaluated, 5)
    for q in range(3):
        assert got[q].tolist() == sorted(evaluated.tolist(), key=lambda i, q=q: -float(expected[q, i]))[:5]
    np.testing.assert_array_equal(predicted(images, queries), expected.argmax(0))
    with pytest.raises(ValueError, match="K = 21"):
        ranked(similarity, evaluated, 21)
    with pytest.raises(ValueError, match="row 0 has the norm 0"):
        cosines(images, queries * 0)
    with pytest.raises(ValueError, match="6 wide"):
        cosines(images, queries[:, :6])


def test_counts_and_precision():
    classes = np.array([0, 1, 2, 1, 0])
    retrieved = np.array([[[0, 1], [3, 1]], [[2, 2], [4, 0]]])
    np.testing.assert_array_equal(class_counts(retrieved, classes, 3), [[[1, 1, 0], [0, 2, 0]], [[0, 0, 2], [2, 0, 0]]])
    np.testing.assert_allclose(precision_at(retrieved, classes == 1), [[0.5, 1], [0, 0]])


def test_worst_group_by_hand():
    target, bias = [0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 1, 1]
    got = worst_group([1, 0, 1, 1, 0, 1], target, bias)
    assert (got.accuracy, got.worst) == (pytest.approx(4 / 6), 0.5)
    assert got.gap == pytest.approx(got.accuracy - got.worst)
    assert got.groups.n.tolist() == [2, 1, 1, 2] and got.groups.correct.tolist() == [1, 1, 1, 1]
    assert list(zip(got.groups.target, got.groups.bias, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    with pytest.raises(ValueError, match="one entry an image"):
        worst_group([1, 0], [0, 1], [0])


def test_folds_go_on_shuffling_one_array():
    np.random.seed(42)
    indices = np.arange(11)
    expected = []
    for _ in range(4):
        np.random.shuffle(indices)
        expected.append(indices.copy())
    folds = repeated_halves(11, folds=4)
    np.testing.assert_array_equal(np.concatenate([folds.reference, folds.evaluated], axis=1), expected)
    assert folds.reference.shape == (4, 5) and folds.evaluated.shape == (4, 6)
    assert appearances(folds).sum() == 24
    with pytest.raises(ValueError, match="cannot be split"):
        repeated_halves(1)


@given(SEEDS, st.integers(2, 200))
@few
def test_the_published_interval_is_that_of_a_t_test(seed, n):
    values = np.random.default_rng(seed).normal(size=n)
    got = published_interval(values)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (got.low, got.high, got.n) == (pytest.approx(low), pytest.approx(high), n)
    by_fold = per_fold_interval(np.repeat(values[:, None], 7, axis=1))
    assert (by_fold.low, by_fold.n) == (pytest.approx(low), n)


def test_an_interval_of_one_value_has_no_limits():
    got = published_interval([0.3])
    assert got.mean == 0.3 and math.isnan(got.low) and math.isnan(got.high)
    with pytest.raises(ValueError, match="no NaN"):
        published_interval([0.3, float("nan")])


def answers(seed, n=400, folds=6):
    """Images of two targets and two attributes, answered by two methods in the folds that evaluate them."""
    rng = np.random.default_rng(seed)
    target, bias = rng.integers(0, 2, n), rng.integers(0, 2, n)
    chance = np.where(target == bias, 0.9, 0.5)
    right = rng.random((2, n)) < np.stack([chance, 0.5 + 0.5 * (chance - 0.2)])
    tries = appearances(repeated_halves(n, folds))
    return tries, right * tries, target * 2 + bias


def test_resampled_images_agree_with_drawing_them_one_by_one():
    tries, hits, group = answers(3)
    got = resample_images(tries, hits, group, draws=4000, seed=1)
    rng = np.random.default_rng(2)
    plain = {"accuracy": [], "worst": [], "gap": []}
    for _ in range(1500):
        rows = rng.integers(0, len(tries), len(tries))
        rows = rows[tries[rows] > 0]
        share = hits[:, rows].sum(1) / tries[rows].sum()
        by_group = np.array(
            [hits[:, rows[group[rows] == g]].sum(1) / tries[rows[group[rows] == g]].sum() for g in range(4)]
        )
        plain["accuracy"].append(share)
        plain["worst"].append(by_group.min(0))
        plain["gap"].append(share - by_group.min(0))
    for name, values in plain.items():
        drawn, reference = getattr(got, name), np.array(values)
        np.testing.assert_allclose(drawn.mean(0), reference.mean(0), atol=0.004)
        np.testing.assert_allclose(drawn.std(0), reference.std(0), rtol=0.12)
        # Both methods see the same images, so their difference varies less than two independent ones would.
        np.testing.assert_allclose(np.ptp(drawn, axis=1).std(), np.ptp(reference, axis=1).std(), rtol=0.15)


def test_resampling_images_is_wider_than_counting_their_repetitions():
    tries, hits, group = answers(5)
    pooled = np.repeat(hits[0] > 0, tries)
    published = published_interval(pooled)
    draws = resample_images(tries, hits[:1], group, draws=3000).accuracy[:, 0]
    honest = percentile_interval(published.mean, draws, int((tries > 0).sum()))
    assert honest.high - honest.low > 1.4 * (published.high - published.low)
    assert honest.low < published.mean < honest.high


def test_what_cannot_be_resampled_is_refused():
    with pytest.raises(ValueError, match="more often"):
        resample_images([1, 1], [[1, 2]], [0, 0])
    with pytest.raises(ValueError, match="at least one image"):
        resample_images([0, 0], [[0, 0]], [0, 0])
    with pytest.raises(ValueError, match="one entry an image"):
        resample_images([1, 1], [[1, 0, 1]], [0, 0])


def retrieval(seed, n=600, k=40):
    rng = np.random.default_rng(seed)
    classes = (rng.random(n) < 0.3).astype(int)
    similarity = torch.tensor(rng.normal(size=(2, n)) + 0.7 * classes)
    folds = repeated_halves(n, folds=3)
    return classes, similarity, folds, k


def orders(similarity, folds, places):
    return np.stack([ranked(similarity, rows, places) for rows in folds.evaluated])


def test_resampled_retrieval_agrees_with_ranking_every_draw_anew():
    classes, similarity, folds, k = retrieval(0)
    order = orders(similarity, folds, 6 * k)
    kl, skew = resample_retrieval(order, folds.evaluated, classes, 2, k, draws=300, seed=4)
    rng = np.random.default_rng(4)
    expected = []
    for _ in range(300):
        weight = rng.multinomial(len(classes), np.full(len(classes), 1 / len(classes)))
        figures = []
        for rows in folds.evaluated:
            copies = np.repeat(rows, weight[rows])
            for q in range(2):
                best = copies[np.argsort(-similarity[q].numpy()[copies], kind="stable")[:k]]
                counts = np.bincount(classes[best], minlength=2)
                prior = np.bincount(classes[copies], minlength=2)
                figures.append((kl_divergence(counts, prior), max_skew(counts, prior)))
        expected.append(np.mean(figures, axis=0))
    np.testing.assert_allclose(np.stack([kl, skew], 1), expected, atol=1e-12)


def test_figures_of_retrieval_and_their_intervals():
    classes, similarity, folds, k = retrieval(1)
    order = orders(similarity, folds, 6 * k)
    kl, skew, counts = retrieval_figures(order, folds.evaluated, classes, 2, k)
    assert kl.shape == skew.shape == (3, 2) and counts.sum(-1).tolist() == [[k, k]] * 3
    prior = np.bincount(classes[folds.evaluated[2]], minlength=2) / len(folds.evaluated[2])
    assert kl[2, 1] == pytest.approx(float(kl_divergence(np.bincount(classes[order[2, 1, :k]], minlength=2), prior)))
    drawn, _ = resample_retrieval(order, folds.evaluated, classes, 2, k, draws=100)
    interval = normal_interval(float(kl.mean()), drawn, len(classes))
    assert interval.low < kl.mean() < interval.high and interval.low >= 0
    with pytest.raises(ValueError, match="too short"):
        resample_retrieval(order[..., : k // 4], folds.evaluated, classes, 2, k, draws=5)

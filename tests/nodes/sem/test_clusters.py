"""Intervals where pictures that show the same are resampled together, and where no resample can differ."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats
from steps_material import bird_pictures, bird_prompts, load_clip, messages, write_clip

from results.tables import arrow_table
from runner.context import local_context
from runner.errors import DataError
from runner.nodes.sem.folds import appearances, repeated_halves
from runner.nodes.sem.intervals_folds import (
    cluster_codes,
    percentile_interval,
    resample_images,
    resample_retrieval,
)
from runner.nodes.sem.methods_specs import Methods
from runner.nodes.sem.metrics import kl_divergence, max_skew, ranked
from runner.nodes.sem.steps import compare, retrieval, texts, zero_shot

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=25, deadline=None)


def answers(seed, n=200, methods=2):
    """Tries, hits and one of three groups of each picture."""
    rng = np.random.default_rng(seed)
    tries = appearances(repeated_halves(n, 5, seed=seed))
    return tries, (rng.random((methods, n)) < 0.7) * tries, rng.integers(0, 3, n)


def same(one, other):
    for got, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(got, expected)


@given(SEEDS)
@few
def test_clusters_of_one_picture_are_pictures(seed):
    tries, hits, group = answers(seed)
    names = np.random.default_rng(seed).permutation(len(tries))
    same(
        resample_images(tries, hits, group, cluster=names, draws=50, seed=seed),
        resample_images(tries, hits, group, draws=50, seed=seed),
    )


@given(SEEDS, st.integers(2, 6))
@few
def test_copies_of_a_picture_that_are_drawn_together_tell_nothing_new(seed, copies):
    tries, hits, group = answers(seed)
    often = resample_images(
        *(np.repeat(a, copies, axis=-1) for a in (tries, hits, group)),
        cluster=np.repeat(np.arange(len(tries)), copies), draws=50, seed=seed,
    )  # fmt: skip
    for got, expected in zip(often, resample_images(tries, hits, group, draws=50, seed=seed), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12)


def alike(seed, clusters=30, size=12):
    """Pictures of a cluster are answered alike and evaluated as often; they spread over the two groups of their target."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(clusters), size)
    right = rng.random((1, clusters)) < np.where(np.arange(clusters) % 2, 0.6, 0.9)
    group = cluster % 2 * 2 + rng.integers(0, 2, len(cluster))
    return np.full(len(cluster), 4), 4 * np.repeat(right, size, axis=1), group, cluster


def test_resampled_clusters_agree_with_drawing_them_one_by_one():
    tries, hits, group, cluster = alike(1)
    got = resample_images(tries, hits, group, cluster=cluster, draws=6000, seed=3)
    rng, expected = np.random.default_rng(8), []
    for _ in range(3000):
        rows = np.concatenate([np.flatnonzero(cluster == c) for c in rng.integers(0, 30, 30)])
        shares = [hits[0, own].sum() / tries[own].sum() for g in range(4) if len(own := rows[group[rows] == g])]
        accuracy = hits[0, rows].sum() / tries[rows].sum()
        expected.append((accuracy, min(shares), accuracy - min(shares)))
    for draws, reference in zip(got, np.array(expected).T, strict=True):
        assert draws.mean() == pytest.approx(reference.mean(), abs=0.008)
        np.testing.assert_allclose(
            np.quantile(draws, [0.025, 0.975]), np.quantile(reference, [0.025, 0.975]), atol=0.03
        )
    single = resample_images(tries, hits, group, draws=2000).accuracy
    assert got.accuracy.std() > 2.5 * single.std()


def test_resampled_retrieval_of_clusters_agrees_with_ranking_every_draw_anew():
    rng, n, k = np.random.default_rng(0), 240, 20
    classes, cluster = (rng.random(n) < 0.4).astype(int), rng.integers(0, 60, n)
    similarity = torch.tensor(rng.normal(size=(2, n)) + rng.normal(size=60)[cluster])
    halves = repeated_halves(n, folds=2)
    order = np.stack([ranked(similarity, rows, n // 2) for rows in halves.evaluated])
    got = resample_retrieval(order, halves.evaluated, classes, 2, k, cluster=cluster, draws=40, seed=4)
    again, expected = np.random.default_rng(4), []
    for _ in range(40):
        weight = again.multinomial(60, np.full(60, 1 / 60))
        figures = []
        for rows in halves.evaluated:
            copies = np.concatenate([np.repeat(row, weight[cluster[row]]) for row in rows])
            for q in range(2):
                best = copies[np.argsort(-similarity[q].numpy()[copies], kind="stable")[:k]]
                counts = [np.bincount(classes[own], minlength=2) for own in (best, copies)]
                figures.append((kl_divergence(*counts), max_skew(*counts)))
        expected.append(np.mean(figures, axis=0))
    np.testing.assert_allclose(np.stack(got, 1), expected, atol=1e-12)
    alone = (
        resample_retrieval(order, halves.evaluated, classes, 2, k, cluster=c, draws=5) for c in (np.arange(n), None)
    )
    same(*alone)


def test_draws_that_cannot_hold_k_pictures_are_unknown():
    rng, halves = np.random.default_rng(0), repeated_halves(60, folds=2)
    order = np.stack([ranked(torch.tensor(rng.normal(size=(1, 60))), rows, 30) for rows in halves.evaluated])
    kl, skew = resample_retrieval(order, halves.evaluated, np.arange(60) % 2, 2, 30, draws=60)
    assert 0 < np.isnan(kl).sum() < 60 and (np.isnan(kl) == np.isnan(skew)).all()


def test_codes_of_clusters():
    assert cluster_codes(["b", None, "a", "b", None]).tolist() == [0, 1, 2, 0, 3]


# --- shares that never vary ------------------------------------------------------------------------------------------


def interval(draws, estimate, n=100):
    return percentile_interval(estimate, draws[:, 0], n)


@pytest.mark.parametrize("size", [3, 20, 200])
def test_a_worst_group_that_is_all_wrong_gets_the_interval_of_jeffreys(size):
    rng = np.random.default_rng(0)
    hits = np.concatenate([np.zeros(size, int), rng.integers(0, 2, 400)])
    group = np.repeat([0, 1], [size, 400])
    drawn = resample_images(np.ones_like(hits), hits, group, draws=20_000)
    got = interval(drawn.worst, 0.0)
    assert got.low == 0
    assert got.high == pytest.approx(min(stats.beta.ppf(0.975, 0.5, size + 0.5), 0.55), rel=0.1)
    assert np.allclose(drawn.gap, np.maximum(drawn.accuracy - drawn.worst, 0))
    assert drawn.accuracy.std() == pytest.approx(hits.std() / np.sqrt(len(hits)), rel=0.05)


def test_answers_that_are_all_right_have_intervals_with_width():
    tries = np.full(60, 2)
    drawn = resample_images(tries, tries, np.zeros(60, int), draws=20_000)
    for draws in (drawn.accuracy, drawn.worst):
        got = interval(draws, 1.0)
        assert got.high == 1 and got.low == pytest.approx(stats.beta.ppf(0.025, 60.5, 0.5), abs=0.002)
    both = resample_images(tries, [tries, tries], np.repeat([0, 1], 30), draws=500)
    assert (both.gap >= 0).all() and both.worst.mean() < drawn.worst.mean()
    np.testing.assert_array_equal(both.worst[:, 0], both.worst[:, 1])


def test_a_worst_group_of_one_cluster_counts_as_one():
    tries, hits = np.ones(110, int), np.concatenate([np.arange(10) < 4, np.arange(100) % 10 > 0]).astype(int)
    cluster = np.concatenate([np.zeros(10, int), 1 + np.arange(100)])
    got = interval(resample_images(tries, hits, np.repeat([0, 1], [10, 100]), cluster=cluster, draws=9000).worst, 0.4)
    assert got.low == pytest.approx(stats.beta.ppf(0.025, 0.9, 1.1), abs=0.02) and got.high > 0.8


def test_a_group_that_never_varies_but_is_not_the_worst_changes_nothing():
    hits, group = np.concatenate([np.ones(2, int), np.arange(80) % 2]), np.repeat([0, 1], [2, 80])
    drawn = resample_images(np.ones_like(hits), hits, group, draws=2000)
    assert interval(drawn.worst, 0.5).low > 0.35
    assert np.isnan(percentile_interval(0.5, [0.5, 0.5], 1).low)


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(write_clip(tmp_path_factory.mktemp("clusters") / "clip"))


@pytest.fixture(scope="module")
def debiased(clip, tmp_path_factory):
    methods = TypeAdapter(Methods).validate_python(["vanilla", "orth_proj"])
    return texts(local_context(tmp_path_factory.mktemp("texts")), clip=clip, prompts=bird_prompts(), methods=methods)


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "work")


def pasted(clip, cut_outs=12, without=0, copied=True):
    """Birds as composed sets have them: a free attribute says which cut-out a picture shows; its copies are nearly alike."""
    features, images = bird_pictures(clip)
    rows, n = images.attributes.to_pylist(), 240
    rows += [
        {"dataset": "birds", "sample_id": f"b{i}", "attribute": "cut_out", "value": f"bird\n{i % cut_outs}"}
        for i in range(n - without)
    ]
    about = [images.about[0] | {"attributes": {**images.about[0]["attributes"], "cut_out": []}}]
    if copied:
        vectors = features.features["features"][np.arange(n) % cut_outs]
        vectors = vectors + np.random.default_rng(1).normal(0, 1e-3, vectors.shape).astype(np.float32)
        features = dataclasses.replace(features, features={"features": vectors})
    return features, dataclasses.replace(images, about=about, attributes=arrow_table("dataset_attribute", rows))


def asked(pictures, debiased, **more):
    return {
        "features": pictures[0],
        "images": pictures[1],
        "texts": [debiased],
        "attribute": "place",
        "folds": 3,
        **more,
    }


def widths(scores):
    rows = [r for r in scores.summary.to_pylist() if r["ci_kind"] in ("by_image", "by_cluster")]
    assert len({r["ci_kind"] for r in rows}) == 1
    return rows[0]["ci_kind"], {
        (r["method"], r["metric"]): (r["mean"], r["ci_high"] - r["ci_low"], r["n"]) for r in rows
    }


def test_evaluations_resample_cut_outs(ctx, clip, debiased):
    pictures = pasted(clip)
    for step, more in ((zero_shot, {}), (retrieval, {"k": 20, "draws": 200})):
        kind, one = widths(step(ctx, **asked(pictures, debiased, **more)))
        clustered, other = widths(step(ctx, **asked(pictures, debiased, cluster="cut_out", **more)))
        assert (kind, clustered) == ("by_image", "by_cluster") and one.keys() == other.keys()
        assert {n for _, _, n in other.values()} == {12}
        assert all(one[key][0] == other[key][0] for key in one)
        assert all(other[key][1] > 1.2 * one[key][1] > 0 for key in one)


def test_singletons_have_the_intervals_of_pictures(ctx, clip, debiased):
    pictures = pasted(clip, cut_outs=240, without=40, copied=False)
    plain, by_one = (zero_shot(ctx, **asked(pictures, debiased, cluster=c)) for c in (None, "cut_out"))
    assert widths(plain)[1] == widths(by_one)[1]
    assert any("40 of 240 pictures have no cut_out: each counts" in text for text in messages(ctx))
    assert set(plain.answers.column("cluster").to_pylist()) == {None}
    assert len(set(by_one.answers.column("cluster").to_pylist())) > 150


def test_comparisons_resample_what_both_were_resampled_by(ctx, clip, debiased):
    pictures = pasted(clip)
    plain, clustered = (zero_shot(ctx, **asked(pictures, debiased, cluster=c)) for c in (None, "cut_out"))
    by_size = zero_shot(ctx, **asked(pictures, debiased, cluster="size"))

    def accuracy(first, second):
        rows = compare(ctx, scores={"a": first, "b": second}, draws=1000).differences.to_pylist()
        return next(r for r in rows if r["second"] == "b/orth_proj" and r["metric"] == "accuracy")

    alone, together = accuracy(plain, plain), accuracy(clustered, clustered)
    assert (alone["clusters"], together["clusters"]) == (None, 12) and alone["n"] == together["n"]
    assert alone["difference"] == together["difference"] != 0
    assert together["ci_high"] - together["ci_low"] > 2 * (alone["ci_high"] - alone["ci_low"])
    assert accuracy(plain, clustered) == alone
    assert any("has clusters: pictures are resampled one by one" in text for text in messages(ctx))
    with pytest.raises(DataError, match="have different clusters"):
        accuracy(clustered, by_size)


def test_clusters_that_cannot_be_resampled_are_refused(ctx, clip, debiased):
    for step, more in ((zero_shot, {}), (retrieval, {"k": 10})):
        with pytest.raises(DataError, match="cluster: birds has no attribute 'figure'"):
            step(ctx, **asked(pasted(clip), debiased, cluster="figure", **more))
        with pytest.raises(DataError, match="all pictures have the same 'cut_out'"):
            step(ctx, **asked(pasted(clip, cut_outs=1), debiased, cluster="cut_out", **more))
    crowded = retrieval(ctx, **asked(pasted(clip), debiased, cluster="cut_out", k=110, draws=50))
    assert {r["ci_kind"] for r in crowded.summary.to_pylist()} == {"published", "by_fold"}
    assert any("fewer than 110 pictures" in text for text in messages(ctx))

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from runner.errors import DataError
from runner.models.encoders.heads import unit_rows
from runner.nodes.contrastive_loss import multi_positive_info_nce
from runner.nodes.encoder.contrastive import fit_contrastive
from runner.nodes.encoder.fitting import fit_and_score, held_out_captions, make_pairs
from runner.nodes.encoder_metrics import accuracy_score, hold_out, rank_of_own, recall_scores
from runner.nodes.ridge import fit_logit_scale, fit_ridge

SEEDS = st.integers(0, 2**32 - 1)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_ridge_by_hand():
    """Centred A = (-1, 1)', B = (-2, 2)': W = (2 + 0.3)^-1 x 4."""
    head = fit_ridge(np.array([[1.0], [3.0]]), np.array([[0.0], [4.0]]))
    assert head.W[0, 0] == pytest.approx(4 / 2.3)
    assert (head.mean_v[0], head.mean_t[0]) == (2.0, 2.0)


@settings(deadline=None)
@given(SEEDS)
def test_ridge_is_least_squares_with_penalty_rows(seed):
    """The same minimiser from an independent formulation: append sqrt(0.3) I to A and zeros to B."""
    v, t = normal(seed, 30, 5), normal(seed + 1, 30, 4)
    A, B = v - v.mean(0), t - t.mean(0)
    stacked = np.linalg.lstsq(np.vstack([A, np.sqrt(0.3) * np.eye(5)]), np.vstack([B, np.zeros((5, 4))]), rcond=None)[0]
    np.testing.assert_allclose(fit_ridge(v, t).W, stacked, atol=1e-5)


def test_ridge_needs_pairs():
    for v, t, ridge in (([[1.0]], [[1.0]], 0.3), ([[1.0], [2.0]], [[1.0]], 0.3), ([[1.0], [2.0]], [[1.0], [2.0]], 0)):
        with pytest.raises(ValueError, match="fit_ridge needs"):
            fit_ridge(np.array(v), np.array(t), ridge=ridge)


def test_logit_scale_is_where_the_slope_vanishes():
    cosines, own = normal(0, 200, 7) * 0.2, np.random.default_rng(1).integers(0, 7, 200)
    cosines[np.arange(200), own] += 0.1
    scale = fit_logit_scale(cosines, own)
    p = np.exp(scale * cosines)
    p /= p.sum(1, keepdims=True)
    slope = np.mean((p * cosines).sum(1) - cosines[np.arange(200), own])
    assert 1 < scale < 100
    assert abs(slope) < 1e-4


@settings(deadline=None)
@given(SEEDS, st.integers(2, 9))
def test_info_nce_with_one_positive_is_clips_loss(seed, n):
    logits = torch.from_numpy(normal(seed, n, n) * 5)
    own = torch.arange(n)
    expected = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    assert multi_positive_info_nce(logits, torch.eye(n, dtype=torch.bool)).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


@settings(deadline=None)
@given(SEEDS, st.lists(st.integers(0, 3), min_size=2, max_size=9))
def test_info_nce_does_not_depend_on_the_order(seed, captions):
    number = torch.tensor(captions)
    logits = torch.from_numpy(normal(seed, len(captions), len(captions)))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(captions)))
    loss = [
        multi_positive_info_nce(x, c[:, None] == c[None]).item()
        for x, c in ((logits, number), (logits[order][:, order], number[order]))
    ]
    assert loss[0] == pytest.approx(loss[1], rel=1e-6)


def test_info_nce_at_its_ends():
    """Equal logits give log n; if all are the same caption that is the least there is; a perfect match gives 0."""
    assert multi_positive_info_nce(torch.zeros(4, 4), torch.eye(4, dtype=torch.bool)).item() == pytest.approx(np.log(4))
    assert multi_positive_info_nce(torch.zeros(4, 4), torch.ones(4, 4, dtype=torch.bool)).item() == pytest.approx(
        np.log(4)
    )
    assert multi_positive_info_nce(torch.eye(4) * 200, torch.eye(4, dtype=torch.bool)).item() == pytest.approx(
        0, abs=1e-6
    )


def test_contrastive_fit_learns_and_repeats_and_leaves_torch_as_it_was():
    t = unit_rows(normal(0, 40, 16).astype(np.float32))
    v = unit_rows((t @ normal(1, 16, 12)).astype(np.float32))
    caption = np.arange(40)
    torch.manual_seed(5)
    before, threads = torch.rand(1).item(), torch.get_num_threads()
    torch.manual_seed(5)
    first, again = (fit_contrastive(v, t, caption, seed=3, epochs=60) for _ in range(2))
    assert torch.rand(1).item() == before
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(first.images(v), again.images(v))
    ranks = rank_of_own(first.images(v), first.texts(t), caption)
    assert (ranks == 0).mean() > 0.9
    assert not np.allclose(first.images(v), fit_contrastive(v, t, caption, seed=4, epochs=60).images(v))


def test_ranks_by_hand_and_ties_earn_nothing():
    captions = np.eye(3)
    images = np.array([[1.0, 0.5, 0.2], [1.0, 0.5, 0.2], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(rank_of_own(images, captions, np.array([0, 2, 1])), [0, 2, 2])


def test_recall_carries_n_interval_and_chance():
    one, five = recall_scores("ridge", "set", np.array([0, 0, 3, 9]), captions=20)
    assert (one.metric, one.value, one.n, one.chance) == ("recall@1", 0.5, 4, 0.05)
    assert (five.metric, five.value, five.chance) == ("recall@5", 0.75, 0.25)
    assert one.low == pytest.approx(0.15003899, abs=1e-6)
    assert one.high == pytest.approx(0.84996101, abs=1e-6)


def test_accuracy_by_hand():
    score = accuracy_score("h", "d", "{}", np.eye(3)[[0, 1, 2, 0]], np.eye(3), np.array([0, 1, 0, 0]))
    assert (score.value, score.n, score.chance) == (0.75, 4, pytest.approx(1 / 3))


@given(st.integers(0, 300), st.floats(0, 0.9), SEEDS)
def test_hold_out_takes_the_share_and_repeats(captions, share, seed):
    held = hold_out(captions, share, seed)
    assert held.sum() == round(share * captions)
    np.testing.assert_array_equal(held, hold_out(captions, share, seed))


def _pairs(n=60):
    names = [f"thing {i % 30}" for i in range(n)]
    t = unit_rows(normal(0, 30, 16).astype(np.float32))
    number = {name: i for i, name in enumerate(sorted(set(names)))}
    v = (t[[number[name] for name in names]] @ normal(1, 16, 12)).astype(np.float32)
    return make_pairs(v, names, ["a"] * 40 + ["b"] * 20, lambda texts: t[[number[x] for x in texts]])


def test_held_out_captions_are_not_fitted_on():
    """Features of the held-out pictures may be anything: the heads stay the same."""
    pairs = _pairs()
    ridge, _, scores, counts = fit_and_score(pairs, holdout=0.2, seed=0, refit=False, epochs=2)
    held = hold_out(30, 0.2, 0)[pairs.caption]
    changed = pairs.v.copy()
    changed[held] = unit_rows(normal(9, int(held.sum()), 12).astype(np.float32))
    other, *_ = fit_and_score(replace(pairs, v=changed), holdout=0.2, seed=0, refit=False, epochs=2)  # fmt: skip
    np.testing.assert_array_equal(ridge.W, other.W)
    assert counts == {
        "captions": 30,
        "captions_held_out": 6,
        "pictures": 60,
        "pictures_trained": 48,
        "pictures_held_out": 12,
    }
    assert {s.head for s in scores} == {"ridge", "contrastive", "mean"}
    assert {s.chance for s in scores} == {1 / 6, 5 / 6}
    assert sum(s.n for s in scores if (s.head, s.metric) == ("ridge", "recall@1")) == 12


def test_pictures_for_training_only_teach_no_held_out_caption_and_are_not_scored():
    pairs = _pairs()
    split = held_out_captions(pairs, 0.2, 0)
    extra = replace(pairs, train_only=np.arange(60) >= 40)  # the second round over captions 0-29 starts at 30
    np.testing.assert_array_equal(split, held_out_captions(extra, 0.2, 0))
    *_, scores, counts = fit_and_score(extra, holdout=0.2, seed=0, refit=False, epochs=1)
    assert {s.dataset for s in scores} == {"a"}
    assert counts["pictures_trained"] == 48
    assert counts["pictures_held_out"] < 12
    changed = extra.v.copy()
    rows = split[extra.caption] & extra.train_only
    assert rows.any()
    changed[rows] = 1
    again = fit_and_score(replace(extra, v=changed), holdout=0.2, seed=0, refit=False, epochs=1)
    assert again[2] == scores


def test_refit_changes_the_heads_and_not_the_scores():
    first = fit_and_score(_pairs(), holdout=0.2, seed=0, refit=False, epochs=2)
    second = fit_and_score(_pairs(), holdout=0.2, seed=0, refit=True, epochs=2)
    assert first[2] == second[2]
    assert not np.array_equal(first[0].W, second[0].W)


def test_without_a_hold_out_there_are_no_scores():
    assert fit_and_score(_pairs(), holdout=0.0, seed=0, refit=True, epochs=1)[2] == []


def test_one_caption_is_too_few():
    with pytest.raises(DataError, match="two different captions"):
        make_pairs(np.ones((2, 3), np.float32), ["x", "x"], ["a", "a"], lambda texts: np.ones((1, 4), np.float32))

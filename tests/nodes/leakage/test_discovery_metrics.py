"""Measures of part discovery against scikit-learn, SciPy and figures made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, average_precision_score, normalized_mutual_info_score

from runner.nodes.leakage import discovery_metrics as metrics
from runner.nodes.leakage.discovery import keypoint_error, nmi_ari


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_nmi_and_ari_are_those_of_scikit_learn(seed: int, truths: int, slots: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    truth, predicted = draw.integers(truths, size=n), draw.integers(slots, size=n)
    found = nmi_ari(torch.from_numpy(predicted), torch.from_numpy(truth))
    assert float(found.nmi) == pytest.approx(100 * normalized_mutual_info_score(truth, predicted), abs=1e-6)
    assert float(found.ari) == pytest.approx(100 * adjusted_rand_score(truth, predicted), abs=1e-6)
    mixed = torch.randperm(slots, generator=torch.Generator().manual_seed(seed))[torch.from_numpy(predicted)]
    again = nmi_ari(mixed, torch.from_numpy(truth))
    torch.testing.assert_close(torch.stack(again), torch.stack(found))


def test_perfect_slots_give_100_and_random_ones_about_0() -> None:
    truth = torch.arange(4).repeat(500)
    assert [float(x) for x in nmi_ari((truth + 1) % 4, truth)] == pytest.approx([100, 100])
    random = torch.randint(5, (2000,), generator=torch.Generator().manual_seed(0))
    assert abs(float(nmi_ari(random, truth).ari)) < 1
    assert math.isnan(float(nmi_ari(random, -torch.ones_like(random)).nmi))


def test_counts_leave_out_what_has_no_truth() -> None:
    counts = metrics.contingency(torch.tensor([0, 1, -1, 1]), torch.tensor([2, 0, 1, 0]), (2, 3))
    assert counts.tolist() == [[0, 0, 1], [2, 0, 0]]


def test_dense_truth_is_the_first_mask_or_the_background() -> None:
    masks = torch.zeros(2, 1, 3, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 0, 0] = masks[1, 0, 1] = True
    assert metrics.dense_truth(masks).tolist() == [[0, 1, 2]]


def test_overlap_by_hand() -> None:
    masks = torch.zeros(2, 2, 4, dtype=torch.bool)
    masks[0, :, :2], masks[1, :, 2:] = True, True
    slots = torch.tensor([[1, 1, 1, 0], [1, 1, 2, 0]])
    found = metrics.overlap(masks, slots, 2)
    torch.testing.assert_close(found.iou(), torch.tensor([[0, 4 / 5], [2 / 4, 1 / 8]], dtype=torch.float64))
    assert metrics.assignment(found.iou()) == [1, 0]
    assert float(metrics.mean_iou(found, [1, 0])) == pytest.approx((4 / 5 + 1 / 2) / 2)
    assert float(metrics.mean_iou(found, [1, -1])) == pytest.approx(0.4)


def test_more_parts_than_slots_leave_parts_without_one() -> None:
    assert metrics.assignment(torch.tensor([[0.1], [0.9], [0.3]])) == [-1, 0, -1]


def test_centroids_by_hand_and_only_of_active_slots() -> None:
    maps = torch.zeros(1, 3, 2, 4)
    maps[0, 0, 1, 2], maps[0, 1] = 1.0, 0.4
    found = metrics.centroids(maps)
    torch.testing.assert_close(found[0, 0], torch.tensor([2.5 / 4, 1.5 / 2], dtype=torch.float64))
    assert bool(found[0, 1].isnan().all())


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_keypoints_that_follow_the_slots_are_told_without_error(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    places = torch.rand(60, 3, 2, generator=draw, dtype=torch.float64)
    map_, offset = torch.rand(2, 6, 2, generator=draw, dtype=torch.float64)[0], torch.rand(2, generator=draw)
    points = (places.flatten(1) @ map_ + offset)[:, None]
    errors = keypoint_error(places[:40], points[:40], places[40:], points[40:])
    torch.testing.assert_close(errors, torch.zeros(20, 1, dtype=torch.float64), atol=1e-6, rtol=0)


def test_keypoint_error_of_inactive_slots_is_the_distance_from_the_mean() -> None:
    places = torch.full((4, 2, 2), torch.nan)
    train = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])[:, None]
    test = torch.tensor([[[0.5, 0.9]], [[torch.nan, torch.nan]]])
    errors = keypoint_error(places, train, places[:2], test)
    assert float(errors[0, 0]) == pytest.approx(40)
    assert bool(errors[1, 0].isnan())


def test_pointing_accepts_mask_or_neighbourhood_of_the_keypoint() -> None:
    masks = torch.zeros(2, 10, 10, dtype=torch.bool)
    masks[0, 2, 3] = True
    keypoints = torch.tensor([[torch.nan, torch.nan], [8.5, 8.5]])
    places = torch.tensor([[3, 2], [8, 7], [8, 5]])
    assert metrics.pointing_hits(places, masks, keypoints, 1.0).tolist() == [
        [True, False],
        [False, True],
        [False, False],
    ]


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_mean_average_precision_is_that_of_scikit_learn_and_counts_repeat_pictures(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores, targets = draw.integers(6, size=(30, 3)).astype(np.float32), draw.integers(2, size=(30, 3))
    valid = draw.random((30, 3)) < 0.8
    targets[0], targets[1], valid[:2] = 0, 1, True
    counts = torch.from_numpy(np.stack([np.ones(30), draw.integers(1, 4, size=30)]).astype(np.uint8))
    found = metrics.mean_average_precision(
        torch.from_numpy(scores), torch.from_numpy(targets), torch.from_numpy(valid), counts
    )
    for weights, value in zip(counts.numpy(), found.tolist(), strict=True):
        expected = []
        for a in range(3):
            rows = np.repeat(np.arange(30), weights)
            rows = rows[valid[rows, a]]
            expected.append(average_precision_score(targets[rows, a], scores[rows, a]))
        assert value == pytest.approx(np.mean(expected), abs=1e-6)


def test_intervals_hold_the_estimate_and_narrow_with_pictures() -> None:
    draw = torch.Generator().manual_seed(0)
    widths = []
    for n in (50, 800):
        values = torch.rand(n, generator=draw)
        found = metrics.ratio(values, torch.ones(n), metrics.counted(n, 400, seed=1))
        assert found.value == pytest.approx(float(values.mean()), abs=1e-6)
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.35)


def test_nothing_to_measure_is_no_number() -> None:
    counted = metrics.counted(3, 10, seed=0)
    assert all(math.isnan(x) for x in metrics.ratio(torch.zeros(3), torch.zeros(3), counted))
    alone = metrics.ratio(torch.ones(3), 2 * torch.ones(3), metrics.counted(3, 0, seed=0))
    assert alone.value == 0.5 and math.isnan(alone.low)
    assert bool(metrics.nmi_ari_of_counts(torch.zeros(2, 2)).nmi.isnan())

"""Planted quadrants: what is known of them is so."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runner.context import local_context
from runner.data.parts.made_steps import planted as step
from runner.data.parts.planted import masks, planted, scale
from runner.data.parts.reading import PartReader
from runner.errors import DataError


def quadrant_means(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colour of each quadrant: [n, 4, 3]."""
    n, side = pictures.shape[:2]
    half = side // 2
    return np.asarray(pictures.reshape(n, 2, half, 2, half, 3).mean((2, 4)).reshape(n, 4, 3), np.float64)


def accuracy(features: NDArray[np.float64], bits: NDArray[np.uint8]) -> float:
    """Of the nearest mean of two classes, found on the first half, on the second."""
    half = len(bits) // 2
    means = [features[:half][bits[:half] == b].mean(0) for b in (0, 1)]
    nearer = [((features[half:] - mean) ** 2).sum(1) for mean in means]
    return float(((nearer[1] < nearer[0]) == bits[half:]).mean())


def test_a_quadrant_tells_its_own_bit_and_no_other() -> None:
    made = planted(1200, 0.0, 16, 0.7, 3)
    means = quadrant_means(made.pictures)
    table = np.array([[accuracy(means[:, q], made.bits[:, b]) for b in range(4)] for q in range(4)])
    assert table.diagonal().min() > 0.99
    assert np.abs(table[~np.eye(4, dtype=bool)] - 0.5).max() < 0.09  # four standard errors of 600 pictures


@pytest.mark.parametrize("correlation", [0.0, 0.7, 1.0])
def test_bits_agree_as_often_as_their_latents_say(correlation: float) -> None:
    bits = planted(6000, correlation, 2, 0.7, 0).bits.astype(int)
    expected = 0.5 + math.asin(correlation**2) / math.pi
    agreement = [(bits[:, i] == bits[:, j]).mean() for i in range(4) for j in range(i)]
    assert np.abs(np.array(agreement) - expected).max() < 4 * 0.5 / math.sqrt(6000)
    assert np.abs(bits.mean(0) - 0.5).max() < 4 * 0.5 / math.sqrt(6000)


@pytest.mark.parametrize("noise", [0.7, 2.0])
def test_eight_bits_hold_the_noise_and_the_signal(noise: float) -> None:
    made = planted(200, 0.0, 32, noise, 1)
    assert ((made.pictures == 0) | (made.pictures == 255)).mean() < 3e-4
    means = quadrant_means(made.pictures)
    for quadrant in range(4):
        low, high = (means[made.bits[:, quadrant] == b, quadrant].mean(0) for b in (0, 1))
        error = 6 * noise * scale(noise) / math.sqrt(50 * 16 * 16)
        assert abs(np.linalg.norm(high - low) - scale(noise)) < error  # 2 x 0.5 units of length
    residual = made.pictures - means.reshape(200, 2, 2, 3).repeat(16, 1).repeat(16, 2)
    assert abs(residual.std() / (noise * scale(noise)) - 1) < 0.02


def test_quadrants_tile_the_picture() -> None:
    found = masks(8)
    assert (found.sum(0) == 1).all() and found[0, :4, :4].all() and found[1, :4, 4:].all() and found[2, 4:, :4].all()


def test_the_step_halves_and_reads_back(tmp_path: Path) -> None:
    images = step(local_context(tmp_path), pictures=10, side=16)
    rows = images.images.to_pylist()
    assert [row["split"] for row in rows] == ["train"] * 5 + ["test"] * 5
    reader = PartReader(images)
    made = planted(10, 0.0, 16, 0.7, 0)
    for row, picture in reader.pictures(range(10)):
        assert np.array_equal(np.asarray(picture), made.pictures[row])
        assert np.array_equal(reader.masks(row).masks, masks(16))
    assert np.array_equal(images.labels["value"], made.bits) and images.labels["valid"].all()
    assert images.about["owners"] == {f"{part}: bit": part for part in reader.parts}
    assert "127.5" in images.about["notes"][0]


@pytest.mark.parametrize(("pictures", "side", "says"), [(4, 9, "even"), (1_000_000, 1024, "memory")])
def test_what_cannot_be_planted_is_said(pictures: int, side: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        step(local_context(tmp_path), pictures=pictures, side=side)

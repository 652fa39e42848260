"""Directions, measures, the parser's network and truncation, without the generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from runner.errors import ModelRefused
from runner.nodes.faces import directions
from runner.nodes.faces.bisenet import BiSeNet, load_parser, parse
from runner.nodes.faces.generator import FaceGenerator, truncate
from runner.nodes.faces.measure import MEASURES, filled, measures
from runner.nodes.faces.parts import PARTS


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_an_edit_moves_one_measure_by_one_and_holds_the_others(seed: int, held: int) -> None:
    slopes = np.random.default_rng(seed).normal(size=(held + 1, 20))
    step = directions.edit_direction(slopes, 0, list(range(1, held + 1)))
    assert slopes @ step == pytest.approx([1.0, *[0.0] * held], abs=1e-8)
    shorter = slopes[0] / (slopes[0] @ slopes[0])
    assert np.linalg.norm(step) >= np.linalg.norm(shorter) - 1e-9


def test_a_mixture_of_held_measures_cannot_be_edited() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 9))
    with pytest.raises(ValueError, match="cannot be told"):
        directions.edit_direction(np.stack([rows[0] + 2 * rows[1], *rows]), 0, [1, 2])


def test_whitened_styles_have_unit_covariance_and_come_back() -> None:
    rng = np.random.default_rng(1)
    styles = rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12)) + 3
    white = directions.whitening(styles, 1 - 1e-12)
    z = white.to_white(styles)
    assert np.cov(z, rowvar=False) == pytest.approx(np.eye(12), abs=1e-8)
    assert white.mean + white.step(z) == pytest.approx(styles)


def test_the_left_out_fit_is_that_of_leaving_out_one_by_one() -> None:
    rng = np.random.default_rng(2)
    x, penalty = rng.normal(size=(15, 6)), 3.0
    y = directions.standardised(x @ rng.normal(size=(6, 1)) + rng.normal(size=(15, 1)))
    _, fit = directions.ridge_slopes(x, y, (penalty,))
    wrong = []
    for i in range(15):
        rest = np.delete(np.arange(15), i)
        design = np.column_stack([np.ones(14), x[rest]])
        ridge = penalty * np.diag([0.0, *[1.0] * 6])
        # The intercept is the mean over all people in both, hence centred on all of them.
        design[:, 1:] -= x.mean(0)
        slope = np.linalg.solve(design.T @ design + ridge, design.T @ y[rest])
        wrong.append(float((y[i] - np.r_[1.0, x[i] - x.mean(0)] @ slope)[0]))
    assert fit[0] == pytest.approx(1 - np.mean(np.square(wrong)), rel=1e-9)


def test_a_placebo_is_as_long_and_leaves_the_circumstance() -> None:
    slopes = np.random.default_rng(3).normal(size=(1, 30))
    step = directions.random_direction(2.5, 30, 7, slopes)
    assert np.linalg.norm(step) == pytest.approx(2.5)
    assert slopes @ step == pytest.approx([0.0])
    assert not np.allclose(step, directions.random_direction(2.5, 30, 8, slopes))


def test_measures_of_a_drawn_mask() -> None:
    labels = np.zeros((10, 10), np.int64)
    labels[:3] = PARTS.index("hair")
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[3:] = 255
    found = dict(zip(MEASURES, measures(labels, pixels), strict=True))
    assert (found["hair"], found["background"], found["hat"]) == (0.3, 0.7, 0.0)
    assert (found["hair_luminance"], found["background_luminance"]) == pytest.approx((0.0, 1.0))
    bald = measures(np.zeros((10, 10), np.int64), pixels)
    assert np.isnan(bald[MEASURES.index("hair_luminance")])
    assert filled(np.stack([bald, measures(labels, pixels)]))[0, MEASURES.index("hair_luminance")] == 0.0


def test_truncation_draws_towards_the_mean() -> None:
    styles, mean = np.array([[2.0, 0.0]], np.float32), np.array([1.0, 1.0], np.float32)
    assert truncate(styles, mean, 1.0) == pytest.approx(styles)
    assert truncate(styles, mean, 0.5)[0] == pytest.approx([1.5, 0.5])


@pytest.mark.assets
def test_every_key_of_the_parser_fits_and_none_may_be_missing(parser_path: Path, tmp_path: Path) -> None:
    state = load_file(parser_path)
    assert set(state) == set(BiSeNet().state_dict())
    assert len(state) == 191
    state.pop("ffm.conv1.weight")
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(ModelRefused, match="not the weights of the face parser"):
        load_parser(tmp_path / "cut.safetensors")


@pytest.mark.assets
def test_the_parser_labels_every_pixel_whatever_the_size(parser_path: Path) -> None:
    labels = parse(load_parser(parser_path), torch.full((1, 96, 80, 3), 200, dtype=torch.uint8))
    assert labels.shape == (1, 512, 512)
    assert 0 <= int(labels.min()) <= int(labels.max()) < len(PARTS)


def test_a_folder_that_is_no_generator_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ModelRefused, match="not a face generator"):
        FaceGenerator(tmp_path)

"""Planted quadrants through an untrained vision transformer: what leaks, what is only correlated, end to end.

Four bits, one a quadrant. Independent: whatever a quadrant's vector tells about another's bit came from outside of it. Correlated:
the part that the quadrant's own pixels tell is no leakage, and the two-stage vectors measure it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_features import planted_features

from runner.context import local_context
from runner.nodes.leakage.probe_steps import Bootstrap, probe

Rows = dict[tuple[Any, ...], dict[str, Any]]
LAYERS = (0, 1, 4)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, list[dict[str, Any]]]:
    """Summary rows by (correlation, layer, extractor, versus, measure), and the warnings."""
    folder: Path = tmp_path_factory.mktemp("planted")
    features = [planted_features(folder, correlation, layers=LAYERS) for correlation in (0.0, 0.7)]
    ctx = local_context(folder / "run")
    found = probe(ctx, features=features, metrics=["auroc"], controls=["label_only", "label_shuffle", "decorrelate"],
                  bootstrap=Bootstrap(resamples=100))  # fmt: skip
    names = ("layer", "extractor", "versus", "measure")
    rows = {
        (float(row["dataset"].partition("-")[2]), *(row[n] for n in names)): row for row in found.summary.to_pylist()
    }
    return rows, ctx.journal.messages  # type: ignore[attr-defined]


def value(rows: Rows, *key: Any) -> float:
    return float(rows[key]["value"])


def test_own_bits_are_read_and_two_stage_vectors_know_nothing_else(measured: tuple[Rows, Any]) -> None:
    rows, _ = measured
    for layer in LAYERS:
        for extractor in ("single", "two_stage"):
            assert value(rows, 0.0, layer, extractor, None, "own") > 0.99
        assert value(rows, 0.0, layer, "two_stage", None, "cross") == pytest.approx(0.5, abs=0.03)


def test_single_stage_vectors_are_local_before_the_first_block_and_leak_after_it(measured: tuple[Rows, Any]) -> None:
    rows, _ = measured
    assert value(rows, 0.0, 0, "single", None, "cross") == pytest.approx(0.5, abs=0.03)
    for correlation in (0.0, 0.7):
        local = rows[correlation, 0, "single", "two_stage", "excess_leakage"]
        assert (local["value"], local["ci_low"], local["ci_high"]) == pytest.approx((0, 0, 0), abs=1e-6)
    for layer in LAYERS[1:]:
        excess = rows[0.0, layer, "single", "two_stage", "excess_leakage"]
        # The sum of four bits tells one of them with AUROC 13/16.
        assert value(rows, 0.0, layer, "single", None, "cross") == pytest.approx(0.80, abs=0.03)
        assert 0.2 < excess["ci_low"] < excess["value"] < excess["ci_high"]
        assert value(rows, 0.0, layer, "single", None, "leak_ratio") > 0.4
        assert value(rows, 0.0, layer, "single", "two_stage", "normalised_leakage") > 0.4
        assert abs(value(rows, 0.0, layer, "single", "two_stage", "own_delta")) < 0.01


def test_correlation_is_not_counted_as_leakage(measured: tuple[Rows, Any]) -> None:
    rows, _ = measured
    for layer in LAYERS[1:]:
        assert value(rows, 0.7, layer, "two_stage", None, "cross") == pytest.approx(0.64, abs=0.04)
        assert value(rows, 0.7, layer, "single", "two_stage", "excess_leakage") > 0.2
        assert value(rows, 0.7, layer, "single", None, "cross") > 0.85


def test_labels_alone_tell_what_two_stage_vectors_tell(measured: tuple[Rows, Any]) -> None:
    rows, _ = measured
    assert value(rows, 0.0, -1, "label_only", None, "cross") == pytest.approx(0.5, abs=0.03)
    assert value(rows, 0.7, -1, "label_only", None, "cross") == pytest.approx(0.65, abs=0.04)


def test_balanced_test_pictures_take_the_correlation_away_and_leave_the_leak(measured: tuple[Rows, Any]) -> None:
    rows, _ = measured
    for layer in LAYERS:
        assert value(rows, 0.7, layer, "decorrelate_two_stage", None, "cross") == pytest.approx(0.5, abs=0.04)
    assert value(rows, 0.7, 0, "decorrelate", None, "cross") == pytest.approx(0.5, abs=0.04)
    assert value(rows, 0.7, 4, "decorrelate", None, "cross") > 0.75
    assert rows[0.7, 4, "decorrelate", "decorrelate_two_stage", "excess_leakage"]["ci_low"] > 0.2


def test_shuffled_labels_cannot_be_read(measured: tuple[Rows, Any]) -> None:
    rows, messages = measured
    for correlation in (0.0, 0.7):
        assert value(rows, correlation, 4, "label_shuffle", None, "cross") == pytest.approx(0.5, abs=0.04)
    assert messages == []

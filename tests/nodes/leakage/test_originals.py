"""Pictures that show one original are resampled together, from the dataset to the rows of every audit."""

from dataclasses import replace

import numpy as np
import pytest
from locality_material import Reader, quadrant_images, rows_by
from test_locality_perturbing import local_predictor
from tiny_backbones import TINY

from runner.context import local_context
from runner.nodes.leakage.dependence_steps import dependence
from runner.nodes.leakage.feature_steps import features
from runner.nodes.leakage.locality_steps import answer, locality, mask_pictures, perturb

PICTURES = 24
PAIRS = [i // 2 for i in range(PICTURES)]
ONE = [0] * PICTURES
BLURRED = np.full((4, 4), 0.2) + 0.2 * np.eye(4)


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "run", step="step", seed=1)


def located(ctx, images):
    """Rows of all concepts, by measure: masking and perturbation."""
    hidden = mask_pictures(ctx, images=images, images_per_pair=12, draws=1)
    told = answer(ctx, predictor=Reader(BLURRED, sharpness=2.0), pictures=hidden)
    pushed = perturb(ctx, predictor=local_predictor(), images=images, pictures=12, steps=1, label="pushed")
    rows = locality(ctx, answers=[told], perturbed=[pushed], resamples=200).locality
    return {measure: row for (concept, measure), row in rows_by(rows, "concept", "measure").items() if concept is None}


def test_locality_knows_how_many_originals_there_are(ctx, tmp_path):
    alone = located(ctx, quadrant_images(tmp_path / "a", PICTURES))
    one = located(ctx, quadrant_images(tmp_path / "b", PICTURES, groups=ONE))
    pairs = located(ctx, quadrant_images(tmp_path / "c", PICTURES, groups=PAIRS))
    assert {row["n"] for rows in (alone, one, pairs) for row in rows.values()} == {12}
    for rows, n in ((alone, None), (one, 1), (pairs, 6)):
        assert {row["n_groups"] for row in rows.values()} == {n}
    for measure in ("own", "other", "locality_score", "largest_change_inside"):
        assert alone[measure]["ci_low"] < alone[measure]["value"] < alone[measure]["ci_high"]
        assert pairs[measure]["ci_low"] < pairs[measure]["ci_high"]
        # One original alone is drawn again and again.
        assert one[measure]["ci_low"] == pytest.approx(one[measure]["value"]) == pytest.approx(one[measure]["ci_high"])
        assert one[measure]["value"] == alone[measure]["value"] == pairs[measure]["value"]


def audited(ctx, images, batch=5):
    made = dependence(
        ctx, backbone=TINY["timm_vit"](), images=images, extractors=["single"], gradient=False, attention=False,
        token_norms=False, pictures=9, split="all", replace="mean", batch=batch,
    )  # fmt: skip
    return made, rows_by(made.summary, "part", "measure")


def test_the_dependence_audit_knows_how_many_originals_there_are(ctx, tmp_path):
    absent = {(i, 0) for i in range(0, PICTURES, 2)}
    (tmp_path / "p").mkdir()
    images = quadrant_images(tmp_path / "p", PICTURES, groups=PAIRS, absent=absent)
    made, rows = audited(ctx, images)
    drawn = {row["sample_id"] for row in made.pictures.to_pylist()}
    assert (
        rows["all", "d_out"]["n_groups"]
        == len({PAIRS[int(name[1:])] for name in drawn})
        < rows["all", "d_out"]["n"]
        == 9
    )
    odd = {int(name[1:]) for name in drawn if int(name[1:]) % 2}
    assert rows["top left", "d_out"]["n_groups"] == rows["top left", "d_out"]["n"] == len(odd)
    without = replace(images, labels={name: images.labels[name] for name in ("value", "valid")})
    assert {row["n_groups"] for row in audited(ctx, without)[1].values()} == {None}
    single = replace(images, labels=images.labels | {"group": np.zeros(PICTURES, np.int32)})
    row = audited(ctx, single)[1]["all", "d_out"]
    assert row["n_groups"] == 1 and row["ci_low"] == pytest.approx(row["mean"]) == pytest.approx(row["ci_high"])


def test_features_carry_the_originals(ctx, tmp_path):
    images = quadrant_images(tmp_path / "p", 8, groups=PAIRS[:8])
    made = features(ctx, backbone=TINY["timm_vit"](), images=images, splits=["test"])
    assert made.labels["group"].tolist() == [2, 2, 3, 3]

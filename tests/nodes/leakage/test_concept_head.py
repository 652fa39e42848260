"""Fitting concepts on pooled features, against scikit-learn; the step, the provider, and an answer of both."""

import numpy as np
import pytest
import torch
from locality_material import PARTS, quadrant_images, rows_by
from sklearn.linear_model import LogisticRegression

from runner.context import local_context
from runner.errors import DataError, ModelRefused, StepError
from runner.models.backbones.timm_vit import planted_vit
from runner.models.classifier.providers import ConceptHead
from runner.models.registry import Services
from runner.nodes.leakage.concept_head import fit_concepts
from runner.nodes.leakage.locality_steps import answer, locality, mask_pictures
from runner.nodes.leakage.locality_steps import fit_concepts as fit_step


def test_weights_on_raw_features_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    features = generator.normal(3, 2, (80, 6)) * [1, 5, 0.1, 1, 1, 0]
    drive = features[:, :3] @ generator.normal(size=(3, 3)) + generator.normal(size=(80, 3))
    value = (drive > np.median(drive, 0)).astype(int)
    value[:, 2] = 1  # never zero
    valid = generator.integers(0, 2, (80, 3)) | [1, 0, 1]
    fit = fit_concepts(*(torch.from_numpy(array) for array in (features, value, valid)), 0.5)
    assert fit.kept.tolist() == [0, 1] and fit.auroc.isnan().tolist() == [False, False, True]
    assert fit.n.tolist() == valid.sum(0).tolist() and fit.positives.tolist() == (valid * value).sum(0).tolist()
    for place, a in enumerate([0, 1]):
        rows = valid[:, a] > 0
        mean, scale = features[rows].mean(0), features[rows].std(0)
        scale[scale < 1e-8] = 1
        model = LogisticRegression(C=0.5, tol=1e-10, max_iter=10000)
        model.fit((features[rows] - mean) / scale, value[rows, a])
        expected = model.decision_function((features - mean) / scale)
        found = torch.from_numpy(features).float() @ fit.weight[place] + fit.bias[place]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_no_attribute_with_two_values():
    fit = fit_concepts(torch.randn(5, 3), torch.ones(5, 2), torch.tensor([[1, 0]] * 5))
    assert fit.weight.shape == (0, 3) and fit.bias.shape == (0,) and fit.n.tolist() == [5, 0]


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "run", step="fit")


def test_a_fitted_head_answers_about_hidden_parts(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data", 80, extra={"always": np.ones(80), "warm": np.arange(80) % 2})
    backbone = planted_vit()
    fitted = fit_step(ctx, backbone=backbone, images=images, pool="mean", batch_size=16)
    fits = rows_by(fitted.fits, "attribute")
    assert fits["always",]["dropped"] == "one value only" and fits["always",]["auroc"] is None
    assert fits["red top left",]["auroc"] > 0.9 and fits["red top left",]["n"] == 40
    assert fitted.settings["layer"] == 4 and fitted.settings["pictures"] == 40
    config = ConceptHead(provider="concept_head", backbone="$vit", head="$fit.head")
    predictor = config.load(Services(linked={"backbone": backbone, "head": fitted.head}))
    assert predictor.labels == (*(f"red {part}" for part in PARTS), "warm")
    hidden = mask_pictures(local_context(tmp_path / "hidden"), images=images, images_per_pair=8, draws=1)
    told = answer(local_context(tmp_path / "answer"), predictor=predictor, pictures=hidden)
    rows = rows_by(locality(local_context(tmp_path / "l"), answers=[told], resamples=50).locality, "concept", "measure")
    # Mean pooling of an untrained network mixes the quadrants: right more often than not, and far from local.
    assert rows["red top left", "auroc"]["value"] > 0.6
    assert 0.4 < rows[None, "locality_score"]["value"] < 0.9


def test_refused_inputs_say_where(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data", 8)
    backbone = planted_vit()
    with pytest.raises(DataError, match="no picture in the split 'val'"):
        fit_step(ctx, backbone=backbone, images=images, split="val")
    with pytest.raises(ModelRefused, match="has the layers 0 to 4, not 7"):
        fit_step(ctx, backbone=backbone, images=images, layer=7)
    images.labels["value"][:] = 0
    with pytest.raises(StepError, match="no attribute has both values"):
        fit_step(ctx, backbone=backbone, images=images)


def test_unreadable_pictures_are_left_out(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data", 24)
    (tmp_path / "data" / "3.png").write_bytes(b"no picture")
    fitted = fit_step(ctx, backbone=planted_vit(), images=images, pool="mean")
    assert fitted.settings["pictures"] == 11 and [item for item, _ in ctx.failures] == ["3.png"]

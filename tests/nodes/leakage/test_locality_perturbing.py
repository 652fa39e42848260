"""Optimised perturbations restricted to pixels outside or inside a part."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from locality_material import PARTS, Reader, quadrant_images, quadrant_mask, rows_by

from runner.context import local_context
from runner.data.parts import rle
from runner.errors import DataError, StepError
from runner.models.backbones.timm_vit import planted_vit
from runner.models.classifier.concept_head import ConceptHeadClassifier, Head, read_head
from runner.nodes.leakage.locality_steps import answer, fit_concepts, locality, mask_pictures, perturb
from runner.nodes.leakage.perturbation import equal_areas, largest_change


def test_a_linear_predictor_moves_by_epsilon_times_its_open_weights():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64)
    pixels = 0.4 + 0.2 * torch.rand(4, 3, 6, 6, generator=generator, dtype=torch.float64)
    allowed = torch.rand(4, 6, 6, generator=generator) < 0.5
    allowed[3] = False
    found = largest_change(lambda x: (x * weight).flatten(1).sum(1), pixels, allowed, epsilon=0.05, steps=4)
    expected = [0.05 * (weight.abs() * mask).sum().item() for mask in allowed]
    assert found.tolist() == pytest.approx(expected) and found[3] == 0


def test_pixels_stay_in_range_and_outside_the_open_ones_nothing_moves():
    seen = []
    pixels = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    allowed = torch.zeros(2, 5, 5, dtype=torch.bool)
    allowed[:, :2] = True

    def predict(x):
        seen.append(x.detach())
        return (x**2).flatten(1).sum(1)

    largest_change(predict, pixels, allowed, epsilon=0.9, steps=3)
    for moved in seen:
        assert moved.min() >= 0 and moved.max() <= 1 + 1e-6
        assert torch.equal(moved[:, :, 2:], pixels[:, :, 2:])
    assert (seen[-1][:, :, :2] - pixels[:, :, :2]).abs().max() > 0.5


def test_the_better_direction_counts_and_more_steps_find_no_less():
    pixels = torch.full((1, 3, 2, 2), 0.9)
    everywhere = torch.ones(1, 2, 2, dtype=torch.bool)
    down = largest_change(lambda x: x.flatten(1).mean(1), pixels, everywhere, epsilon=0.5, steps=5)
    assert down.item() == pytest.approx(0.5)  # up ends at 1, only 0.1 away
    bent = [
        largest_change(lambda x: (6 * x).sin().flatten(1).mean(1), pixels, everywhere, epsilon=0.3, steps=steps).item()
        for steps in (1, 20)
    ]
    assert bent[0] <= bent[1] + 1e-6


def test_both_sides_have_as_many_pixels():
    generator = torch.Generator().manual_seed(2)
    inside = torch.rand(6, 5, 7, generator=generator) < torch.tensor([0.1, 0.3, 0.5, 0.8, 0.0, 1.0]).view(-1, 1, 1)
    order = torch.rand(6, 5, 7, generator=generator)
    outer, inner = equal_areas(inside, order)
    n = torch.minimum(inside.sum((1, 2)), 35 - inside.sum((1, 2)))
    assert torch.equal(outer.sum((1, 2)), n) and torch.equal(inner.sum((1, 2)), n)
    assert not (outer & inside).any() and not (inner & ~inside).any()
    assert order[0][outer[0]].max() < order[0][~inside[0] & ~outer[0]].min()


def test_a_predictor_of_the_whole_picture_moves_alike_by_both_sides(ctx, tmp_path):
    class Everywhere(Local):
        def concept_logits(self, pixels):
            return 20 * pixels.mean((1, 2, 3))[:, None].expand(-1, 4) - 10

    images = quadrant_images(tmp_path / "data", 24)  # a part is a quarter, all else three
    local = local_predictor()
    made = perturb(ctx, predictor=Everywhere(local.backbone, local.linear, "all"), images=images, pictures=4, steps=2)
    rows = made.changes.to_pylist()
    outside, inside = ([r["change"] for r in rows if r["side"] == side] for side in ("outside", "inside"))
    assert {r["n_pixels"] for r in rows} == {32 * 32}
    assert min(inside) > 0.01 and outside == pytest.approx(inside, rel=0.1)


def test_masks_of_another_size_are_refused_here_too(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data", 8)
    rows = [
        row | {"height": 48, "width": 48, "runs": rle.encode(np.ones((48, 48), bool))}
        for row in images.masks.to_pylist()
    ]
    table = pa.Table.from_pylist(rows, schema=images.masks.schema)
    images = replace(images, masks=table)
    with pytest.raises(DataError, match="its masks are 48 x 48 pixels, the picture is 32 x 32"):
        perturb(ctx, predictor=local_predictor(), images=images)


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "run", step="step")


class Local(ConceptHeadClassifier):
    """Reads the mean of red minus blue of each quadrant of the backbone's 64 pixels, and nothing else."""

    def concept_logits(self, pixels):
        lean = pixels[:, 0] - pixels[:, 2]
        masks = torch.from_numpy(np.stack([quadrant_mask(part, 64) for part in range(4)]))
        return 10 * torch.stack([(lean * mask).sum((1, 2)) / mask.sum() for mask in masks], 1)


def local_predictor():
    backbone = planted_vit()
    labels = tuple(f"red {part}" for part in PARTS)
    return Local(backbone, Head(labels, "mean", -1, backbone.identity, torch.zeros(4, 64), torch.zeros(4)), "local")


def test_a_local_predictor_moves_by_its_own_part_alone(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data", 24)
    pushed = perturb(ctx, predictor=local_predictor(), images=images, pictures=6, steps=2, batch_size=4)
    rows = pushed.changes.to_pylist()
    predictor = local_predictor()
    predictor.concept_logits = None  # must not be asked again
    assert perturb(ctx, predictor=predictor, images=images, pictures=6, steps=2, batch_size=4).changes.equals(
        pushed.changes
    )
    assert len(rows) == 6 * 4 * 2 and {row["sample_id"] for row in rows} <= {f"s{i}" for i in range(12, 24)}
    assert all((row["change"] == 0) == (row["side"] == "outside") for row in rows)


def test_a_head_of_pooled_features_moves_by_what_should_not_matter(ctx, tmp_path):
    images = quadrant_images(
        tmp_path / "data", 24, absent={(i, 0) for i in range(12, 22)}, extra={"warm": np.arange(24) % 2}
    )
    backbone = planted_vit()
    fitted = fit_concepts(local_context(tmp_path / "fit"), backbone=backbone, images=images, pool="mean")
    predictor = ConceptHeadClassifier(backbone, read_head(fitted.head))
    pushed = perturb(ctx, predictor=predictor, images=images, steps=1)
    concepts = set(pushed.changes["concept"].to_pylist())
    assert concepts == {f"red {part}" for part in PARTS}  # warm belongs to no part
    hidden = mask_pictures(local_context(tmp_path / "hidden"), images=images, images_per_pair=4, draws=1)
    told = answer(local_context(tmp_path / "answer"), predictor=predictor, pictures=hidden)
    found = locality(local_context(tmp_path / "l"), answers=[told], perturbed=[pushed], resamples=100)
    rows = rows_by(found.locality, "concept", "measure")
    outside, inside = (rows[None, f"largest_change_{side}"] for side in ("outside", "inside"))
    assert outside["value"] > 0.02 and outside["n"] == inside["n"] == 12
    assert rows["red top left", "largest_change_outside"]["n"] == 2  # where the part can be seen
    changes = [
        r["change"] for r in pushed.changes.to_pylist() if (r["concept"], r["side"]) == ("red top right", "inside")
    ]
    row = rows["red top right", "largest_change_inside"]
    assert row["value"] == pytest.approx(sum(changes) / len(changes)) and row["ci_low"] < row["value"] < row["ci_high"]
    each = [rows[concept, "largest_change_outside"]["value"] for concept in sorted(concepts)]
    assert outside["value"] == pytest.approx(sum(each) / 4)


def test_refused_inputs_say_where(ctx, tmp_path):
    images = quadrant_images(tmp_path / "data", 8)
    with pytest.raises(StepError, match="reader cannot be differentiated"):
        perturb(ctx, predictor=Reader(np.eye(4)), images=images)
    with pytest.raises(StepError, match="no picture in the split 'val'"):
        perturb(ctx, predictor=local_predictor(), images=images, split="val")
    images.about["owners"] = dict.fromkeys(images.about["owners"], "global")
    with pytest.raises(StepError, match="belongs to one part"):
        perturb(ctx, predictor=local_predictor(), images=images)

"""Pictures of another size than the backbone's: two-stage vectors still know nothing but their part's pixels, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from runner.context import local_context
from runner.data.geometry import Geometry
from runner.data.parts.building import MaskRow, part_images
from runner.data.parts.reading import PartReader
from runner.models.backbones.timm_vit import planted_vit
from runner.nodes.leakage.dependence_run import audit_chunk, read_chunk
from runner.nodes.leakage.extracting import Recipe, TwoStage, extract
from runner.nodes.leakage.loading import Loader
from runner.nodes.leakage.regions import constant_pictures

PARTS = ("left", "disc", "ragged")
RECIPE = Recipe((0, 4), controls=("mask_only",))
GEOMETRIES = (Geometry(64, 64), Geometry(64, 64, "bilinear"), Geometry(64, 72), Geometry(64, 64, squash=True))
SIZES = ((200, 200), (40, 44), (131, 200), (64, 64))
OFTEN = {(0, 0), (0, 1), (1, 2), (2, 0), (3, 2)}
"""Pairs of geometry and size that are tried by default: scaled down and up, cut, squashed."""
CASES = [
    pytest.param(geometry, size, marks=() if (g, s) in OFTEN else pytest.mark.large)
    for g, geometry in enumerate(GEOMETRIES)
    for s, size in enumerate(SIZES)
]


def masks(height, width):
    """A half, a disc that touches nothing, and blocks at random that leave some patches whole."""
    rows, columns = np.mgrid[:height, :width]
    blocks = np.random.default_rng(3).random((4, 4)) < 0.6
    return {
        "left": columns < width * 0.55,
        "disc": ((rows / height - 0.5) ** 2 + (columns / width - 0.5) ** 2) < 0.16,
        "ragged": blocks[rows * 4 // height, columns * 4 // width],
    }


def dataset(folder, height, width, change=None):
    """One picture of noise; every pixel outside the mask of ``change`` is another one where that is given."""
    folder.mkdir(parents=True)
    first, other = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    inside = masks(height, width) | {"background": ~np.any([*masks(height, width).values()], 0)}
    pixels = first if change is None else np.where(inside[change][..., None], first, other)
    for number in range(2):
        Image.fromarray(pixels if number == 0 else other).save(folder / f"{number}.png")
    listed = [{"sample_id": f"n{i}", "split": "test", "source_id": "s", "uri": f"{i}.png"} for i in range(2)]
    return part_images(
        name="noise", object="thing", parts=PARTS, attributes=(), owners={}, corpus=[{"folder": str(folder), "name": "s"}],
        masks=[MaskRow(i, name, mask) for i in range(2) for name, mask in masks(height, width).items()], pictures=listed,
        value=np.zeros((2, 0), int), valid=np.zeros((2, 0), int), needed=("test",),
    )  # fmt: skip


def loader_of(images, geometry):
    backbone = planted_vit()
    backbone.geometry = geometry
    return Loader(PartReader(images), backbone, images.about, ("background", "whole"), {}, 0)


def vectors(images, geometry, two):
    loader = loader_of(images, geometry)
    with torch.inference_mode():
        return extract(loader.backbone, loader.load([0]).batch, replace(RECIPE, two=two)), loader


@pytest.mark.parametrize(("geometry", "size"), CASES)
def test_nothing_outside_a_part_reaches_its_vector_through_scaling(tmp_path, geometry, size):
    plain = dataset(tmp_path / "plain", *size)
    for two in (
        TwoStage(),
        TwoStage(rule="any"),
        TwoStage(mode="crop", rule="any"),
        TwoStage(mode="pixel_fill", fill="blur", rule="any"),
    ):
        before, _ = vectors(plain, geometry, two)
        assert before.present["two_stage"][0, :3].all() or two.rule == "all"
        for place, part in enumerate((*PARTS, "background")):
            after, _ = vectors(dataset(tmp_path / f"{two.mode}{two.rule}{part}", *size, change=part), geometry, two)
            for layer in RECIPE.layers:
                one, other = (made.vectors["two_stage", layer][0, place] for made in (before, after))
                assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), (two, part)
            moved = [made.vectors["single", 4][0, place] for made in (before, after)]
            assert not moved[0].isfinite().all() or (moved[0] - moved[1]).abs().max() > 1e-3
    assert (before.present["two_stage"] == before.present["mask_only"]).all()


def test_masks_for_pooling_stay_and_inner_ones_lie_within(tmp_path):
    for size in ((200, 200), (64, 64)):
        batch = loader_of(dataset(tmp_path / f"{size}", *size), GEOMETRIES[0]).load([0, 1]).batch
        assert batch.masks.shape == batch.inner.shape == (2, 5, 64, 64)
        assert not (batch.inner & ~batch.masks).any()
        assert torch.equal(batch.inner, batch.masks) == (size == (64, 64))
        wanted = [GEOMETRIES[0].mask(mask) for mask in masks(*size).values()]
        assert np.array_equal(batch.masks[0, :3].numpy(), np.stack(wanted))


def test_the_audit_reads_inner_pixels_of_two_stage_vectors(tmp_path):
    from test_dependence_steps import AUDIT

    audit = replace(AUDIT, layers=(4,), replace="mean")
    found = []
    for change in (None, "left"):
        images = dataset(tmp_path / f"{change}", 200, 200, change)
        loader = loader_of(images, GEOMETRIES[0])
        loader.further = ()
        ctx = local_context(tmp_path / f"run {change}")
        chunk = read_chunk(ctx, loader, [0, 1], audit)
        found.append(audit_chunk(ctx, loader.backbone, chunk, audit)["values two_stage"])
    assert np.array_equal(found[0][:, 0, 0, 0], found[1][:, 0, 0, 0]), "the inside alone decides"
    assert (found[0][:2] == 0).all() and (found[0][2] > 0).all()


def test_mask_only_does_not_depend_on_the_pictures_of_its_batch(tmp_path):
    """Also with ``blur``, whose fill is made of a picture's own colours."""
    loader = loader_of(dataset(tmp_path / "d", 64, 64), GEOMETRIES[0])
    batch = loader.load([0, 1]).batch
    recipe = replace(RECIPE, layers=(4,), two=TwoStage(mode="pixel_fill", fill="blur"))
    made = []
    for images in (batch.images, batch.images.clamp_min(0.95), torch.cat([batch.images[:1], batch.images[1:] * 0.01])):
        made.append(extract(loader.backbone, replace(batch, images=images), recipe).vectors["mask_only", 4])
    assert torch.equal(made[0].nan_to_num(7), made[1].nan_to_num(7))
    assert torch.equal(made[0].nan_to_num(7), made[2].nan_to_num(7))
    assert constant_pictures(batch.images, torch.zeros(3, 64, 64)).eq(1).all()

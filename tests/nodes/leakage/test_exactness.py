"""Two-stage vectors know nothing but their part, bit for bit, on every kind of transformer; the three ways to get there agree."""

from functools import cache

import pytest
import torch
from tiny_backbones import TINY, TRANSFORMERS

from runner.nodes.leakage.features import single_stage, two_stage
from runner.nodes.leakage.packing import packed_sequences

MODES = ("attn_mask", "token_drop", "packed")
SIDE, PATCH = 32, 8


@cache
def backbone(name):
    return TINY[name]()


def material(count=2, seed=0):
    """Pictures, and masks of six parts: two that touch, one that overlaps them, one of one patch, one ragged, one absent."""
    images = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    masks = torch.zeros(count, 6, SIDE, SIDE, dtype=torch.bool)
    masks[:, 0, :16, :16] = True
    masks[:, 1, :16, 16:] = True
    masks[:, 2, 8:24, 8:32] = True
    masks[:, 3, 24:, :8] = True
    masks[:, 4, 5:29, 3:21] = True
    masks[1:, 3] = False
    masks[1:, 0, :8] = False
    return images, masks


def everywhere_else(images, masks, part, value):
    """The pictures with ``value`` at every pixel outside the part."""
    return torch.where(masks[:, part, None], images, value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_nothing_outside_reaches_a_part(name, mode):
    images, masks = material()
    model = backbone(name)
    options = {"layers": "all", "pool": "cls" if model.prefix_tokens else "mean"}
    other = torch.rand(images.shape, generator=torch.Generator().manual_seed(9))
    for settings in ({}, {"strict_pixels": False}, {"rule": "any"}):
        before = two_stage(model, images, masks, mode, **options, **settings)
        for part in range(5):
            changed = everywhere_else(images, masks, part, other)
            after = two_stage(model, changed, masks, mode, **options, **settings)
            assert torch.equal(before[:, :, part].nan_to_num(7), after[:, :, part].nan_to_num(7)), (settings, part)
            assert before[:, 0, part].isfinite().all()
    late = [single_stage(model, x, masks)[:, 0] for x in (images, everywhere_else(images, masks, 0, other))]
    assert (late[0] - late[1]).abs().max() > 1e-3, "the same change shows in single-stage vectors"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_no_gradient_reaches_the_outside(name, mode):
    images, masks = material()
    for part, rule in ((2, "all"), (4, "majority")):
        pixels = images.clone().requires_grad_()
        two_stage(backbone(name), pixels, masks, mode, rule=rule)[:, part].square().sum().backward()
        slope = pixels.grad.abs().sum(1)
        assert (slope[~masks[:, part]] == 0).all()
        assert (slope[masks[:, part]] > 0).any()
        pixels = images.clone().requires_grad_()
        single_stage(backbone(name), pixels, masks)[:, part].square().sum().backward()
        assert (pixels.grad.abs().sum(1)[~masks[:, part]] > 0).any()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_three_ways_give_the_same_vectors(name):
    images, masks = material()
    model = backbone(name)
    pools = ("mean", "cls") if model.prefix_tokens else ("mean",)
    for pool, rule in ((p, r) for p in pools for r in ("all", "any")):
        made = [two_stage(model, images, masks, mode, pool, rule=rule, layers="all") for mode in MODES]
        there = [~each.isnan().any(-1) for each in made]
        assert torch.equal(there[0], there[1]) and torch.equal(there[0], there[2])
        assert there[0][0, 0].tolist() == [True] * 5 + [False], "an absent part has no vector"
        assert not there[0][0, 1, 3], "nor has one that only another picture shows"
        for each in made[1:]:
            assert (made[0] - each).nan_to_num(0).abs().max() < 1e-5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_full_mask_is_the_plain_pass(name, mode):
    images, _ = material()
    whole = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
    for norm in ("final", "raw"):
        plain = single_stage(backbone(name), images, whole, layers="all", norm=norm)
        alone = two_stage(backbone(name), images, whole, mode, layers="all", norm=norm)
        assert torch.allclose(plain, alone, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_patch_embedding_is_local(name):
    images, masks = material()
    early, late = two_stage(backbone(name), images, masks, layers=[0]), single_stage(backbone(name), images, masks, rule="all", layers=[0])  # fmt: skip
    assert torch.allclose(early, late, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("mode", [*MODES, "pixel_fill", "crop"])
@pytest.mark.parametrize("name", ["timm_registers", "timm_eva", "siglip"])
def test_a_batch_is_its_pictures_one_by_one(name, mode):
    images, masks = material(3)
    together = two_stage(backbone(name), images, masks, mode, rule="majority")
    for i in range(3):
        alone = two_stage(backbone(name), images[i : i + 1], masks[i : i + 1], mode, rule="majority")
        assert torch.allclose(together[i], alone[0], atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("mode", [*MODES, "pixel_fill", "crop"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_broken_pixels_outside_do_not_come_through(mode, bad):
    """Also where the part beside it, which is computed in the same pass, breaks."""
    images, masks = material()
    for part, settings in ((0, {}), (0, {"strict_pixels": mode == "crop"}), (4, {"rule": "any"})):
        model = backbone("timm_eva")
        before = two_stage(model, images, masks, mode, **settings)[:, part]
        broken = everywhere_else(images, masks, part, bad)
        after = two_stage(model, broken, masks, mode, **settings)
        assert torch.equal(before, after[:, part])
        if bad != 1e30:
            assert after[:, 1 - (part == 4)].isnan().any(), "a part with such pixels of its own has no vector"


@pytest.mark.parametrize("name", ["timm_registers", "dinov3"])
def test_the_prefix_alone_knows_no_picture(name):
    """Why an empty part is absent: what is left of it is the same for every picture."""
    model, (images, _) = backbone(name), material()
    tokens = model.embed(model.normalise(images))
    count = tokens.shape[1]
    allowed = (torch.arange(count) < model.prefix_tokens).expand(1, count, count)
    for number in range(1, model.depth + 1):
        tokens = model.block(number, tokens, allowed=allowed)
    assert torch.equal(tokens[0, : model.prefix_tokens], tokens[1, : model.prefix_tokens])


def test_inner_patches_are_embedded_once_for_all_parts():
    """Under the rule ``all`` overwriting changes no patch that is kept, so one embedded picture serves, with the same bits."""
    images, masks = material()
    seen = []
    model = TINY["timm_vit"]()
    embed = model.embed
    model.embed = lambda pixels: seen.append(len(pixels)) or embed(pixels)
    strict = two_stage(model, images, masks, layers="all")
    loose = two_stage(model, images, masks, layers="all", strict_pixels=False)
    assert seen == [2, 2] and torch.equal(strict.nan_to_num(7), loose.nan_to_num(7))
    two_stage(model, images, masks, rule="any")
    assert seen[2] == 4, "one picture more each: no patch is a border patch of two parts"


def test_strict_pixels_are_what_a_painted_picture_gives():
    """A ragged part under ``any``: the same as painting the picture over and keeping its patches without further care."""
    images, masks = material()
    model = backbone("timm_registers")
    strict = two_stage(model, images, masks, rule="any", fill=(0.2, 0.3, 0.4))[:, 4]
    painted = torch.where(masks[:, 4, None], images, torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1))
    options = {"rule": "any", "strict_pixels": False, "allow_boundary_leak": True}
    assert torch.allclose(strict, two_stage(model, painted, masks, **options)[:, 4], atol=1e-6)
    assert (strict - two_stage(model, images, masks, **options)[:, 4]).abs().max() > 1e-3


def test_rows_depend_on_masks_only_and_hold_every_part_once():
    generator = torch.Generator().manual_seed(3)
    keep = torch.rand(5, 7, 64, generator=generator) < torch.rand(5, 7, 1, generator=generator) ** 2
    rows = torch.arange(5)[:, None, None].expand(keep.shape)
    found = {}
    for each in packed_sequences(keep, rows, 2, 32):
        for r, k in (each.segment >= 0).nonzero().tolist():
            own = each.owns[r, k]
            assert own.sum() == each.patches[r, k].sum() + 2
            assert each.allowed is None or torch.equal(each.allowed[r][own], own.expand(int(own.sum()), -1))
            found[int(each.segment[r, k])] = each.positions[r][each.patches[r, k]].tolist()
            assert (each.entries[r][own] % 66 - 2).clamp_min(-1).tolist() == each.positions[r][own].tolist()
    wanted = [keep[b, p].nonzero().flatten().tolist() for b, p in keep.any(-1).nonzero().tolist()]
    assert [found[s] for s in sorted(found)] == wanted

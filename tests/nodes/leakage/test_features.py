"""Pooling, layers, two-stage vectors from redrawn pictures, convolutional networks, refusals, half precision."""

from functools import cache

import pytest
import torch
from tiny_backbones import TINY, drawn
from tiny_backbones import about as tiny_about

from runner.nodes.leakage.features import pool_parts, single_stage, single_stage_layers, two_stage, two_stage_layers
from runner.nodes.leakage.pooling import layer_numbers, patches_to_pool, plain_layers

CNNS = ("resnet", "convnext")


@cache
def backbone(name):
    return TINY[name]()


def images_of(model, count=2, seed=0):
    side = model.image_size
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def quadrants(side, count=2):
    """Four quadrants; the last is absent in the second picture."""
    masks = torch.zeros(count, 4, side, side, dtype=torch.bool)
    half = side // 2
    for p, (top, left) in enumerate(((0, 0), (0, half), (half, 0), (half, half))):
        masks[:, p, top : top + half, left : left + half] = True
    masks[1, 3] = False
    return masks


def test_pooling_by_hand():
    tokens = torch.tensor([[[1.0, 5.0], [3.0, -1.0], [8.0, 0.0]]])
    masks = torch.tensor([[[True, True, False], [False, False, True], [False, False, False]]])
    made = {
        how: pool_parts(tokens, masks, how)[0].nan_to_num(9).tolist() for how in ("mean", "mean_all", "max", "keypoint")
    }
    assert made["mean"] == [[2, 2], [8, 0], [9, 9]]
    assert made["max"] == [[3, 5], [8, 0], [9, 9]]
    assert made["keypoint"] == [[1, 5], [8, 0], [9, 9]]
    assert torch.allclose(torch.tensor(made["mean_all"]), torch.tensor([[4 / 3, 4 / 3], [8 / 3, 0], [9, 9]]))
    soft = pool_parts(tokens, torch.tensor([[[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]]]), "soft")
    assert soft[0, 0].tolist() == [2.5, 0.5] and soft[0, 1].isnan().all()
    with pytest.raises(ValueError, match="bool"):
        pool_parts(tokens, masks.float(), "mean")
    with pytest.raises(ValueError, match="no pooling 'median'"):
        pool_parts(tokens, masks, "median")


@pytest.mark.parametrize("how", ["mean", "mean_all", "max", "keypoint"])
def test_an_absent_part_does_not_spoil_gradients(how):
    tokens = torch.rand(1, 4, 3, requires_grad=True)
    masks = torch.tensor([[[True, True, False, False], [False] * 4]])
    pool_parts(tokens, masks, how)[:, 0].sum().backward()
    assert tokens.grad.isfinite().all() and tokens.grad.any()


def test_keypoints_by_hand():
    masks = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    points = torch.tensor([[[7.9, 0.0], [0.0, 4.0], [torch.nan, torch.nan]]])
    made = patches_to_pool(masks, 4, "all", "keypoint", points)
    assert [each.nonzero().flatten().tolist() for each in made[0]] == [[1], [2], []]
    with pytest.raises(ValueError, match="needs keypoints"):
        patches_to_pool(masks, 4, "all", "keypoint")


def test_soft_pooling_weighs_patches_by_how_much_is_covered():
    model = backbone("timm_vit")
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    masks[:, 0, :8, :12] = True  # one patch, and half of the next
    first, second = next(plain_layers(model, images_of(model), [0])).patches[:, :2].unbind(1)
    made = single_stage(model, images_of(model), masks, "soft", layers=[0], norm="raw")[0, :, 0]
    assert torch.allclose(made, (first + 0.5 * second) / 1.5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "found"), [(None, [4]), ("all", [0, 1, 2, 3, 4]), ([-1, 0], [4, 0]), ([-5], [0]), ([2], [2])]
)
def test_layers_by_number(given, found):
    assert layer_numbers(4, given) == found


@pytest.mark.parametrize("given", [[5], [-6], [], [4, -1]])
def test_layers_that_are_not_there(given):
    with pytest.raises(ValueError, match="layer"):
        layer_numbers(4, given)


def test_layers_come_in_the_order_asked_for():
    model = backbone("clip")
    images, masks = images_of(model), quadrants(32)
    for extract in (single_stage, two_stage):
        every = extract(model, images, masks, layers="all")
        assert every.shape == (4, 2, 4, 32)
        some = extract(model, images, masks, layers=[-1, 1])
        assert torch.equal(some.nan_to_num(7), every[[3, 1]].nan_to_num(7))
        assert torch.equal(extract(model, images, masks).nan_to_num(7), every[3].nan_to_num(7))


def test_vectors_in_the_joint_space_of_a_clip():
    model = backbone("open_clip")
    images, masks = images_of(model), quadrants(32)
    final, projected = (two_stage(model, images, masks, norm=norm) for norm in ("final", "projected"))
    assert projected.shape[-1] == 16
    assert torch.allclose(projected, model.project(final), atol=1e-5, equal_nan=True), "a mean of linear images"
    gone = two_stage(model, images, torch.zeros_like(masks), norm="projected")
    assert gone.shape == projected.shape and gone.isnan().all()
    with pytest.raises(ValueError, match="no joint space"):
        single_stage(backbone("mae"), images, masks, norm="projected")


@pytest.mark.parametrize("mode", ["pixel_fill", "crop"])
@pytest.mark.parametrize("name", ["dinov3", *CNNS])
@pytest.mark.parametrize("fill", ["mean", "noise", "blur"])
def test_redrawn_parts_know_nothing_else(name, mode, fill):
    model = backbone(name)
    images, masks = images_of(model), quadrants(model.image_size)
    other = torch.where(masks[:, 1, None], images, images_of(model, seed=3))
    before, after = (two_stage_layers(model, x, masks, mode, rule="majority", fill=fill, layers="all") for x in (images, other))  # fmt: skip
    late = [single_stage(model, x, masks) for x in (images, other)]
    for b, a in zip(before, after, strict=True):
        assert torch.equal(b[:, 1], a[:, 1]) and not torch.equal(b[:, 0], a[:, 0])
    assert before[0][1, 3].isnan().all()
    assert not torch.equal(late[0][:, 1], late[1][:, 1])
    pixels = images.clone().requires_grad_()
    two_stage(model, pixels, masks, mode, rule="majority", fill=fill)[:, 1].square().sum().backward()
    slope = pixels.grad.abs().sum(1)
    assert (slope[~masks[:, 1]] == 0).all() and (slope[masks[:, 1]] > 0).any()


def test_a_crop_without_strict_pixels_sees_its_box():
    model = backbone("timm_vit")
    images, masks = images_of(model), torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    masks[:, 0, 4:20, 8:16] = True
    masks[:, 0, 4:12, 8:12] = False
    within = images.clone()
    within[:, :, 5, 9] = 0.9
    beyond = images.clone()
    beyond[:, :, 25, 25] = 0.9
    loose = {"strict_pixels": False, "allow_boundary_leak": True, "rule": "any"}
    plain = two_stage(model, images, masks, "crop", **loose)
    assert not torch.equal(plain, two_stage(model, within, masks, "crop", **loose))
    assert torch.equal(plain, two_stage(model, beyond, masks, "crop", **loose))


def test_a_crop_of_the_whole_picture_is_the_picture():
    model = backbone("timm_vit")
    images, whole = images_of(model), torch.ones(2, 1, 32, 32, dtype=torch.bool)
    assert torch.allclose(two_stage(model, images, whole, "crop"), single_stage(model, images, whole), atol=1e-5)
    half = torch.zeros_like(whole)
    half[..., :16, :16] = True
    scaled = torch.nn.functional.interpolate(images[..., :16, :16], size=(32, 32), mode="bilinear")
    assert torch.allclose(two_stage(model, images, half, "crop"), single_stage(model, scaled, whole), atol=1e-4)


@pytest.mark.parametrize("name", CNNS)
def test_maps_have_their_own_patches_layer_by_layer(name):
    model = backbone(name)
    images, masks = images_of(model), quadrants(64)
    made = single_stage_layers(model, images, masks, layers="all")
    assert [each.shape[-1] for each in made] == list(model.widths)
    maps = model.maps(model.normalise(images))
    for each, found in zip(made, maps, strict=True):
        half = found.shape[-1] // 2
        if half:
            assert torch.allclose(each[:, 0], found[:, :, :half, :half].mean((2, 3)), atol=1e-5)
    with pytest.raises(ValueError, match="different widths"):
        single_stage(model, images, masks, layers="all")


@pytest.mark.parametrize("mode", ["attn_mask", "token_drop", "packed"])
def test_convolutional_networks_have_no_tokens_to_drop(mode):
    model = backbone("resnet")
    with pytest.raises(ValueError, match=f"convolutional.*{mode}.*pixel_fill"):
        two_stage(model, images_of(model), quadrants(64), mode)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("timm_vit", {"rule": "any", "strict_pixels": False}, "allow_boundary_leak"),
        ("timm_vit", {"mode": "crop", "strict_pixels": False}, "allow_boundary_leak"),
        ("timm_vit", {"mode": "late"}, "attn_mask"),
        ("timm_vit", {"rule": "most"}, "majority"),
        ("timm_vit", {"fill": "blur"}, "pixel_fill and crop"),
        ("timm_vit", {"fill": "grey"}, "no fill 'grey'"),
        ("siglip", {"pool": "cls"}, "no CLS"),
        ("resnet", {"mode": "pixel_fill", "pool": "cls"}, "pool: cls"),
    ],
)
def test_what_two_stage_refuses(name, change, said):
    model = backbone(name)
    with pytest.raises(ValueError, match=said):
        two_stage(model, images_of(model), quadrants(model.image_size), **change)


@pytest.mark.parametrize("mode", ["attn_mask", "token_drop", "packed", "pixel_fill", "crop"])
def test_soft_masks_are_refused_because_they_leak(mode):
    model = backbone("timm_vit")
    for masks in (quadrants(32).float(), (quadrants(32).float() + 1e-10).log()):
        with pytest.raises(ValueError, match="leak"):
            two_stage(model, images_of(model), masks, mode)


def test_nothing_present_at_all():
    model = backbone("siglip")
    masks = torch.zeros(2, 3, 32, 32, dtype=torch.bool)
    for mode in ("attn_mask", "token_drop", "packed", "pixel_fill", "crop"):
        made = two_stage(model, images_of(model), masks, mode, layers="all")
        assert made.shape == (4, 2, 3, 32) and made.isnan().all(), mode


def test_half_precision_is_as_local_and_pooled_in_single():
    from dataclasses import replace

    from timm.models.vision_transformer import VisionTransformer

    from runner.models.backbones.timm_vit import timm_backbone

    network = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0)
    model = timm_backbone(drawn(network), replace(tiny_about("half"), precision="bf16"))
    images, masks = images_of(model), quadrants(32)
    other = torch.where(masks[:, 0, None], images, 1 - images)
    made = [two_stage(model, x, masks) for x in (images, other)]
    assert made[0].dtype == torch.float32 and torch.equal(made[0][:, 0], made[1][:, 0])
    modes = [two_stage(model, images, masks, mode)[:, 0] for mode in ("attn_mask", "token_drop")]
    assert torch.allclose(modes[0], modes[1], atol=0.1) and torch.allclose(made[0][:, 0], modes[1], atol=0.1)

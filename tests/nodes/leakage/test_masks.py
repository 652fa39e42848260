"""Masks of pixels and of patches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.leakage.masks import RULES, coverage, filling, in_pixels, patch_mask, strict_pixels

MEAN = (0.5, 0.4, 0.3)


def drawn(seed, *shape, share=0.5):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3, 4, 7]), st.sampled_from([0.02, 0.3, 0.5, 0.9, 0.99]))
def test_rules_nest_and_coverage_has_the_mean_of_the_mask(seed, size, share):
    mask = drawn(seed, 2, 3 * size, 5 * size, share=share)
    wide, half, whole = (patch_mask(mask, size, rule) for rule in ("any", "majority", "all"))
    assert (half <= wide).all() and (whole <= half).all()
    assert torch.allclose(coverage(mask, size).mean(-1), mask.float().mean((-1, -2)), atol=1e-6)


def test_patches_go_row_by_row():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[0, 2:4] = True  # half of the second patch
    mask[2:, 4:] = True  # all of the sixth
    mask[3, 1] = True  # a quarter of the fourth, at its lower right corner, which is its centre pixel
    assert coverage(mask, 2).tolist() == [0, 0.5, 0, 0.25, 0, 1]
    found = {rule: patch_mask(mask, 2, rule).nonzero().flatten().tolist() for rule in RULES}
    assert found == {"any": [1, 3, 5], "majority": [1, 5], "all": [5], "nearest_exact": [3, 5]}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 4, 5]))
def test_nearest_exact_is_what_interpolation_samples(seed, size):
    mask = drawn(seed, 1, 1, 4 * size, 4 * size)
    sampled = torch.nn.functional.interpolate(mask.float(), size=(4, 4), mode="nearest-exact").flatten() > 0
    assert torch.equal(patch_mask(mask[0, 0], size, "nearest_exact"), sampled)
    assert torch.equal(patch_mask(mask[0, 0].float(), size, "nearest_exact"), sampled)


def test_pixels_of_patches_are_covered_by_them():
    patches = drawn(0, 2, 16)
    assert torch.equal(patch_mask(in_pixels(patches, 8, 32), 8, "all"), patches)
    assert torch.equal(patch_mask(in_pixels(patches, 8, 32), 8, "any"), patches)


@pytest.mark.parametrize(
    ("mask", "size", "rule", "said"), [((10, 8), 4, "any", "10 x 8"), ((8, 8), 4, "most", "'most'")]
)
def test_what_cannot_be_meant_is_said(mask, size, rule, said):
    with pytest.raises(ValueError, match=said):
        patch_mask(torch.ones(mask, dtype=torch.bool), size, rule)


def test_only_the_part_is_left_whatever_stands_outside():
    pixels, masks = torch.rand(2, 3, 8, 8), drawn(1, 2, 3, 8, 8)
    fill = torch.tensor([0.1, 0.2, 0.3])
    left = strict_pixels(pixels, masks, fill)
    for b in range(2):
        for p in range(3):
            assert torch.equal(left[b, p][:, masks[b, p]], pixels[b][:, masks[b, p]])
            assert (left[b, p][:, ~masks[b, p]] == fill[:, None]).all()
    broken = torch.where(masks.any(1, keepdim=True), pixels, torch.nan)
    assert torch.equal(strict_pixels(broken, masks, fill), left)


@pytest.mark.parametrize("fill", ["mean", "zero", "noise", "blur", (0.0, 1.0, 0.5)])
def test_fills_do_not_know_the_outside(fill):
    pixels, masks = torch.rand(2, 3, 16, 16), drawn(2, 2, 3, 16, 16, share=0.2)
    other = pixels.clone()
    other[0][:, ~masks[0, 1]] = torch.nan
    before, after = (strict_pixels(x, masks, filling(fill, x, masks, MEAN, seed=4)) for x in (pixels, other))
    assert torch.equal(before[0, 1], after[0, 1])
    assert before.isfinite().all()


def test_fills_by_name():
    pixels, masks = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    assert torch.equal(filling("mean", pixels, masks, MEAN), torch.tensor(MEAN))
    assert filling("zero", pixels, masks, MEAN).tolist() == [0, 0, 0]
    noise = filling("noise", pixels, masks, MEAN, seed=1)
    assert torch.equal(noise, filling("noise", 0 * pixels, masks, MEAN, seed=1))
    assert not torch.equal(noise, filling("noise", pixels, masks, MEAN, seed=2))
    flat = filling("blur", pixels, masks, MEAN)
    assert torch.allclose(flat, torch.tensor(MEAN).view(3, 1, 1).expand_as(flat)), "nothing to spread"
    for wrong in ("median", (0.5, 0.5)):
        with pytest.raises(ValueError, match="no fill"):
            filling(wrong, pixels, masks, MEAN)


def test_a_part_of_one_colour_spreads_that_colour():
    masks = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    masks[..., 12:20, 12:20] = True
    pixels = torch.rand(1, 3, 32, 32)
    colour = torch.tensor([0.9, 0.1, 0.6])
    pixels[:, :, 12:20, 12:20] = colour.view(3, 1, 1)
    spread = filling("blur", pixels, masks, MEAN)[0, 0]
    assert torch.allclose(spread[:, 10, 15], colour, atol=1e-5)
    assert torch.allclose(spread[:, 0, 0], torch.tensor(MEAN)), "too far away"

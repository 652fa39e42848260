"""Gradient share and replaced pixels on extractors whose answer is known by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.leakage.dependence import bootstrap_means, cosine_distance, gradient_share, replacement_dependence
from runner.nodes.leakage.resampling import resample_counts

B, P, SIDE, D = 3, 2, 6, 5


@pytest.fixture
def material():
    """Pictures, two disjoint parts, and another set of pictures."""
    generator = torch.Generator().manual_seed(0)
    images, other = (torch.rand(B, 3, SIDE, SIDE, generator=generator) for _ in range(2))
    masks = torch.zeros(B, P, SIDE, SIDE, dtype=torch.bool)
    masks[:, 0, :3], masks[:, 1, 4:, 2:] = True, True
    return images, masks, other


def weighted(weights, masks, leak):
    """f_p = weights x (pixels inside p + leak x pixels outside p): [B, P, D]."""

    def extract(pixels):
        seen = torch.where(masks[:, :, None], pixels[:, None], leak * pixels[:, None])
        return torch.einsum("bpchw,dchw->bpd", seen, weights)

    return extract


@pytest.mark.parametrize("leak", [0.0, 0.25, 1.0])
def test_share_of_a_linear_map_is_that_of_its_weights(material, leak):
    """d|f|^2/2 / dx = sum_d f_d w_d(x) inside, leak times that outside."""
    images, masks, _ = material
    weights = torch.randn(D, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    extract = weighted(weights, masks, leak)
    found = gradient_share(extract, images, masks)
    for b in range(B):
        for p in range(P):
            slope = torch.einsum("d,dchw->chw", extract(images)[b, p], weights).abs().sum(0).double()
            outside, inside = leak * slope[~masks[b, p]].sum(), slope[masks[b, p]].sum()
            assert found[b, p] == pytest.approx(float(outside / (outside + inside)), rel=1e-5)


def test_what_is_local_has_no_share_and_no_distance_bit_for_bit(material):
    images, masks, other = material
    extract = weighted(torch.randn(D, 3, SIDE, SIDE), masks, 0.0)
    found = replacement_dependence(extract, images, masks, other)
    assert (gradient_share(extract, images, masks) == 0).all()
    assert (found.d_out == 0).all() and (found.d_in > 0).all() and (found.out_share == 0).all()


def test_absent_parts_and_constant_vectors_are_nan_and_layers_lead(material):
    images, masks, other = material
    local = weighted(torch.randn(D, 3, SIDE, SIDE), masks, 0.5)
    absent = torch.zeros(B, P, 1, dtype=torch.bool)
    absent[1, 0] = True

    def extract(pixels):
        one = local(pixels).masked_fill(absent, torch.nan)
        return torch.stack([one, torch.ones_like(one) + 0 * one])

    shares = gradient_share(extract, images, masks)
    assert shares.shape == (2, B, P)
    assert shares[0].isnan().nonzero().tolist() == [[1, 0]]
    assert shares[1].isnan().all()  # no gradient at all
    moved = replacement_dependence(extract, images, masks, other)
    assert moved.d_out.isnan().nonzero().tolist() == [[0, 1, 0], [1, 1, 0]]
    constant = moved.out_share[1]
    assert constant.isnan().all() and (moved.d_in[1][~moved.d_in[1].isnan()] == 0).all()


def test_a_part_by_itself_gives_what_all_parts_give(material):
    images, masks, other = material
    weights = torch.randn(D, 3, SIDE, SIDE)
    extract = weighted(weights, masks, 0.3)
    one = replacement_dependence(
        extract, images, masks, other,
        one=lambda pixels, part: weighted(weights, masks[:, part : part + 1], 0.3)(pixels)[:, 0],
    )  # fmt: skip
    for mine, theirs in zip(replacement_dependence(extract, images, masks, other), one, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10)


vectors = st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3).filter(lambda v: sum(x * x for x in v) > 1e-3)


@given(vectors, vectors, st.floats(0.5, 9))
def test_distance_is_one_minus_cosine(first, second, scale):
    one, other = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    expected = 1 - torch.nn.functional.cosine_similarity(one, other, dim=0)
    assert float(cosine_distance(one, other)) == pytest.approx(float(expected), abs=1e-12)
    assert float(cosine_distance(scale * one, other)) == pytest.approx(float(expected), abs=1e-12)
    assert cosine_distance(one, one.clone()) == 0


def test_bootstrap_leaves_out_what_is_missing():
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(60, 4, generator=generator, dtype=torch.float64)
    values[10:40, 1], values[:, 2], values[:, 3] = torch.nan, torch.nan, 0.0
    mean, low, high = bootstrap_means(values, resample_counts(60, 2000, 5))
    assert mean[0] == pytest.approx(float(values[:, 0].mean())) and mean[1] == pytest.approx(
        float(values[:, 1].nanmean())
    )
    assert mean[2].isnan() and low[2].isnan()
    assert (mean[3], low[3], high[3]) == (0, 0, 0)
    for column, n in ((0, 60), (1, 30)):  # the normal interval of a mean, near enough
        kept = values[:, column][~values[:, column].isnan()]
        half = 1.96 * float(kept.std()) / n**0.5
        assert float(high[column] - low[column]) == pytest.approx(2 * half, rel=0.15)

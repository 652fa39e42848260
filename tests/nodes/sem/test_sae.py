"""The sparse autoencoder as a function, and its losses, against formulas written out here."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.sem.losses import (
    Objective,
    cosine,
    l1_penalty,
    level_weights,
    mse,
    nested_reconstructions,
    nmse,
    training_losses,
)
from runner.nodes.sem.sae import SparseAutoencoder, initialise, keep_largest, keep_largest_of_batch
from runner.nodes.sem.sae_about import SaeAbout, check_levels

SHAPES = st.tuples(st.integers(1, 12), st.integers(2, 40), st.integers(1, 9), st.integers(0, 2**31))


def made(d, latents, seed, **about):
    sae = SparseAutoencoder(d, latents, SaeAbout("toy", **about))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
        sae.mean.copy_(torch.randn(d, generator=draw))
        sae.scale.fill_(0.3 + float(torch.rand((), generator=draw)))
    return sae


def rows(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed + 1))


def as_numpy(sae):
    return {name: value.double().numpy() for name, value in sae.state_dict().items()}


@settings(deadline=None)
@given(SHAPES)
def test_encode_and_decode_are_the_published_formulas(shape):
    d, latents, n, seed = shape
    sae, z = made(d, latents, seed), rows(n, d, seed)
    w, x = as_numpy(sae), z.double().numpy()
    h = np.maximum(
        0, w["encoder.weight"] @ ((x - w["mean"]) * w["scale"] - w["b_pre"]).T + w["encoder.bias"][:, None]
    ).T
    again = (h @ w["decoder.weight"].T + w["b_pre"]) / w["scale"] + w["mean"]
    with torch.no_grad():
        np.testing.assert_allclose(sae.encode(z).numpy(), h, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(sae(z).numpy(), again, rtol=1e-3, atol=1e-2)


@settings(deadline=None)
@given(SHAPES)
def test_unit_norm_decoder_leaves_the_full_reconstruction(shape):
    d, latents, n, seed = shape
    sae, z = made(d, latents, seed), rows(n, d, seed)
    with torch.no_grad():
        before = sae(z)
        sae.scale_decoder_to_unit()
        torch.testing.assert_close(sae(z), before, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(sae.decoder.weight.norm(dim=0), torch.ones(latents))


@settings(deadline=None)
@given(SHAPES)
def test_folding_mean_and_scale_into_the_weights_changes_nothing(shape):
    d, latents, n, seed = shape
    sae, z = made(d, latents, seed), rows(n, d, seed)
    plain = sae.folded()
    assert not plain.mean.any() and float(plain.scale) == 1
    with torch.no_grad():
        torch.testing.assert_close(plain.encode(z), sae.encode(z), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(plain(z), sae(z), rtol=1e-3, atol=1e-2)


def test_a_dead_direction_survives_the_unit_norm():
    sae = made(3, 5, 0)
    with torch.no_grad():
        sae.decoder.weight[:, 2] = 0
    sae.scale_decoder_to_unit()
    assert torch.isfinite(sae.decoder.weight).all() and not sae.decoder.weight[:, 2].any()


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**31))
def test_top_k_keeps_the_largest_positive_ones(latents, n, k, seed):
    pre = rows(n, latents, seed)
    kept = keep_largest(pre, k)
    for row, found in zip(pre.tolist(), kept.tolist(), strict=True):
        wanted = sorted((value for value in row if value > 0), reverse=True)[:k]
        assert sorted((value for value in found if value > 0), reverse=True) == wanted
    together = keep_largest_of_batch(pre, k)
    wanted = sorted((value for value in pre.flatten().tolist() if value > 0), reverse=True)[: k * n]
    assert sorted(together[together > 0].tolist(), reverse=True) == wanted


def test_only_topk_architectures_select_at_inference():
    z = rows(6, 8, 0)
    for architecture, levels, most in (
        ("msae", (2, 4), 32),
        ("topk", (3,), 3),
        ("batch_topk", (3,), 3),
        ("relu_l1", (), 32),
    ):
        sae = made(8, 32, 0, architecture=architecture, levels=levels)
        active = (sae.encode(z) > 0).sum(1)
        assert sae.kept == most and (active <= most).all()
        assert torch.equal(sae.encode(z, top_k=32), sae.pre_activations(sae.standardised(z)).relu())
    assert int((made(8, 32, 0).encode(z) > 0).sum(1).max()) > 3


def test_another_width_and_no_latents_are_refused():
    with pytest.raises(ValueError, match="width 8, not 5"):
        made(8, 4, 0).encode(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="at least one latent"):
        made(8, 4, 0).encode(torch.zeros(2, 8), top_k=0)


def test_starting_values():
    mean = torch.arange(6.0)
    sae = SparseAutoencoder(6, 40)
    initialise(sae, how="msae", mean=mean, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(sae.decoder.weight.norm(dim=0), torch.full((40,), 0.1))
    assert torch.equal(sae.encoder.weight, sae.decoder.weight.T) and not sae.encoder.bias.any()
    assert torch.equal(sae.b_pre, mean)
    initialise(sae, how="sem", generator=torch.Generator().manual_seed(3))
    assert not sae.b_pre.any()
    assert 0.8 / math.sqrt(40) < sae.decoder.weight.abs().max() <= 1 / math.sqrt(40)
    assert 0.8 / math.sqrt(6) < sae.encoder.weight.abs().max() <= 1 / math.sqrt(6)
    again = SparseAutoencoder(6, 40)
    initialise(again, how="sem", generator=torch.Generator().manual_seed(3))
    assert again.digest() == sae.digest() != SparseAutoencoder(6, 40).digest()


# --- losses ----------------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    x = torch.tensor([[1.0, 3.0], [0.0, 4.0]])
    recon = torch.tensor([[2.0, 3.0], [0.0, 2.0]])
    assert float(mse(recon, x)) == pytest.approx((1 + 0 + 0 + 4) / 4)
    # Row variances (biased): 1 and 4; row errors: 0.5 and 2.
    assert float(nmse(recon, x)) == pytest.approx((0.5 / 1 + 2 / 4) / 2)
    first = 11 / math.sqrt(10 * 13)
    assert float(cosine(recon, x)) == pytest.approx((1 - first) ** 2 / 2, rel=1e-4)
    h = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 8.0]])
    assert float(l1_penalty(h, x)) == pytest.approx((3 / math.sqrt(10) + 8 / 4) / 2)


def test_weights_of_levels():
    assert level_weights(3, "reverse") == (3, 2, 1) and level_weights(3, "uniform") == (1, 1, 1)


@settings(deadline=None)
@given(SHAPES, st.data())
def test_one_selection_serves_all_levels(shape, data):
    d, latents, n, seed = shape
    levels = sorted(data.draw(st.sets(st.integers(1, latents), min_size=1, max_size=4)))
    sae = made(d, latents, seed)
    pre = sae.pre_activations(rows(n, d, seed))
    for k, recon in zip(levels, nested_reconstructions(sae, pre, levels), strict=True):
        torch.testing.assert_close(recon, sae.decoder(keep_largest(pre, k)) + sae.b_pre, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("averaged", [False, True])
def test_the_weighted_sum_of_sem_and_of_msae(averaged):
    sae, x = made(5, 20, 1), rows(7, 5, 1)
    objective = Objective("msae", (2, 5, 20), (3.0, 2.0, 1.0), "mse", averaged)
    pre = sae.pre_activations(x)
    each = [mse(sae.decoder(keep_largest(pre, k)) + sae.b_pre, x) for k in (2, 5, 20)]
    total = 3 * each[0] + 2 * each[1] + each[2]
    found = training_losses(sae, x, objective)
    torch.testing.assert_close(found.total, total / 6 if averaged else total)
    torch.testing.assert_close(found.levels, torch.stack(each).detach())
    assert torch.equal(found.active, pre > 0)


def test_losses_of_the_other_architectures():
    sae, x = made(5, 20, 1), rows(7, 5, 1)
    pre = sae.pre_activations(x)
    shared = training_losses(sae, x, Objective("batch_topk", (3,), (1.0,))).total
    torch.testing.assert_close(shared, mse(sae.decoder(keep_largest_of_batch(pre, 3)) + sae.b_pre, x))
    sparse = training_losses(sae, x, Objective("relu_l1", (), (1.0,), l1=0.5)).total
    torch.testing.assert_close(sparse, mse(sae.decoder(pre.relu()) + sae.b_pre, x) + 0.5 * l1_penalty(pre.relu(), x))


@pytest.mark.parametrize(
    ("architecture", "levels", "message"),
    [("msae", (), "at least one"), ("msae", (4, 2), "ascend"), ("msae", (2, 2), "ascend"), ("msae", (2, 40), "between 1 and"),
     ("msae", (0, 2), "between 1 and"), ("topk", (2, 4), "exactly one"), ("batch_topk", (), "exactly one"),
     ("relu_l1", (3,), "no levels"), ("topk", (33,), "between 1 and")],
)  # fmt: skip
def test_levels_that_do_not_fit_are_refused(architecture, levels, message):
    with pytest.raises(ValueError, match=message):
        check_levels(architecture, levels, 32)

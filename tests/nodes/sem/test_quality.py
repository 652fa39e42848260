"""Quality of sparse autoencoders against direct formulas in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.sem.quality import cknna, decoder_coherence, fvu, measure
from runner.nodes.sem.sae import SaeAbout, SparseAutoencoder


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_unexplained_variance():
    x = normal(9, 6)
    assert not fvu(x, x).any()
    torch.testing.assert_close(fvu(x, x.mean(1, keepdim=True).expand_as(x)), torch.ones(9))
    recon = normal(9, 6, seed=1)
    wanted = [np.var((a - b).numpy(), ddof=1) / np.var(a.numpy(), ddof=1) for a, b in zip(x, recon, strict=True)]
    np.testing.assert_allclose(fvu(x, recon).numpy(), wanted, rtol=1e-4)


@settings(deadline=None)
@given(st.integers(2, 20), st.integers(1, 9), st.integers(0, 2**31))
def test_coherence_without_the_square_matrix(latents, d, seed):
    rows = normal(latents, d, seed=seed)
    gram = (rows.double() @ rows.double().T).numpy()
    np.fill_diagonal(gram, 0)
    assert decoder_coherence(rows) == pytest.approx((gram**2).sum() / latents**2, rel=1e-6, abs=1e-12)


def test_orthogonal_directions_have_no_coherence():
    assert decoder_coherence(torch.eye(5)) == 0
    assert decoder_coherence(torch.tensor([[1.0, 0], [1.0, 0]])) == pytest.approx(0.5)


def slow_cknna(a, b, k):
    """Written with loops over pairs, from the definition."""
    n = len(a)
    K, L = a @ a.T, b @ b.T

    def near(kernel):
        ranked = [sorted((j for j in range(n) if j != i), key=lambda j, i=i: -kernel[i, j])[:k] for i in range(n)]
        return np.array([[j in ranked[i] for j in range(n)] for i in range(n)])

    def hsic(kernel, other, mask):
        p, q = kernel * mask, other * mask
        ones = np.ones(n)
        inside = np.trace(p @ q) + (ones @ p @ ones) * (ones @ q @ ones) / ((n - 1) * (n - 2))
        return (inside - 2 / (n - 2) * (ones @ p @ q @ ones)) / (n * (n - 3))

    near_k, near_l = near(K), near(L)
    return hsic(K, L, near_k & near_l) / (np.sqrt(hsic(K, K, near_k) * hsic(L, L, near_l)) + 1e-6)


def test_cknna_is_its_definition():
    a, b = normal(40, 6), normal(40, 9, seed=1)
    b[:, :6] += 2 * a
    assert cknna(a, b, 5) == pytest.approx(slow_cknna(a.double().numpy(), b.double().numpy(), 5), rel=1e-6)


def test_cknna_of_the_same_things_is_one_and_of_unrelated_ones_is_low():
    x = normal(200, 16)
    assert cknna(x, x) == pytest.approx(1, abs=1e-3)
    assert abs(cknna(x, normal(200, 16, seed=1))) < 0.3
    with pytest.raises(ValueError, match="more than 10"):
        cknna(x[:10], x[:10])
    with pytest.raises(ValueError, match="200 and 100"):
        cknna(x, x[:100])


def test_measures_by_hand_and_in_batches():
    sae = SparseAutoencoder(3, 5, SaeAbout("toy"))
    z = normal(50, 3)
    with torch.no_grad():
        sae.encoder.weight[4] = 0
        sae.encoder.bias[4] = -1  # never active
        h = sae.encode(z)
        error = z - sae.decode(h)
    found = measure(sae, z)
    assert found.l0 == pytest.approx(float((h > 0).sum(1).float().mean()))
    assert found.sparsity == pytest.approx(float((h == 0).float().mean()), abs=1e-6)
    assert found.dead == int((h == 0).all(0).sum()) >= 1
    assert found.l2 == pytest.approx(float(error.square().sum(1).sqrt().mean()), rel=1e-5)
    assert measure(sae, z, batch=7) == pytest.approx(found)
    with pytest.raises(ValueError, match="at least one row"):
        measure(sae, z[:0])

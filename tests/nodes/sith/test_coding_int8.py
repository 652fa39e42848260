"""Atoms proposed by 8-bit products: the best are always among them, whatever the scales and outlying coordinates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.sith import coding_int8
from runner.nodes.sith.coding import comp, omp
from runner.nodes.sith.coding_picked import Settings
from runner.nodes.sith.coding_rows import TensorRows

pytestmark = pytest.mark.skipif(
    not coding_int8.available(torch.device("cpu")), reason="8-bit products are not exact on this processor"
)


def drawn(seed, *, targets=70, atoms=333, dim=24, outlying=1.0):
    made = torch.Generator().manual_seed(seed)
    X, G = torch.randn(targets, dim, generator=made), torch.randn(atoms, dim, generator=made)
    G[:, 1] *= outlying
    return X, G


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([1.0, 30.0]),
    st.sampled_from([7, 24, 36]),
    st.integers(1, 400),
    st.integers(1, 20),
    st.booleans(),
)
def test_the_best_atoms_are_among_the_proposed(seed, outlying, dim, chunk, count, absolute):
    X, G = drawn(seed, dim=dim, outlying=outlying)
    G[5] *= 40  # one long atom coarsens the scale of its chunk
    banned = torch.randint(-1, len(G), (len(X), 3), generator=torch.Generator().manual_seed(seed))
    rows, atoms = coding_int8.Int8(TensorRows(G), chunk, absolute=absolute).candidates(X.double(), count, banned)
    scores = X.double() @ G.double().T
    scores = scores.abs() if absolute else scores
    for column in banned.unbind(1):
        scores[torch.arange(len(X))[column >= 0], column[column >= 0]] = -torch.inf
    proposed = torch.zeros(scores.shape, dtype=torch.bool)
    proposed[rows, atoms] = True
    assert proposed.gather(1, scores.topk(count).indices).all()
    assert not proposed[scores.isneginf()].any()
    assert (rows.diff() >= 0).all()


def test_only_few_atoms_are_proposed_although_one_coordinate_outweighs_the_others():
    X, G = drawn(0, atoms=5000, dim=64, outlying=20.0)
    X[:, 1] = 0  # what differs between atoms lies in the small coordinates
    rows, _ = coding_int8.Int8(TensorRows(G), 5000, absolute=False).candidates(X.double(), 2, torch.full((70, 0), -1))
    assert len(rows) < 70 * 500


@pytest.mark.parametrize("chunk", [50, 8192])
def test_codes_are_those_of_float32(chunk):
    X, G = drawn(3, outlying=8.0)
    G = torch.nn.functional.normalize(torch.cat([G, G[:40]]))  # equal atoms go to the lowest index
    X[0] = 0
    ours, wanted = comp(X, G, 6, precision="int8", chunk=chunk), comp(X, G, 6)
    assert torch.equal(ours.support, wanted.support)
    torch.testing.assert_close(ours.coefficients, wanted.coefficients, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.gap, wanted.gap, atol=1e-6, rtol=0, equal_nan=True)
    signed = omp(X, G, 6, settings=Settings(chunk, "int8"))
    assert torch.equal(signed.support, omp(X, G, 6).support)

"""Batched non-negative least squares against scipy, also where atoms depend on each other."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls as scipy_nnls

from runner.nodes.sith.nnls import KKT, nnls


def problem(seed, batch, k, dim, alike):
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(batch, 1, dim, generator=g, dtype=torch.float64)
    atoms = alike * shared + torch.randn(batch, k, dim, generator=g, dtype=torch.float64)
    atoms = torch.nn.functional.normalize(atoms, dim=-1)
    x = torch.nn.functional.normalize(torch.randn(batch, dim, generator=g, dtype=torch.float64), dim=-1)
    return atoms, x, atoms @ atoms.mT, torch.einsum("bkd,bd->bk", atoms, x)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 40), st.sampled_from([0.0, 1.0, 4.0]))
def test_it_is_scipys_and_meets_the_optimality_conditions(seed, k, dim, alike):
    atoms, x, gram, rhs = problem(seed, 7, k, dim, alike)
    a = nnls(gram, rhs)
    assert (a >= 0).all()
    gradient = rhs - torch.einsum("bk,bkj->bj", a, gram)
    assert gradient.max() <= 10 * KKT and gradient[a > 0].abs().max() <= 1e-9 if (a > 0).any() else True
    for i in range(7):
        wanted, norm = scipy_nnls(atoms[i].numpy().T, x[i].numpy())
        left = (x[i] - a[i] @ atoms[i]).norm()
        np.testing.assert_allclose(left, norm, atol=1e-9)
        if k <= dim and alike < 4:
            np.testing.assert_allclose(a[i], wanted, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_twins_and_sums_do_not_stop_it(seed, k):
    atoms, x, _, _ = problem(seed, 5, k, 16, 1.0)
    total = torch.nn.functional.normalize(atoms[:, :2].sum(1, keepdim=True), dim=-1)
    atoms = torch.cat([atoms, atoms[:, :1], total], 1)
    gram, rhs = atoms @ atoms.mT, torch.einsum("bkd,bd->bk", atoms, x)
    a = nnls(gram, rhs)
    for i in range(5):
        norm = scipy_nnls(atoms[i].numpy().T, x[i].numpy())[1]
        np.testing.assert_allclose((x[i] - a[i] @ atoms[i]).norm(), norm, atol=1e-7)


def test_a_start_and_forbidden_atoms():
    atoms, x, gram, rhs = problem(1, 9, 6, 20, 0.5)
    start = nnls(gram, rhs, None, torch.tensor([[True] * 5 + [False]] * 9))
    assert (start[:, 5] == 0).all()
    for i in range(9):
        np.testing.assert_allclose(start[i, :5], scipy_nnls(atoms[i, :5].numpy().T, x[i].numpy())[0], atol=1e-8)
    torch.testing.assert_close(nnls(gram, rhs, start), nnls(gram, rhs), atol=1e-9, rtol=0)

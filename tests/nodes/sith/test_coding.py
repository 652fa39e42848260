"""Sparse codes: held to plain references written here, to scipy and to scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls as scipy_nnls

from runner.nodes.sith.coding import (
    comp,
    nested,
    nnomp,
    omp,
    reconstruct,
    sweep,
    top_k,
)
from runner.nodes.sith.coding_picked import Settings
from runner.nodes.sith.coding_relaxed import lasso, matching_pursuit

UNIT = torch.nn.functional.normalize


def drawn(seed, targets=12, atoms=120, dim=24, clusters=0):
    g = torch.Generator().manual_seed(seed)
    G = torch.randn(atoms, dim, generator=g)
    if clusters:
        centres = 2 * torch.randn(clusters, dim, generator=g)
        G = G + centres[torch.randint(clusters, (atoms,), generator=g)]
    return UNIT(torch.randn(targets, dim, generator=g)), UNIT(G)


def plain(X, G, k, coherence, C=None):
    """COMP as written down, one target at a time, float64, scipy's NNLS; also the gaps."""
    X, G = X.double().numpy(), G.double().numpy()
    C = G if C is None else C.double().numpy()
    out = []
    for x in X:
        S, gaps, r, a = [], [], x, None
        for step in range(k):
            scores = G @ r
            if step:
                scores = scores + coherence * (C @ C[S].T).mean(1)
            scores[S] = -np.inf
            first, second = np.sort(scores)[::-1][:2]
            S.append(int(scores.argmax()))
            gaps.append(first - second)
            a, _ = scipy_nnls(G[S].T, x)
            r = x - a @ G[S]
        out.append((S, a, np.linalg.norm(r), gaps))
    return out


def same(code, reference, atol=1e-5):
    for i, (S, a, norm, gaps) in enumerate(reference):
        assert code.support[i].tolist() == S
        np.testing.assert_allclose(code.coefficients[i], a, atol=atol)
        np.testing.assert_allclose(code.residual_norm[i], norm, atol=atol)
        np.testing.assert_allclose(code.gap[i], gaps, atol=atol)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.3, 1.0]), st.integers(1, 12), st.integers(0, 6))
def test_comp_is_the_plain_loop(seed, coherence, k, clusters):
    X, G = drawn(seed, clusters=clusters)
    same(comp(X, G, k, coherence), plain(X, G, k, coherence))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from(["fp32", "bf16"]), st.sampled_from(["gemm", "faiss"]), st.integers(1, 300)
)
def test_picks_do_not_depend_on_precision_backend_or_chunks(seed, precision, backend, chunk):
    X, G = drawn(seed, atoms=211, clusters=5)
    ours = comp(X, G, 6, 0.3, precision=precision, backend=backend, chunk=chunk)
    wanted = comp(X, G, 6, 0.3)
    assert torch.equal(ours.support, wanted.support)
    torch.testing.assert_close(ours.coefficients, wanted.coefficients, atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3]))
def test_what_holds_for_every_code(seed, coherence):
    X, G = drawn(seed, clusters=4)
    codes = nested(X, G, [1, 3, 8], coherence)
    for k, code in codes.items():
        alone = comp(X, G, k, coherence)
        assert torch.equal(code.support, alone.support) and torch.equal(code.coefficients, alone.coefficients)
        assert torch.equal(code.support, codes[8].support[:, :k])
        assert all(len(set(row)) == k for row in code.support.tolist())
        assert (code.coefficients >= 0).all()
        # Optimality: what is left has no product with active atoms and no positive one with picked atoms.
        left = (X - reconstruct(code, G)).double()
        products = torch.einsum("bkd,bd->bk", G[code.support].double(), left)
        assert (products <= 1e-5).all() and products[code.coefficients > 0].abs().max() <= 1e-5
        torch.testing.assert_close(left.norm(dim=1).float(), code.residual_norm, atol=1e-5, rtol=0)
    norms = torch.stack([codes[k].residual_norm for k in (1, 3, 8)])
    assert (norms.diff(dim=0) <= 1e-6).all()
    assert torch.equal(codes[1].support, nnomp(X, G, 1).support)


def test_without_coherence_it_is_nnomp_and_single_rows_are_the_batch():
    X, G = drawn(3)
    assert torch.equal(comp(X, G, 5, 0.0).support, nnomp(X, G, 5).support)
    whole = comp(X, G, 5, 0.3)
    for i, x in enumerate(X):
        own = comp(x[None], G, 5, 0.3)
        assert torch.equal(own.support[0], whole.support[i])
        torch.testing.assert_close(own.coefficients[0], whole.coefficients[i], atol=1e-7, rtol=0)


def test_permuting_and_rotating_change_nothing_else():
    X, G = drawn(4)
    order = torch.randperm(len(G), generator=torch.Generator().manual_seed(0))
    code, moved = comp(X, G, 6), comp(X, G[order], 6)
    assert torch.equal(order[moved.support], code.support)
    Q = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    turned = comp((X.double() @ Q).float(), (G.double() @ Q).float(), 6)
    assert torch.equal(turned.support, code.support)
    torch.testing.assert_close(turned.coefficients, code.coefficients, atol=1e-5, rtol=0)


def test_an_atom_is_itself_and_nothing_is_nothing():
    _, G = drawn(5)
    code = comp(torch.stack([G[17], torch.zeros(24)]), G, 3, 0.3)
    assert code.support[0, 0] == 17
    torch.testing.assert_close(code.coefficients, torch.tensor([[1.0, 0, 0], [0, 0, 0]]), atol=1e-6, rtol=0)
    assert code.residual_norm.max() < 1e-6
    assert code.support[1, 0] == 0  # all atoms score 0: the lowest index, and the gap says so
    assert code.gap[1, 0] == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_equal_atoms_go_to_the_lowest_index_and_share_no_coefficient(precision):
    X, G = drawn(6, targets=4, atoms=40)
    doubled = torch.cat([G, G, G])
    code = comp(X, doubled, 6, 0.5, precision=precision)
    assert (code.support[:, 0] < 40).all() and (code.gap[:, 0] == 0).all()
    # The twin of a pick has the highest coherence; together they fit as one does.
    assert (code.support[:, 1] == code.support[:, 0] + 40).all()
    assert torch.isfinite(code.coefficients).all() and (code.coefficients[:, 1] == 0).all()
    faiss = comp(X, doubled, 6, 0.5, backend="faiss")
    assert torch.equal(faiss.support, code.support)


def test_coherence_may_be_measured_in_another_space():
    X, G = drawn(7)
    C = UNIT(torch.randn(120, 9, generator=torch.Generator().manual_seed(2)))
    same(comp(X, G, 5, 0.4, coherence_atoms=C), plain(X, G, 5, 0.4, C))
    with pytest.raises(ValueError, match="one coherence vector for each of 120"):
        comp(X, G, 5, 0.4, coherence_atoms=C[1:])


def test_more_coherence_gives_more_alike_atoms_and_a_worse_fit():
    X, G = drawn(8, targets=200, atoms=600, dim=32, clusters=25)
    alike, norms = [], []
    for coherence in (0.0, 0.2, 0.4):
        code = comp(X, G, 5, coherence)
        gram = torch.einsum("bkd,bjd->bkj", G[code.support], G[code.support])
        alike.append(float((gram.sum((1, 2)) - 5).mean() / 20))
        norms.append(float(code.residual_norm.mean()))
    assert alike[0] < alike[1] < alike[2] and norms[0] < norms[1] < norms[2]


def test_all_atoms_can_be_picked_also_more_than_dimensions():
    X, G = drawn(9, targets=5, atoms=20, dim=8)
    code = comp(X, G, 20, 0.3)
    assert all(sorted(row) == list(range(20)) for row in code.support.tolist())
    wanted = [scipy_nnls(G.double().numpy().T, x.double().numpy())[1] for x in X]
    np.testing.assert_allclose(code.residual_norm, wanted, atol=1e-5)
    assert torch.isnan(code.gap[:, -1]).all()


@pytest.mark.parametrize("selection", ["absolute", "signed"])
def test_omp_selects_and_fits_with_either_sign(selection):
    X, G = drawn(10, atoms=60)
    code = omp(X, G, 6, selection)
    for i, x in enumerate(X.double().numpy()):
        S, r, g = [], x, G.double().numpy()
        for _ in range(6):
            scores = np.abs(g @ r) if selection == "absolute" else g @ r
            scores[S] = -np.inf
            S.append(int(scores.argmax()))
            a = np.linalg.lstsq(g[S].T, x, rcond=None)[0]
            r = x - a @ g[S]
        assert code.support[i].tolist() == S
        np.testing.assert_allclose(code.coefficients[i], a, atol=1e-5)


def test_omp_is_scikit_learns():
    linear = pytest.importorskip("sklearn.linear_model")
    X, G = drawn(11, atoms=60)
    theirs = linear.orthogonal_mp(G.double().numpy().T, X.double().numpy().T, n_nonzero_coefs=5).T
    code = omp(X, G, 5)
    dense = torch.zeros(len(X), len(G)).scatter_(1, code.support, code.coefficients)
    np.testing.assert_allclose(dense, theirs, atol=1e-5)


@pytest.mark.parametrize("signed", [False, True])
def test_matching_pursuit_is_the_plain_loop(signed):
    X, G = drawn(12, atoms=50)
    code = matching_pursuit(X, G, 7, signed)
    for i, x in enumerate(X.double().numpy()):
        r, g, a = x.copy(), G.double().numpy(), np.zeros(50)
        for step in range(7):
            scores = np.abs(g @ r) if signed else g @ r
            scores[a != 0] = -np.inf
            j = int(scores.argmax())
            a[j] = g[j] @ r if signed else max(0.0, g[j] @ r)
            r = r - a[j] * g[j]
            assert code.support[i, step] == j
            np.testing.assert_allclose(code.coefficients[i, step], a[j], atol=1e-6)
        np.testing.assert_allclose(code.residual_norm[i], np.linalg.norm(r), atol=1e-6)
    _, G = drawn(12)
    ended = matching_pursuit(torch.stack([G[3], -torch.ones(24)]), torch.cat([G[3:4], G[3:4].abs()]), 2)
    assert ended.support.tolist()[0] == [0, -1]


def test_top_k_is_one_fit_of_the_nearest():
    X, G = drawn(13)
    code = top_k(X, G, 6)
    scores = X.double() @ G.double().T
    assert torch.equal(code.support, scores.argsort(dim=1, descending=True)[:, :6])
    for i in range(len(X)):
        chosen = G[code.support[i]].double().numpy()
        np.testing.assert_allclose(code.coefficients[i], scipy_nnls(chosen.T, X[i].double().numpy())[0], atol=1e-5)


def test_a_sweep_is_its_settings_one_by_one():
    X, G = drawn(14, clusters=6)
    found = sweep(X, G, (2, 5), (0.0, 0.3), settings=Settings(precision="bf16", chunk=32), with_top_k=True)
    assert len(found) == 6
    for (kind, coherence, k), code in found.items():
        alone = top_k(X, G, k) if kind == "top_k" else comp(X, G, k, coherence)
        for ours, theirs in zip(code, alone, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize("l1", [0.05, 0.25, 0.8])
def test_the_lasso_is_optimal_and_scikit_learns(l1):
    X, G = drawn(15, targets=6, atoms=80)
    code = lasso(X, G, l1)
    left = X.double() - reconstruct(code, G).double()
    gradient = 2 * left @ G.double().T - l1
    assert gradient.max() <= 1e-5
    active = code.coefficients > 0
    assert active.sum(1).max() > 0 or l1 == 0.8
    at = gradient.gather(1, code.support.clamp_min(0))
    assert at[active].abs().max() <= 1e-5 if active.any() else True
    assert (code.coefficients.diff(dim=1) <= 0).all() and ((code.support >= 0) == active).all()
    linear = pytest.importorskip("sklearn.linear_model")
    model = linear.Lasso(alpha=l1 / (2 * 24), positive=True, fit_intercept=False, max_iter=100_000, tol=1e-10)
    dense = np.zeros((6, 80))
    for i in range(6):
        for atom, value in zip(code.support[i].tolist(), code.coefficients[i].tolist(), strict=True):
            dense[i, atom] += value if atom >= 0 else 0
        np.testing.assert_allclose(dense[i], model.fit(G.double().numpy().T, X[i].double().numpy()).coef_, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be from 1 to the 120 atoms, not 0"),
        ({"k": 121}, "not 121"),
        ({"coherence": -0.1}, "coherence must be finite and at least 0"),
        ({"coherence": float("nan")}, "coherence must be finite"),
        ({"targets": torch.full((2, 24), torch.nan)}, "NaN"),
        ({"targets": torch.zeros(2, 7)}, r"must be \[B, 24\]"),
    ],
)
def test_bad_input_is_refused(change, message):
    X, G = drawn(0)
    with pytest.raises(ValueError, match=message):
        comp(**({"targets": X, "atoms": G, "k": 3, "coherence": 0.3} | change))


def test_rows_may_lie_in_a_file(tmp_path):
    X, G = drawn(16, atoms=500)
    np.save(tmp_path / "atoms.npy", G.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "atoms.npy", mmap_mode="c"))
    assert torch.equal(comp(X, mapped, 5, chunk=64).support, comp(X, G, 5).support)


@pytest.mark.parametrize("settings", [Settings(), Settings(backend="faiss"), Settings(precision="int8")])
def test_without_targets_and_once_every_row_has_ended_nothing_is_picked(settings):
    X, G = drawn(2)
    for code in (
        comp(X[:0], G, 3, precision=settings.precision, backend=settings.backend),
        matching_pursuit(X[:0], G, 3, settings=settings),
    ):
        assert code.support.shape == (0, 3) and code.residual_norm.shape == (0,)
    assert lasso(X[:0], G, 0.2, settings=settings).support.shape[0] == 0
    own = G[:3].double()
    for signed in (False, True):
        code = matching_pursuit(own, G, 4, signed, settings=settings)
        assert code.support.tolist() == [[i, -1, -1, -1] for i in range(3)]
    assert torch.equal(own, G[:3].double())
    nothing = comp(torch.zeros(2, 24), G, 3, precision=settings.precision, backend=settings.backend)
    assert not nothing.coefficients.any() and (nothing.support >= 0).all()

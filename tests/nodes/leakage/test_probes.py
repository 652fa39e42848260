"""Probes against scikit-learn, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from runner.nodes.leakage.mlp_probe import BATCH, mlp_probe
from runner.nodes.leakage.probes import auroc, logistic_probe, ridge_grid, ridge_probe
from runner.nodes.leakage.ridge_probe import GRID

N, D, A = 240, 12, 5


def material(seed: int = 0, rows: int = N) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Correlated features with one constant column, targets of about 40 %, three patterns of valid rows."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, D, generator=g) @ torch.randn(D, D, generator=g) + 3
    x[:, 4] = 2.5
    y = (x @ torch.randn(D, A, generator=g) * 0.3 + torch.randn(rows, A, generator=g) * 4 > 1).int()
    valid = torch.rand(rows, A, generator=g) < torch.tensor([0.9, 0.9, 0.3, 1.0, 0.9])
    valid[:, 1] = valid[:, 0]
    return x, y, valid


def own_rows(x: torch.Tensor, y: torch.Tensor, keep: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features and targets of one attribute."""
    rows = x[keep].double().numpy()
    spread = rows.std(0)
    return (rows - rows.mean(0)) / np.where(spread < 1e-8, 1, spread), y[keep].numpy()


def test_ridge_is_scikit_learns_with_a_penalty_per_sample() -> None:
    x, y, valid = material()
    for lam in (1e-3, 0.01, 3.0):
        found = ridge_probe(x, y, valid, lam).scores(x)
        for a in range(A):
            z, t = own_rows(x, y[:, a], valid[:, a])
            wanted = Ridge(alpha=lam * len(z)).fit(z, t).predict(z)
            np.testing.assert_allclose(found[valid[:, a], a].numpy(), wanted, atol=1e-10)


@pytest.mark.parametrize("c", [1.0, 0.05, 30.0])
def test_logistic_is_scikit_learns(c: float) -> None:
    x, y, valid = material()
    found = logistic_probe(x, y, valid, c).scores(x)
    for a in range(A):
        z, t = own_rows(x, y[:, a], valid[:, a])
        wanted = (
            LogisticRegression(C=c, tol=1e-11, solver="newton-cholesky", max_iter=500).fit(z, t).decision_function(z)
        )
        np.testing.assert_allclose(found[valid[:, a], a].numpy(), wanted, atol=1e-6)


def test_logistic_ends_where_classes_are_separable_or_one_is_missing() -> None:
    x = torch.linspace(-1, 1, 40)[:, None]
    y = torch.stack([x[:, 0] > 0, torch.ones(40), torch.zeros(40)], 1).int()
    probe = logistic_probe(x, y)
    z, t = own_rows(x, y[:, 0], torch.ones(40, dtype=torch.bool))
    wanted = LogisticRegression(C=1.0, tol=1e-11, solver="newton-cholesky").fit(z, t)
    assert probe.weight[0, 0].item() == pytest.approx(wanted.coef_[0, 0], abs=1e-6)
    assert probe.weight[0, 1:].tolist() == [0, 0]
    assert probe.intercept[1:].tolist() == [40, -40]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50), size=st.floats(0.01, 100))
def test_affine_changes_of_features_leave_scores(seed: int, shift: float, size: float) -> None:
    x, y, valid = material(seed, 120)
    other = x.double() * size * torch.linspace(1, 2, D) + shift
    for fit in (ridge_probe, logistic_probe):
        before, after = fit(x.double(), y, valid).scores(x.double()), fit(other, y, valid).scores(other)
        torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(A)))
def test_order_of_attributes_complement_and_repeated_rows(seed: int, order: list[int]) -> None:
    x, y, valid = material(seed, 120)
    scores = ridge_probe(x, y, valid).scores(x)
    mixed = ridge_probe(x, y[:, order], valid[:, order]).scores(x)
    torch.testing.assert_close(mixed, scores[:, order], atol=1e-10, rtol=0)
    turned = ridge_probe(x, 1 - y, valid).scores(x)
    torch.testing.assert_close(auroc(turned, 1 - y, valid), auroc(scores, y, valid), atol=1e-12, rtol=0, equal_nan=True)
    twice = ridge_probe(x.repeat(2, 1), y.repeat(2, 1), valid.repeat(2, 1)).scores(x)
    torch.testing.assert_close(twice, scores, atol=1e-9, rtol=0)


def test_rows_that_no_attribute_uses_may_be_absent() -> None:
    x, y, valid = material()
    valid[:30] = False
    gone = x.clone()
    gone[:30] = torch.nan
    for fit in (ridge_probe, logistic_probe):
        assert torch.equal(fit(gone, y, valid).weight, fit(x, y, valid).weight)
    gone[40] = torch.inf
    with pytest.raises(ValueError, match="finite"):
        ridge_probe(gone, y, valid)


def test_attributes_without_rows_are_nan_and_bad_shapes_are_named() -> None:
    x, y, valid = material()
    valid[:, 2] = False
    probe = ridge_probe(x, y, valid)
    assert probe.weight[:, 2].isnan().all()
    assert probe.weight[:, [0, 1, 3, 4]].isfinite().all()
    with pytest.raises(ValueError, match="0 or 1"):
        ridge_probe(x, y + 1, valid)
    with pytest.raises(ValueError, match="are needed"):
        ridge_probe(x, y[:-1], valid)
    with pytest.raises(ValueError, match="penalty"):
        ridge_probe(x, y, valid, 0.0)


def test_grid_takes_the_penalty_that_is_best_on_held_out_rows() -> None:
    x, y, valid = material(3)
    held = (x[:80], y[:80], valid[:80])
    rest = (x[80:], y[80:], valid[80:])
    chosen = ridge_grid(*rest, held)
    plain = {lam: ridge_probe(*rest, lam) for lam in GRID}
    quality = torch.stack([auroc(plain[lam].scores(held[0]), *held[1:]) for lam in GRID])
    assert len(set(chosen.penalty.tolist())) > 1
    for a, lam in enumerate(chosen.penalty.tolist()):
        best = [g for g, q in zip(GRID, quality[:, a].tolist(), strict=True) if q >= quality[:, a].max() - 1e-12]
        assert lam == max(best)
        torch.testing.assert_close(chosen.probe.weight[:, a], plain[lam].weight[:, a], atol=1e-8, rtol=1e-6)


def test_grid_without_both_classes_held_out_takes_its_middle() -> None:
    x, y, valid = material()
    chosen = ridge_grid(x, y, valid, (x[:9], torch.zeros_like(y[:9]), valid[:9]), [1e-4, 0.3, 50.0])
    assert chosen.penalty.tolist() == [0.3] * A


def xor(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features whose product decides, which no linear probe can read, and a linear attribute beside it."""
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))
    return x, torch.stack([x[:, 0] * x[:, 1] > 0, x[:, 0] > 0], 1).int()


def test_mlp_reads_what_is_not_linear_and_repeats_itself() -> None:
    (x, y), (seen, truth) = xor(4 * BATCH, 0), xor(400, 1)
    held = (seen[:200], truth[:200], torch.ones(200, 2))
    probe = mlp_probe(x, y, None, held, seed=5, epochs=12)
    quality = auroc(probe.scores(seen[200:]), truth[200:])
    assert quality.min() > 0.9
    assert auroc(ridge_probe(x, y).scores(seen), truth)[0] < 0.65
    again = mlp_probe(x, y, None, held, seed=5, epochs=12)
    assert torch.equal(again.scores(seen), probe.scores(seen))
    alone = mlp_probe(x, y[:, :1], None, (held[0], held[1][:, :1], held[2][:, :1]), seed=5, epochs=12)
    torch.testing.assert_close(alone.scores(seen)[:, 0], probe.scores(seen)[:, 0], atol=1e-3, rtol=1e-3)


def test_without_held_out_rows_mlp_keeps_its_last_epoch() -> None:
    x, y = xor(300, 0)
    none = (x[:0], y[:0], y[:0])
    first, later = (mlp_probe(x, y, None, none, epochs=n).scores(x) for n in (1, 15))
    assert (auroc(later, y) > auroc(first, y)).all()
    assert ridge_grid(x, y, None, none).penalty.tolist() == [0.1, 0.1]


def test_mlp_keeps_the_epoch_that_is_best_on_held_out_rows() -> None:
    x, y = xor(200, 0)
    seen, truth = xor(300, 1)
    held = (seen, truth, torch.ones(300, 2))
    by_epochs = [auroc(mlp_probe(x, y, None, held, epochs=n).scores(seen), truth) for n in (1, 30)]
    kept = mlp_probe(x, y, None, (seen, 1 - truth, held[2]), epochs=30).scores(seen)
    assert (by_epochs[1] > by_epochs[0]).all()
    assert (auroc(kept, truth) < by_epochs[1]).all()

"""BendVLM: constraints of the second step, the closed form against a constrained optimiser, neighbours against a loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from runner.nodes.sem.baselines import orth_proj
from runner.nodes.sem.bend import bend_prototypes, bend_sem, bend_step1, bend_vlm

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=20, deadline=None)


def normal(seed, *shape):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def optimised(start, means):
    """The published second step for one query: sequential quadratic programming from z0."""
    constraints = [{"type": "eq", "fun": lambda e: e @ e - 1, "jac": lambda e: 2 * e}]
    for mean in means[1:]:
        difference = mean - means[0]
        constraints.append({"type": "eq", "fun": lambda e, d=difference: e @ d, "jac": lambda e, d=difference: d})
    found = minimize(
        lambda e: -e @ start,
        start,
        jac=lambda e: -start,
        method="SLSQP",
        constraints=constraints,
        options={"ftol": 1e-13},
    )
    # So near the optimum the line search may stall and report no success; what was found must be feasible all the same.
    assert max(abs(c["fun"](found.x)) for c in constraints) < 1e-7
    return found.x


@given(SEEDS, st.integers(2, 7))
@few
def test_the_closed_form_is_what_the_optimiser_finds(seed, classes):
    z0, means = unit(normal(seed, 3, 12)), normal(seed + 1, 3, classes, 12) * 0.3 + 0.2
    got = bend_vlm(z0, means)
    expected = np.array([optimised(z.numpy(), m.numpy()) for z, m in zip(z0, means, strict=True)])
    np.testing.assert_allclose(got, expected, atol=1e-6)


@given(SEEDS, st.integers(2, 7))
@few
def test_bent_queries_are_unit_and_equally_near_to_all_prototypes(seed, classes):
    z0, means = normal(seed, 5, 16), normal(seed + 1, 5, classes, 16)
    got = bend_vlm(z0, means)
    products = torch.einsum("qd,qcd->qc", got, means)
    assert (products - products[:, :1]).abs().max() < 1e-8
    torch.testing.assert_close(got.norm(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(bend_vlm(got, means), got)
    torch.testing.assert_close(bend_vlm(z0 * 7, means.flip(1)), got)


def test_golden_second_step_in_three_dimensions():
    # mu_1 - mu_0 points along x: what is left of (3, 4, 0) / 5 is y.
    got = bend_vlm(torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor([[[1.0, 1.0, 0.0], [4.0, 1.0, 0.0]]]))
    torch.testing.assert_close(got, torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64), atol=1e-12, rtol=0)


def test_equal_prototypes_constrain_nothing():
    z0 = normal(2, 3, 8)
    torch.testing.assert_close(bend_vlm(z0, normal(3, 3, 1, 8).expand(-1, 4, -1)), unit(z0))


@given(SEEDS, st.booleans())
@few
def test_prototypes_are_means_of_the_nearest_images_of_each_class(seed, shared):
    images, queries = normal(seed, 60, 10) * 2, normal(seed + 1, 4, 10)
    classes = torch.arange(60) % 3
    got = bend_prototypes(images, classes, queries, 5, 3, shared)
    cosines = unit(queries) @ unit(images).T
    if shared:
        cosines = cosines.mean(0, keepdim=True).expand(4, -1)
    for q in range(4):
        for c in range(3):
            members = [i for i in range(60) if int(classes[i]) == c]
            best = sorted(members, key=lambda i, q=q: -float(cosines[q, i]))[:5]
            torch.testing.assert_close(got[q, c], images[best].mean(0))


def test_many_queries_equal_one_at_a_time():
    # More queries than are searched at once.
    images, queries = normal(0, 40, 8).float(), normal(1, 70, 8).float()
    classes = torch.arange(40) % 2
    got = bend_sem(queries, images, classes, 3, 2)
    one = torch.cat([bend_sem(q[None], images, classes, 3, 2) for q in queries])
    torch.testing.assert_close(got, one, atol=1e-6, rtol=0)


@given(SEEDS)
@few
def test_step_one_removes_spurious_texts_and_all_pair_differences(seed):
    texts, spurious = normal(seed, 3, 30), normal(seed + 1, 7, 30)
    augmented = [normal(seed + 2 + i, n, 30) for i, n in enumerate((7, 7, 4))]
    got = bend_step1(texts, spurious, augmented)
    assert got.rank.tolist() == [13, 13, 10]
    for vector, text, own in zip(got.vectors, texts, augmented, strict=True):
        pairs = [(unit(own)[j] - unit(own)[k]) / 2 for j in range(len(own)) for k in range(j + 1, len(own))]
        everything = torch.stack([*unit(spurious), *pairs])
        assert (everything @ vector).abs().max() < 1e-10
        torch.testing.assert_close(vector, orth_proj(text[None], everything, rank_tol=1e-9).vectors[0])


Z, P, X = normal(0, 2, 6), normal(1, 2, 3, 6), normal(2, 9, 6)
C = torch.arange(9) % 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bend_vlm(Z, P[:, :1]), "at least 2"),
        (lambda: bend_vlm(Z, P[:1]), "prototypes must be"),
        (lambda: bend_vlm(Z, P / 0), "NaN"),
        (lambda: bend_vlm(Z * 0, P), "norm 0"),
        (lambda: bend_vlm(P[:, 1] - P[:, 0], P), "nothing is left"),
        (lambda: bend_prototypes(X, C, Z, 4, 3), "4 neighbours of bias class 0 .* has 3"),
        (lambda: bend_prototypes(X, C, Z, 1, 4), "bias class 3 .* has 0"),
        (lambda: bend_prototypes(X, C, Z, 1, 2), "from 0 to 1"),
        (lambda: bend_prototypes(X, C, Z[:, :5], 1, 3), "5 wide"),
        (lambda: bend_step1(Z, X, [X]), "each of 2 queries"),
        (lambda: bend_step1(Z, X[:1], [X, X[:0]]), "at least one row"),
    ],
)
def test_bad_inputs_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()

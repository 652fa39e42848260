"""Linear baselines: what they must make orthogonal, and the published loops as references."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.sem.baselines import (
    apply_map,
    default_pairs,
    orth_cali,
    orth_proj,
    prism_mini_map,
    roboshot,
    roboshot_map,
    sae_top_k,
    span_basis,
)
from runner.nodes.sem.metrics import predicted

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=25, deadline=None)


def normal(seed, *shape):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


@given(SEEDS, st.integers(1, 6))
@few
def test_projected_texts_are_orthogonal_to_every_spurious_text(seed, n):
    texts, spurious = normal(seed, 5, 16), normal(seed + 1, n, 16)
    got = orth_proj(texts, spurious)
    assert (got.vectors @ unit(spurious).T).abs().max() < 1e-12
    torch.testing.assert_close(got.vectors.norm(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(orth_proj(got.vectors, spurious).vectors, got.vectors)
    assert got.rank.tolist() == [n] * 5


@given(SEEDS)
@few
def test_a_repeated_or_dependent_spurious_text_adds_nothing(seed):
    texts, spurious = normal(seed, 4, 12), normal(seed + 1, 3, 12)
    more = torch.cat([spurious, spurious[:1], (spurious[:1] + spurious[1:2]) * 3])
    once, twice = orth_proj(texts, spurious), orth_proj(texts, more)
    torch.testing.assert_close(once.vectors, twice.vectors)
    assert once.rank.tolist() == twice.rank.tolist() == [3] * 4
    torch.testing.assert_close(prism_mini_map(spurious), prism_mini_map(more))


def test_golden_projection_in_three_dimensions():
    got = orth_proj(torch.tensor([[3.0, 4.0, 12.0]]), torch.tensor([[0.0, 0.0, 7.0]]))
    torch.testing.assert_close(got.vectors, torch.tensor([[0.6, 0.8, 0.0]], dtype=torch.float64))


@given(SEEDS)
@few
def test_calibration_with_lambda_zero_is_the_projection_and_larger_ones_draw_pairs_together(seed):
    texts, spurious, candidates = normal(seed, 3, 20), normal(seed + 1, 2, 20), normal(seed + 2, 6, 20)
    pairs = default_pairs(3, 2)
    torch.testing.assert_close(
        orth_cali(texts, spurious, candidates, pairs, 0.0).vectors, orth_proj(texts, spurious).vectors
    )
    gaps = []
    for lam in (0.0, 1.0, 10.0, 1000.0, 1e6):
        # The calibration alone, without scaling each text: how far the candidates of a pair lie apart after it.
        system = torch.linalg.inv(torch.eye(20, dtype=torch.float64) + lam * moment(candidates, pairs))
        moved = unit(candidates) @ system
        gaps.append((moved[pairs[:, 0]] - moved[pairs[:, 1]]).norm().item())
        expected = unit(unit(texts) @ system.T @ (torch.eye(20, dtype=torch.float64) - projector(spurious)))
        torch.testing.assert_close(orth_cali(texts, spurious, candidates, pairs, lam).vectors, expected)
    assert all(later < earlier for earlier, later in itertools.pairwise(gaps))


def moment(candidates, pairs):
    """The published loop: mean of the outer products of the differences."""
    z = unit(candidates)
    total = torch.zeros(z.shape[1], z.shape[1], dtype=torch.float64)
    for i, j in pairs.tolist():
        total += torch.outer(z[i] - z[j], z[i] - z[j])
    return total / len(pairs)


def projector(rows):
    v = rows.T
    return v @ torch.linalg.inv(v.T @ v) @ v.T


def test_default_pairs_are_those_of_the_published_loop():
    m, n = 3, 4
    expected = [(i * n + j, i * n + k) for i in range(m) for j in range(n) for k in range(j + 1, n)]
    assert default_pairs(m, n).tolist() == [list(p) for p in expected]


@given(SEEDS, st.integers(1, 5))
@few
def test_prism_mini_is_the_projection_and_predicts_the_same(seed, n):
    texts, images, spurious = normal(seed, 4, 16), normal(seed + 1, 40, 16), normal(seed + 2, n, 16)
    map_ = prism_mini_map(spurious)
    torch.testing.assert_close(map_, torch.eye(16, dtype=torch.float64) - projector(spurious))
    mapped_images, mapped_texts = apply_map(images, map_), apply_map(texts, map_)
    np.testing.assert_array_equal(
        predicted(mapped_images, mapped_texts), predicted(images, orth_proj(texts, spurious).vectors)
    )


def roboshot_loop(images, harmful, helpful):
    """As published: an orthonormal basis by QR, one direction after the other, scaled to unit norm in between."""
    x = images.clone()
    for differences, sign in ((harmful, -1), (helpful, 1)):
        if differences is None:
            continue
        q, _ = torch.linalg.qr(differences.T)
        for direction in q.T:
            x = x + sign * (x @ direction)[:, None] * direction
        x = unit(x)
    return x


@given(SEEDS, st.integers(1, 5), st.sampled_from([(True, False), (False, True), (True, True)]))
@few
def test_roboshot_is_its_loop(seed, k, switches):
    images, (a, b, c, d) = normal(seed, 20, 16), normal(seed + 1, 4, k, 16)
    reject, accept = switches
    got = roboshot(images, a, b, c, d, reject, accept)
    expected = roboshot_loop(images, a - b if reject else None, c - d if accept else None)
    torch.testing.assert_close(got, expected)
    if reject and not accept:
        assert (got @ (a - b).T).abs().max() < 1e-10


def test_roboshot_does_not_need_what_is_switched_off():
    a, b = normal(1, 2, 3, 8)
    assert roboshot_map(a, b, None, None, accept=False).shape == (8, 8)
    with pytest.raises(ValueError, match="helpful"):
        roboshot_map(a, b, None, None)
    with pytest.raises(ValueError, match="reject or accept"):
        roboshot_map(a, b, a, b, reject=False, accept=False)
    # Equal pairs hold no direction at all.
    torch.testing.assert_close(roboshot_map(a, a, None, None, accept=False), torch.eye(8, dtype=torch.float64))


@given(SEEDS, st.integers(1, 4))
@few
def test_sae_directions_of_the_highest_scores_are_removed(seed, k):
    texts, rows = normal(seed, 3, 16), normal(seed + 1, 30, 16)
    scores = torch.tensor(np.random.default_rng(seed).permutation(30) / 30.0)
    best = rows[scores.argsort(descending=True)[:k]]
    got = sae_top_k(texts, rows, scores, k)
    assert (got.vectors @ unit(best).T).abs().max() < 1e-10
    assert got.rank.tolist() == [k] * 3
    axis = sae_top_k(texts, rows, scores, k, average=True)
    assert (axis.vectors @ unit(best).mean(0)).abs().max() < 1e-10
    assert axis.rank.tolist() == [1] * 3


def test_the_span_of_nothing_is_empty():
    assert span_basis(torch.zeros(3, 5)).shape == (0, 5)


T, S = normal(0, 3, 8), normal(1, 2, 8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: orth_proj(T, S[:0]), "at least one row"),
        (lambda: orth_proj(T, S[:, :4]), "4 wide, expected 8"),
        (lambda: orth_proj(T * torch.nan, S), "NaN"),
        (lambda: orth_proj(torch.cat([T, T[:1] * 0]), S), "row 3 has the norm 0"),
        (lambda: orth_proj(S, S), "nothing is left"),
        (lambda: orth_cali(T, S, T, torch.tensor([[0, 1]]), -1.0), "lambda must be 0 or more"),
        (lambda: orth_cali(T, S, T, torch.tensor([[0, 3]])), "from 0 to 2"),
        (lambda: orth_cali(T, S, T, torch.zeros(0, 2, dtype=torch.int64)), "at least one pair"),
        (lambda: sae_top_k(T, S, torch.ones(2), 3), r"1 \.\. 2"),
        (lambda: sae_top_k(T, S, torch.ones(3), 1), "expected 2"),
    ],
)
def test_bad_inputs_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()

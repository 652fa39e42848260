"""Criteria of importance: identities that must hold, and numbers worked out by other means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from runner.nodes.pruning import importance
from runner.nodes.pruning.importance import (
    activation_score,
    angular_distance,
    angular_triangle,
    block_influence,
    channel_scores,
    flap,
    group_scores,
    query_head_scores,
    wanda_sp,
    weight_saliency,
)
from runner.nodes.pruning.names import REDUCTIONS, SALIENCIES

vectors = arrays.arrays(np.float64, (5, 6), elements=st.floats(-8, 8, width=32)).map(torch.from_numpy)
scales = st.floats(1e-3, 1e3)


def solid(x: Tensor) -> Tensor:
    """Without rows near zero."""
    return x + 20 * torch.eye(5, 6, dtype=x.dtype)


@settings(deadline=None)
@given(vectors, scales)
def test_a_state_beside_itself_its_multiples_and_its_opposite(x: Tensor, c: float) -> None:
    x = solid(x)
    assert torch.equal(block_influence(x, x), torch.zeros(5, dtype=x.dtype))
    assert block_influence(x, c * x).max() < 1e-14
    torch.testing.assert_close(block_influence(x, -c * x), torch.full((5,), 2.0, dtype=x.dtype))
    assert angular_distance(x, c * x).max() < 1e-7
    torch.testing.assert_close(angular_distance(x, -c * x), torch.ones(5, dtype=x.dtype))


@settings(deadline=None)
@given(vectors, vectors, scales, scales, st.integers(0, 9))
def test_rotation_and_scale_change_nothing(x: Tensor, y: Tensor, a: float, b: float, seed: int) -> None:
    x, y = solid(x), solid(y)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)).Q
    for measure in (block_influence, angular_distance):
        torch.testing.assert_close(measure(a * x @ turn, b * y @ turn), measure(x, y), atol=1e-7, rtol=1e-7)


@settings(deadline=None)
@given(vectors, vectors)
def test_both_are_functions_of_the_cosine(x: Tensor, y: Tensor) -> None:
    x, y = solid(x), solid(y)
    cosine = torch.nn.functional.cosine_similarity(x, y, dim=-1)
    torch.testing.assert_close(block_influence(x, y), 1 - cosine, atol=1e-12, rtol=0)
    torch.testing.assert_close(angular_distance(x, y), cosine.clamp(-1, 1).arccos() / math.pi, atol=1e-7, rtol=0)


def test_a_zero_vector_counts_a_cosine_of_a_half() -> None:
    x, zero = torch.randn(1, 4), torch.zeros(1, 4)
    assert block_influence(x, zero).tolist() == block_influence(zero, zero).tolist() == [0.5]
    assert angular_distance(zero, x).item() == pytest.approx(1 / 3)


def test_half_precision_states_with_outlier_channels_keep_their_score() -> None:
    """The product of the norms overflows float16; in it the score would be the 0.5 of an undefined cosine."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 64, generator=generator).half()
    x[:, 3] = 2000
    y = x.clone()
    y[:, 5] += 8
    wide = 1 - torch.nn.functional.cosine_similarity(x.double(), y.double(), dim=-1)
    assert wide.max() < 1e-4
    torch.testing.assert_close(block_influence(x, y).double(), wide, rtol=1e-3, atol=0)
    assert torch.isfinite(angular_distance(x, x)).all()


def test_masked_tokens_get_nothing_even_where_they_are_not_numbers() -> None:
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    bad = y.masked_fill(~mask[..., None], math.nan)
    assert torch.equal(block_influence(x, bad, mask), block_influence(x, y) * mask)
    assert block_influence(x, bad).isnan().sum() == 3


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, states = torch.randn(3, 7, 8), torch.randn(3, 7, 8), torch.randn(4, 21, 8)
    whole = block_influence(x, y), angular_triangle(states)
    monkeypatch.setattr(importance, "CHUNK", 40)
    torch.testing.assert_close(block_influence(x, y), whole[0])
    torch.testing.assert_close(angular_triangle(states), whole[1])


def test_the_triangle_holds_the_distance_of_every_pair() -> None:
    states, mask = torch.randn(4, 2, 5, 6), torch.rand(2, 5) < 0.7
    found = angular_triangle(states, mask)
    for low in range(4):
        for high in range(4):
            wanted = angular_distance(states[low], states[high], mask).double().sum() if low < high else 0
            assert float(found[low, high]) == pytest.approx(float(wanted), rel=1e-6)


# --- weights -------------------------------------------------------------------------------------------------------------


def test_saliencies_of_one_weight_by_hand() -> None:
    w, g, f = torch.tensor([[-2.0, 3.0]]), torch.tensor([[0.5, -1.0]]), torch.tensor([[4.0, 0.5]])
    wanted = {
        "param_first": [1, 3],
        "vectorize": [-1, -3],
        "param_second": [16, 4.5],
        "param_mix": [abs(-1 - 8), abs(-3 - 2.25)],
        "l1": [2, 3],
        "l2": [4, 9],
    }
    assert set(wanted) == set(SALIENCIES)
    for kind, values in wanted.items():
        assert weight_saliency(kind, w, g, f).tolist() == [values]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["param_first", "vectorize", "param_second", "param_mix"])
def test_a_kind_that_lacks_its_gradient_is_named(kind: str) -> None:
    with pytest.raises(ValueError, match=kind):
        weight_saliency(kind, torch.ones(2, 2))  # type: ignore[arg-type]


def test_rows_and_columns() -> None:
    s = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -12.0]])
    assert channel_scores(s.abs(), 0).tolist() == [6, 21]
    assert channel_scores(s.abs(), 1).tolist() == [5, 7, 15]
    assert channel_scores(s, 0, "vectorize").tolist() == [2, 3]
    assert channel_scores(s, 1, "vectorize").tolist() == [5, 3, 9]


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from(REDUCTIONS), st.integers(0, 99))
def test_query_heads_are_folded_onto_the_head_beside_them(kv: int, r: int, d: int, how: str, seed: int) -> None:
    """Against loops over heads and channels."""
    generator = torch.Generator().manual_seed(seed)
    q, o = (torch.rand(kv * r * d, generator=generator, dtype=torch.float64) for _ in range(2))
    k, v = (torch.rand(kv * d, generator=generator, dtype=torch.float64) for _ in range(2))
    combine = {"sum": sum, "mean": lambda x: sum(x) / 4, "max": max, "prod": math.prod, "first": lambda x: x[0]}[how]
    wanted = []
    for g in range(kv):
        total = 0.0
        for c in range(d):
            mine = [sum(float(m[(g * r + i) * d + c]) for i in range(r)) for m in (q, o)]
            total += combine([mine[0], float(k[g * d + c]), float(v[g * d + c]), mine[1]])
        wanted.append(total)
    found = group_scores([q, k, v, o], "param_first", how, heads=kv * r, kv_heads=kv, head_dim=d)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_magnitudes_are_averaged_over_members_whatever_is_asked_for() -> None:
    members = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0]), torch.tensor([5.0, 1.0])]
    assert group_scores(members, "l1", "max").tolist() == [3, 3]
    assert group_scores(members, "param_first", "max").tolist() == [5, 6]


def test_single_query_heads() -> None:
    q, o = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0, 20.0, 30.0, 40.0])
    assert query_head_scores(q, o, 2).tolist() == [33, 77]


def test_forward_criteria_by_hand() -> None:
    weight = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    x = torch.tensor([[3.0, 1.0], [4.0, -1.0]])
    assert wanda_sp(weight, x.square().sum(0)).tolist() == pytest.approx([4 * 5, 2 * math.sqrt(2)])
    assert flap(weight, x.var(0)).tolist() == pytest.approx([0.5 * 10, 2 * 4])
    assert activation_score(torch.tensor([[3.0, 0.0], [4.0, 2.0]])).tolist() == [5, 2]
    assert activation_score(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), units=1).tolist() == [5]

"""Attention flow and rollout: shares by hand, rows that sum to one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.leakage.attention_flow import attention_flow, rollout


def material(seed, prefix, heads=2, patches=6):
    generator = torch.Generator().manual_seed(seed)
    tokens = prefix + patches
    attention = torch.randn(2, heads, tokens, tokens, generator=generator, dtype=torch.float64).softmax(-1)
    parts = torch.rand(2, 3, patches, generator=generator) < 0.4
    return attention, parts, parts.any(1)


@given(st.integers(0, 200), st.integers(0, 3))
def test_the_four_shares_sum_to_one_where_a_part_has_a_patch(seed, prefix):
    attention, parts, whole = material(seed, prefix)
    total = sum(attention_flow(attention, parts, whole, prefix))
    there = parts.any(-1)[:, None].expand_as(total)
    assert torch.allclose(total[there], torch.ones((), dtype=torch.float64))
    assert total[~there].isnan().all()


def test_uniform_attention_shares_out_by_area():
    attention = torch.full((1, 1, 10, 10), 0.1)
    parts = torch.zeros(1, 2, 8, dtype=torch.bool)
    parts[0, 0, :3], parts[0, 1, 2:4] = True, True  # they share patch 2
    whole = torch.zeros(1, 8, dtype=torch.bool)
    whole[0, :5] = True
    found = attention_flow(attention, parts, whole, 2)
    assert torch.stack([f[0, 0] for f in found]).T.flatten().tolist() == pytest.approx(
        [0.3, 0.2, 0.3, 0.2, 0.2, 0.3, 0.3, 0.2]
    )


def test_only_the_parts_own_queries_count():
    attention = torch.eye(4)[None, None]
    attention[0, 0, 1] = torch.tensor([1.0, 0, 0, 0])  # patch 0 looks at CLS alone, the others at themselves
    parts = torch.tensor([[[True, True, False]]])
    found = attention_flow(attention, parts, parts[:, 0], 1)
    assert (float(found.own), float(found.prefix), float(found.object), float(found.background)) == (0.5, 0.5, 0, 0)


def test_rollout_by_hand_and_rows_that_sum_to_one():
    first = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    second = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    one = rollout(None, first)
    assert torch.allclose(one, torch.tensor([[[0.875, 0.125], [0.0, 1.0]]]))
    two = rollout(one, second)
    assert torch.allclose(two, torch.tensor([[[0.4375, 0.5625], [0.4375, 0.5625]]]))
    assert torch.allclose(rollout(None, torch.eye(3)[None, None]), torch.eye(3)[None])

"""Attention with a gate of its keys, attention weights, and the interception that puts them into a block."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from runner.errors import ModelRefused
from runner.models.backbones.attention import (
    attention_weights,
    masked_attention,
    multiplicative_mask_attention,
    with_attention,
)


def qkv(seed: int, heads: int = 2, length: int = 7, width: int = 8, size: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, 2, heads, length, width, generator=generator) * size
    return drawn[0], drawn[1], drawn[2]


@given(
    st.integers(0, 999), st.lists(st.booleans(), min_size=7, max_size=7).filter(any), st.sampled_from([0.1, 1.0, 4.0])
)
@settings(max_examples=40, deadline=None)
def test_a_gate_of_zeros_and_ones_is_the_boolean_mask(seed: int, kept: list[bool], size: float) -> None:
    query, key, value = qkv(seed, size=size)
    mask = torch.tensor(kept).expand(2, -1)
    found = multiplicative_mask_attention(query, key, value, mask.float())
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
    assert (found - expected).abs().max() < 1e-5 * max(1.0, size)
    assert torch.equal(found, multiplicative_mask_attention(query, key, value, mask.float()[:, None, None]))


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_a_gate_weighs_like_a_logarithm_in_the_scores(seed: int) -> None:
    """m exp(s) = exp(s + log m): the same weights by a softmax, for gates that are nowhere 0."""
    query, key, value = qkv(seed)
    gate = torch.rand(2, 7, generator=torch.Generator().manual_seed(seed)) + 0.05
    scores = query @ key.transpose(-1, -2) * 8**-0.5 + gate.log()[:, None, None]
    found = multiplicative_mask_attention(query, key, value, gate)
    assert (found - scores.softmax(-1) @ value).abs().max() < 1e-5
    assert (found - multiplicative_mask_attention(query, key, value, 3 * gate)).abs().max() < 1e-5


def test_the_gradient_of_the_gate_by_hand() -> None:
    """One query, two keys with scores s and values v: out = (m0 e0 v0 + m1 e1 v1) / (m0 e0 + m1 e1)."""
    query, key = torch.tensor([[[[1.0]]]]), torch.tensor([[[[0.3], [-0.5]]]])
    value = torch.tensor([[[[2.0], [7.0]]]])
    gate = torch.tensor([[1.0, 0.0]], requires_grad=True)
    found = multiplicative_mask_attention(query, key, value, gate)
    assert found.item() == 2.0
    gradient = torch.autograd.grad(found.sum(), gate)[0][0]
    ratio = torch.tensor(-0.8).exp()  # e1 / e0
    assert gradient[1].item() == pytest.approx(float(ratio * (7 - 2)), rel=1e-6)
    assert gradient[0].item() == pytest.approx(0, abs=1e-6)


def test_dropped_keys_have_exactly_no_influence_whatever_their_score() -> None:
    query, key, value = qkv(0)
    gate = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0]]).expand(2, -1)
    other_key, other_value = key.clone(), value.clone()
    other_key[..., 4:, :] = 1e4  # scores far above the kept ones
    other_value[..., 4:, :] = -1e9
    found = multiplicative_mask_attention(query, key, value, gate)
    assert torch.equal(found, multiplicative_mask_attention(query, other_key, other_value, gate))
    allowed = (gate > 0).unsqueeze(1).expand(-1, 7, -1)
    plain = masked_attention(query, key, value, allowed)
    assert torch.equal(plain, masked_attention(query, other_key, other_value, allowed))


def test_large_scores_do_not_overflow_and_an_empty_mask_is_no_number() -> None:
    query, key, value = qkv(1, size=60.0)
    gate = torch.ones(2, 7)
    gate[0] = torch.tensor([0.0, 0, 0, 0, 0, 0, 1])
    found = multiplicative_mask_attention(query, key, value, gate.requires_grad_())
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), gate)[0].isfinite().all()
    assert multiplicative_mask_attention(query, key, value, torch.zeros(2, 7)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    query, key, value = (each.to(dtype) for each in qkv(2, size=3.0))
    gate = torch.ones(2, 7)
    wide = scaled_dot_product_attention(query.float(), key.float(), value.float()).to(dtype)
    for found in (multiplicative_mask_attention(query, key, value, gate), masked_attention(query, key, value, None)):
        assert found.dtype == dtype
        assert (found.float() - wide.float()).abs().max() <= 2 * torch.finfo(dtype).eps * wide.abs().max()
    assert attention_weights(query, key).dtype == torch.float32


def test_the_scale_is_taken_over() -> None:
    query, key, value = qkv(3)
    shown = attention_weights(query, key, 0.7)
    assert (shown @ value - scaled_dot_product_attention(query, key, value, scale=0.7)).abs().max() < 1e-5
    found = multiplicative_mask_attention(query, key, value, torch.ones(2, 7), 0.7)
    assert (shown @ value - found).abs().max() < 1e-5


# --- interception ----------------------------------------------------------------------------------------------------


def test_a_block_with_another_number_of_attentions_is_refused() -> None:
    query, key, value = qkv(4)
    for calls, run in (
        (0, lambda: query + 1),
        (2, lambda: scaled_dot_product_attention(query, key, scaled_dot_product_attention(query, key, value))),
    ):
        with pytest.raises(ModelRefused, match=f"odd: a block called the fused attention of torch {calls} times"):
            with_attention(lambda *_, **__: value, run, "odd")


def test_another_thread_is_not_touched() -> None:
    query, key, value = qkv(5)
    plain = scaled_dot_product_attention(query, key, value)
    entered, done = threading.Event(), threading.Event()
    elsewhere: list[Tensor] = []

    def beside() -> None:
        entered.wait(10)
        elsewhere.append(scaled_dot_product_attention(query, key, value))
        done.set()

    def run() -> Tensor:
        entered.set()
        assert done.wait(10)
        return scaled_dot_product_attention(query, key, value)

    thread = threading.Thread(target=beside)
    thread.start()
    here = with_attention(lambda *_, **__: value, run, "mine")
    thread.join()
    assert torch.equal(here, value)
    assert torch.equal(elsewhere[0], plain)
    assert torch.equal(scaled_dot_product_attention(query, key, value), plain)

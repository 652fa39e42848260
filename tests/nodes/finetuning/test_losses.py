"""Divergences and distances against formulas written out here, and the identities they must keep."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runner.nodes.finetuning.losses import by_chunks, coarse_divergence, coarse_teacher, divergence
from runner.nodes.pruning.losses import forward_kl, hidden_l2, reverse_kl

Divergence = Callable[..., Tensor]
BOTH = pytest.mark.parametrize("loss", [forward_kl, reverse_kl])
seeds = st.integers(0, 2**31 - 1)


def logits(seed: int, shape: tuple[int, ...] = (2, 5, 7)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, two = (torch.randn(*shape, generator=generator) * 3 for _ in range(2))
    return one, two


def kl_by_hand(p_logits: Tensor, q_logits: Tensor, temperature: float) -> np.ndarray:
    """Sum over words of p (log p - log q) at each position, in float64 numpy."""
    p, q = (np.exp(z.double().numpy() / temperature) for z in (p_logits, q_logits))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return np.asarray((p * (np.log(p) - np.log(q))).sum(-1))


@given(seeds, st.floats(0.5, 5))
@settings(max_examples=25, deadline=None)
def test_both_directions_are_the_formula(seed: int, temperature: float) -> None:
    student, teacher = logits(seed)
    mask = torch.rand(2, 5, generator=torch.Generator().manual_seed(seed)) > 0.4
    mask[0, 0] = True
    forward, reverse = kl_by_hand(teacher, student, temperature), kl_by_hand(student, teacher, temperature)
    for loss, each in ((forward_kl, forward), (reverse_kl, reverse)):
        mean = temperature**2 * each[mask.numpy()].mean()
        summed = temperature**2 * each[mask.numpy()].sum() / 2
        assert float(loss(student, teacher, mask, temperature)) == pytest.approx(mean, rel=1e-4, abs=1e-5)
        assert float(loss(student, teacher, mask, temperature, "batch_sum")) == pytest.approx(
            summed, rel=1e-4, abs=1e-5
        )


@BOTH
@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_divergences_of_equals_are_zero_and_of_others_positive(loss: Divergence, seed: int) -> None:
    student, teacher = logits(seed)
    assert float(loss(student, student)) == pytest.approx(0, abs=1e-6)
    assert float(loss(student, teacher)) > 0
    assert float(loss(student + 5, teacher - 3)) == pytest.approx(float(loss(student, teacher)), rel=1e-4, abs=1e-5)


@BOTH
def test_a_high_temperature_makes_distributions_alike(loss: Divergence) -> None:
    student, teacher = logits(3)
    unscaled = [float(loss(student, teacher, temperature=t)) / t**2 for t in (1.0, 2.0, 4.0, 8.0)]
    assert unscaled == sorted(unscaled, reverse=True)


@BOTH
def test_masked_positions_do_not_count(loss: Divergence) -> None:
    student, teacher = logits(4)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 0, 1]]).bool()
    changed = torch.where(mask[..., None], student, student * 100 + 7)
    assert torch.equal(loss(student, teacher, mask), loss(changed, teacher, mask))
    assert torch.equal(hidden_l2(student, teacher, mask), hidden_l2(changed, teacher, mask))


@BOTH
def test_chunks_change_neither_value_nor_gradient(loss: Divergence) -> None:
    student, teacher = logits(5, (3, 11, 13))
    found = []
    for chunk in (4, 1000):
        leaf = student.clone().requires_grad_()
        value = loss(leaf, teacher, temperature=2.0, chunk=chunk)
        torch.autograd.backward(value)
        found.append((value.detach(), leaf.grad))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def test_half_precision_logits_are_compared_in_float32() -> None:
    student, teacher = (z.bfloat16() for z in logits(6))
    assert forward_kl(student, teacher).dtype == torch.float32
    assert float(forward_kl(student, teacher)) == pytest.approx(
        float(forward_kl(student.float(), teacher.float())), rel=1e-6
    )


def test_the_distance_of_hidden_states_is_the_mean_square() -> None:
    student, teacher = logits(7)
    expected = np.square(student.double().numpy() - teacher.double().numpy()).mean()
    assert float(hidden_l2(student, teacher)) == pytest.approx(expected, rel=1e-6)


@given(seeds, st.integers(1, 6), st.sampled_from(["forward_kl", "reverse_kl"]))
@settings(max_examples=25, deadline=None)
def test_counting_the_rest_as_one_word_loses_and_never_gains(seed: int, k: int, kind: str) -> None:
    student, teacher = (z.reshape(-1, 7) for z in logits(seed))
    full = divergence(kind, student, teacher, 2.0)  # type: ignore[arg-type]
    coarse = coarse_divergence(kind, student, *coarse_teacher(teacher, k, 2.0), 2.0)  # type: ignore[arg-type]
    assert bool((coarse <= full + 1e-5).all())
    if k == 6:  # the rest is one word
        torch.testing.assert_close(coarse, full, rtol=1e-3, atol=1e-4)


def test_an_impossible_word_of_the_teacher_counts_nothing() -> None:
    teacher = torch.tensor([[0.0, 0.0, -torch.inf]])
    found = divergence("forward_kl", torch.tensor([[0.0, 0.0, 0.0]]), teacher, 1.0)
    assert float(found) == pytest.approx(np.log(1.5), rel=1e-6)


def test_shapes_that_do_not_fit_are_refused() -> None:
    student, teacher = logits(8)
    with pytest.raises(ValueError, match="differ in shape"):
        forward_kl(student, teacher[:, :4])
    with pytest.raises(ValueError, match="mask"):
        forward_kl(student, teacher, torch.ones(2, 4))


def test_nothing_is_computed_of_no_rows() -> None:
    assert len(by_chunks(lambda x: x.sum(1), 4, torch.zeros(0, 3))) == 0


def test_the_rest_keeps_its_digits_and_its_gradient_where_the_likeliest_words_hold_nearly_all() -> None:
    teacher = torch.tensor([[4.0, 3.0, 0.0, -1.0, -2.0]])
    student = torch.tensor([[30.0, 29.0, 0.0, -1.0, -3.0]], requires_grad=True)
    index, log_p = coarse_teacher(teacher, 2, 1.0)
    found = coarse_divergence("forward_kl", student, index, log_p, 1.0)
    p, q = (x.double().softmax(-1) for x in (teacher, student))
    pairs = [(p[0, i], q[0, i]) for i in (0, 1)] + [(p[0, 2:].sum(), q[0, 2:].sum())]
    expected = sum(a * (a / b).log() for a, b in pairs)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert float(student.grad[0, 2]) < -0.01  # type: ignore[index]

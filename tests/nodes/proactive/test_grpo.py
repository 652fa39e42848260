"""Advantages and the loss: what must be zero is, gradients are those of REINFORCE where nothing is off policy, reductions agree."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runner.nodes.proactive.grpo import LossType, advantages, clipped, divergence, grpo_loss, ratios

TYPES: tuple[LossType, ...] = ("grpo", "bnpo", "dr_grpo", "dapo")
rewards_of = st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.75, 1.0]), min_size=4, max_size=4), min_size=1, max_size=5)  # fmt: skip


def drawn(rows: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (with gradient), advantages and a ragged mask."""
    generator = torch.Generator().manual_seed(seed)
    logp = -torch.rand(rows, width, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    gains = torch.randn(rows, generator=generator, dtype=torch.float64)
    return logp.requires_grad_(), gains, torch.arange(width) < lengths[:, None]


def gradient(loss: Tensor, logp: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, logp)
    return found


def test_advantages_by_hand() -> None:
    found = advantages(torch.tensor([[1.0, 0.5, 0.0, 0.5], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64))
    spread = math.sqrt((0.25 + 0.25) / 3)
    assert found[0].tolist() == pytest.approx([0.5 / (spread + 1e-4), 0, -0.5 / (spread + 1e-4), 0])
    assert found[1].tolist() == pytest.approx([-0.25 / 0.5001] * 3 + [0.75 / 0.5001])


@settings(deadline=None)
@given(rewards_of, st.sampled_from(["group", "batch", "none"]))
def test_advantages_sum_to_zero_and_equal_rewards_teach_nothing(rewards: list[list[float]], scale: Any) -> None:
    table = torch.tensor(rewards, dtype=torch.float32)
    found = advantages(table, scale=scale)
    assert found.sum(1).abs().max() < 1e-3
    for row, gains in zip(rewards, found, strict=True):
        assert len(set(row)) > 1 or gains.tolist() == [0.0] * len(row)


def test_scales_and_lone_rollouts() -> None:
    table = torch.tensor([[0.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    assert advantages(table, scale="none").tolist() == [[-0.5, 0.5], [-0.25, 0.25]]
    spread = float(torch.tensor([0.0, 1.0, 0.0, 0.5], dtype=torch.float64).std())
    torch.testing.assert_close(advantages(table, scale="batch"), advantages(table, scale="none") / (spread + 1e-4))
    assert advantages(torch.tensor([[0.7], [0.2]])).tolist() == [[0.0], [0.0]]
    with pytest.raises(ValueError, match="prompts, rollouts"):
        advantages(torch.zeros(3))


@pytest.mark.parametrize("loss_type", TYPES)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_on_policy_the_gradient_is_that_of_reinforce(loss_type: LossType, level: Any) -> None:
    logp, gains, mask = drawn(6, 5)
    loss = grpo_loss(logp, logp.detach(), gains, mask, loss_type=loss_type, level=level, max_completion_length=7)
    lengths = mask.sum(1, keepdim=True)
    over = {
        "grpo": (lengths * 6).expand_as(mask), "bnpo": mask.sum().expand_as(mask), "dapo": mask.sum().expand_as(mask),
        "dr_grpo": torch.tensor(42).expand_as(mask),
    }[loss_type]  # fmt: skip
    torch.testing.assert_close(gradient(loss, logp), torch.where(mask, -gains[:, None] / over, 0.0))


def test_on_policy_with_groups_the_value_is_zero_but_its_gradient_is_not() -> None:
    logp, _, mask = drawn(4, 1)
    gains = advantages(torch.tensor([[1.0, 0.0, 0.5, 0.0]])).flatten()
    loss = grpo_loss(logp, logp.detach(), gains, mask)
    assert abs(float(loss.detach())) < 1e-6
    assert float(gradient(loss, logp).abs().max()) > 0.1


@pytest.mark.parametrize("loss_type", TYPES)
def test_equal_rewards_give_no_gradient(loss_type: LossType) -> None:
    logp, _, mask = drawn(4, 3)
    gains = advantages(torch.full((2, 2), 0.1)).flatten()
    loss = grpo_loss(logp, logp.detach() - 0.3, gains, mask, loss_type=loss_type, max_completion_length=3)
    assert not gradient(loss, logp).any()


def test_reductions_agree_at_length_one() -> None:
    logp, gains, mask = drawn(5, 1)
    losses = [
        grpo_loss(logp, logp.detach() - 0.1, gains, mask, loss_type=kind, max_completion_length=1, window_tokens=5)
        for kind in TYPES
    ]
    assert [float(loss.detach()) for loss in losses] == pytest.approx([float(losses[0].detach())] * 4)


def test_dapo_adds_up_over_the_parts_of_a_step() -> None:
    logp, gains, mask = drawn(6, 4)
    whole = grpo_loss(logp, logp.detach() - 0.1, gains, mask, loss_type="dapo")
    parts = [
        grpo_loss(logp[s], logp[s].detach() - 0.1, gains[s], mask[s], loss_type="dapo", window_tokens=float(mask.sum()))
        for s in (slice(2), slice(2, 6))
    ]
    torch.testing.assert_close(whole, parts[0] + parts[1])


def test_beta_zero_ignores_the_reference_and_beta_wants_one() -> None:
    logp, gains, mask = drawn(3, 4)
    plain = grpo_loss(logp, logp.detach(), gains, mask)
    torch.testing.assert_close(plain, grpo_loss(logp, logp.detach(), gains, mask, ref_logp=logp.detach() + 5))
    with pytest.raises(ValueError, match="ref_logp"):
        grpo_loss(logp, logp.detach(), gains, mask, beta=0.1)


@pytest.mark.parametrize("times_ratio", [False, True])
def test_divergence_by_hand(times_ratio: bool) -> None:
    logp, old, ref = (torch.tensor([[value]], dtype=torch.float64) for value in (-1.0, -1.1, -0.4))
    one = torch.ones(1, 1, dtype=torch.bool)
    loss = grpo_loss(logp, old, torch.zeros(1), one, beta=0.5, ref_logp=ref, kl_times_ratio=times_ratio)
    kl = math.exp(0.6) - 0.6 - 1
    assert float(loss) == pytest.approx(0.5 * kl * (math.exp(0.1) if times_ratio else 1))
    assert float(divergence(logp, logp, one)) == 0


@pytest.mark.parametrize(("step", "gain", "taken"), [(0.3, 1.0, True), (0.3, -1.0, False), (-0.3, -1.0, True), (-0.3, 1.0, False), (0.1, 1.0, False)])  # fmt: skip
def test_clipping_takes_the_gradient_on_one_side_only(step: float, gain: float, taken: bool) -> None:
    old, one = torch.tensor([[-2.0]]), torch.ones(1, 1, dtype=torch.bool)
    logp = (old + step).requires_grad_()
    gains = torch.tensor([gain])
    found = gradient(grpo_loss(logp, old, gains, one, clip=0.2), logp)
    assert bool(found == 0) is taken
    assert bool(clipped(ratios(logp, old, one), gains, 0.2)) is taken
    value = float(grpo_loss(logp, old, gains, one, clip=0.2).detach())
    rho = math.exp(step)
    assert value == pytest.approx(-min(rho * gain, min(max(rho, 0.8), 1.2) * gain))


def test_ratio_of_a_sequence_is_the_geometric_mean() -> None:
    old = torch.zeros(1, 3, dtype=torch.float64)
    logp, mask = torch.tensor([[0.2, 0.4, 99.0]], dtype=torch.float64), torch.tensor([[True, True, False]])
    assert ratios(logp, old, mask, "sequence")[0].tolist() == pytest.approx([math.exp(0.3)] * 3)


@pytest.mark.parametrize("loss_type", TYPES)
def test_what_stands_outside_the_mask_changes_nothing(loss_type: LossType) -> None:
    logp, gains, mask = drawn(4, 6, seed=3)
    spoilt = torch.where(mask, logp.detach(), -torch.inf).requires_grad_()
    kind: Any = {"loss_type": loss_type, "beta": 0.1, "max_completion_length": 6}
    one = grpo_loss(logp, logp.detach() - 0.1, gains, mask, ref_logp=logp.detach() - 0.2, **kind)
    two = grpo_loss(spoilt, spoilt.detach() - 0.1, gains, mask, ref_logp=spoilt.detach() - 0.2, **kind)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(gradient(one, logp), gradient(two, spoilt))


def test_half_precision_is_widened() -> None:
    logp = torch.tensor([[-1.0]], dtype=torch.bfloat16)
    assert grpo_loss(logp, logp, torch.ones(1), torch.ones(1, 1)).dtype == torch.float32

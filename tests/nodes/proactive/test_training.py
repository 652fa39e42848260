"""Learning to ask: both ways of a step give one gradient, a stopped training ends in the same bits, nothing is learnt from nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.artifacts.proactive import GrpoLvlm, ProactiveSamples
from runner.context import StepContext, local_context
from runner.errors import DataError, Interrupted
from runner.models.lvlm.loading import Lvlm, read
from runner.nodes.finetuning.specs import Lora
from runner.nodes.proactive.grpo_specs import GrpoSpec, RewardSpec
from runner.nodes.proactive.policy_training import PolicyTrainer
from runner.nodes.proactive.training_steps import train
from tests.nodes.proactive import grpo_toy

FAST = GrpoSpec(prompts_per_step=6, rollouts_per_prompt=4, steps=4, lr=3e-3, precision="fp32")
REWARD = RewardSpec(wrong=-0.5, ask=0.5)
STATISTICS = ("reward_mean", "share_ask", "share_correct", "share_wrong", "share_abstain", "share_unreadable", "loss", "grad_norm")  # fmt: skip


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ProactiveSamples:
    return grpo_toy.samples(tmp_path_factory.mktemp("squares"), 16)


@pytest.fixture(scope="module")
def model(squares: ProactiveSamples, tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    """One that has learnt a little: it names options."""
    return grpo_toy.warmed(tmp_path_factory.mktemp("warm"), squares, seed=0, steps=25, hidden={"abstain": 0.5, "ask": 0.5})  # fmt: skip


def trained(folder: Path | StepContext, model: Lvlm, samples: ProactiveSamples, spec: GrpoSpec = FAST, **given: Any) -> GrpoLvlm:  # fmt: skip
    settings: dict[str, Any] = {"label": "x", "form": "text", "reward": REWARD, "lora": Lora(r=4, alpha=8)} | given
    context = folder if isinstance(folder, StepContext) else local_context(folder)
    return train(context, model=model, samples=samples, grpo=spec, **settings)


def changed(**changes: Any) -> GrpoSpec:
    return GrpoSpec.model_validate(FAST.model_dump() | changes)


def weights(found: GrpoLvlm) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(found.adapter / "adapter_model.safetensors")


def sha(found: GrpoLvlm) -> str:
    return hashlib.sha256((found.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def assert_near(one: GrpoLvlm, two: GrpoLvlm) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(two)[name], rtol=1e-3, atol=1e-4)


def test_drawing_and_learning_in_one_pass_is_drawing_then_learning(
    model: Lvlm, squares: ProactiveSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trained(tmp_path / "one", model, squares)
    monkeypatch.setattr(PolicyTrainer, "fused", False)
    two = trained(tmp_path / "two", model, squares)
    for a, b in zip(one.steps.to_pylist(), two.steps.to_pylist(), strict=True):
        assert [a[name] for name in STATISTICS] == pytest.approx([b[name] for name in STATISTICS], rel=1e-3, abs=1e-4)
    assert [r["text"] for r in one.rollouts.to_pylist()] == [r["text"] for r in two.rollouts.to_pylist()]
    assert_near(one, two)


@pytest.mark.parametrize(
    "changes", [{}, {"turns": "multi", "updates": 2}, {"rollout": "generate", "max_new_tokens": 4}]
)
def test_a_stopped_training_ends_in_the_same_bits(model: Lvlm, squares: ProactiveSamples, tmp_path: Path, changes: dict[str, Any]) -> None:  # fmt: skip
    spec, lora = changed(steps=3, **changes), Lora(r=4, alpha=8, dropout=0.3)
    whole = trained(tmp_path / "whole", model, squares, spec, lora=lora)
    for _ in range(2):
        with pytest.raises(Interrupted):
            trained(stopping(tmp_path / "cut"), model, squares, spec, lora=lora)
    resumed = trained(tmp_path / "cut", model, squares, spec, lora=lora)
    assert sha(whole) == sha(resumed)
    assert whole.rollouts.equals(resumed.rollouts)
    drop = ["seconds"]
    assert whole.steps.drop_columns(drop).equals(resumed.steps.drop_columns(drop))
    assert len(whole.steps) == 3


def stopping(folder: Path) -> StepContext:
    """A context that asks to stop after one step."""
    context = local_context(folder)

    class Stop:
        def check(self) -> None:
            raise Interrupted("stopped")

    context.stop = Stop()
    return context


def test_where_all_answers_are_worth_the_same_nothing_is_learnt(model: Lvlm, squares: ProactiveSamples, tmp_path: Path) -> None:  # fmt: skip
    flat = RewardSpec(correct=0.3, ask=0.3, wrong=0.3)
    found = trained(tmp_path, model, squares, reward=flat)
    assert all(not value.any() for name, value in weights(found).items() if "lora_B" in name)
    assert [(row["frac_zero_std"], row["grad_norm"]) for row in found.steps.to_pylist()] == [(1.0, 0.0)] * 4


def test_the_divergence_begins_at_zero_and_holds_back(model: Lvlm, squares: ProactiveSamples, tmp_path: Path) -> None:
    free, held = (trained(tmp_path / str(beta), model, squares, changed(beta=beta, steps=5)) for beta in (1e-6, 100.0))
    kl = [[row["kl"] for row in found.steps.to_pylist()] for found in (free, held)]
    assert kl[0][0] == pytest.approx(0, abs=1e-6)
    assert kl[0][-1] > 0
    norms = [sum(float(v.norm()) for n, v in weights(found).items() if "lora_B" in n) for found in (free, held)]
    assert norms[1] < norms[0] * 1.2
    assert kl[1][-1] < kl[0][-1]


def test_parts_of_a_step_add_up(model: Lvlm, squares: ProactiveSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Drawn alike (the parts' seeds differ otherwise), the gradient of one step is the same in one part and in three."""
    from runner.nodes.proactive import policy_training

    plain = policy_training.play

    def same(starts: Any, answer: Any, reward: Any, *, seed: object, **rest: Any) -> Any:
        found = [plain([start], answer, reward, seed=start.prompt_id, **rest) for start in starts]
        return policy_training.Draw([r for d in found for r in d.rollouts], [t for d in found for t in d.told])

    monkeypatch.setattr(policy_training, "play", same)
    monkeypatch.setattr(PolicyTrainer, "fused", False)
    for loss_type in ("grpo", "dapo", "dr_grpo"):
        made = [
            trained(tmp_path / f"{loss_type}{parts}", model, squares, changed(accumulation=parts, steps=1, loss_type=loss_type))
            for parts in (1, 3)
        ]  # fmt: skip
        norms = [found.steps.to_pylist()[0]["grad_norm"] for found in made]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)
        assert norms[0] > 0


def test_episodes_of_several_turns_share_one_return(model: Lvlm, squares: ProactiveSamples, tmp_path: Path) -> None:
    costly = RewardSpec(ask=0.0, turn_cost=0.25)
    found = trained(tmp_path, model, squares, changed(turns="multi", steps=2, prompts_per_step=8), reward=costly)
    rows = found.rollouts.to_pylist()
    episodes: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        key = row["train_step"], row["prompt_id"].rsplit("/", 1)[0], row["rollout"]
        episodes.setdefault(key, []).append(row)
    assert {len(some) for some in episodes.values()} == {1, 2}
    for some in episodes.values():
        last = 1.0 if some[-1]["matched_kind"] == "category_true" else 0.0
        assert all(row["reward"] == pytest.approx(last - 0.25 * (len(some) - 1)) for row in some)
        assert len({row["advantage"] for row in some}) == 1
        assert [row["turn"] for row in some] == list(range(1, len(some) + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"scale_rewards": "batch", "accumulation": 2}, {"updates": 3, "level": "sequence", "lr": 0.3},
        {"rollout": "generate", "max_new_tokens": 5, "loss_type": "dr_grpo"}, {"form": "letter", "checkpointing": True},
    ],
)  # fmt: skip
def test_every_setting_runs_and_is_written_down(model: Lvlm, squares: ProactiveSamples, tmp_path: Path, changes: dict[str, Any]) -> None:  # fmt: skip
    form = changes.pop("form", "text") if "form" in changes else "text"
    found = trained(tmp_path, model, squares, changed(steps=2, **changes), form=form, merge=True)
    rows = found.steps.to_pylist()
    assert [row["train_step"] for row in rows] == [1, 2]
    for row in rows:
        parts = [row[f"share_{name}"] for name in ("ask", "correct", "wrong", "abstain", "unreadable")]
        assert sum(parts) == pytest.approx(1)
        assert row["entropy"] > 0
    assert any(row["clip_frac"] > 0 for row in rows) is ("updates" in changes)
    merged, adapted = (read(f, adapter=a, dtype="float32").network.state_dict() for f, a in ((found.checkpoint, None), (model.folder, found.adapter)))  # fmt: skip
    for name, value in merged.items():
        torch.testing.assert_close(value, adapted[name], rtol=1e-4, atol=1e-5)
    assert found.summary["steps"] == 2


def test_what_a_spec_cannot_show_is_said(model: Lvlm, squares: ProactiveSamples, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="test"):
        trained(tmp_path / "a", model, squares, split="test")
    context = local_context(tmp_path / "b")
    trained(context, model, squares, changed(steps=1), reward=RewardSpec(ask=1.5))
    assert "asking always pays best" in str(context.journal.messages)  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_come_to_be_worth_more(model: Lvlm, squares: ProactiveSamples, tmp_path: Path, seed: int) -> None:
    """The expected reward over all prompts, by the likelihoods of the options: no luck of what is drawn is in it."""

    def worth_of(asked: Lvlm) -> float:
        found = grpo_toy.shares_of(asked, squares)
        return (0.5 * (found.hidden_ask + found.visible_ask) + found.visible_correct) / 2

    after, _ = grpo_toy.asked(tmp_path, model, squares, ask=0.5, seed=seed, steps=25, lr=3e-3, size=16)
    assert worth_of(after) > worth_of(model) + 0.03


@pytest.mark.large
def test_it_learns_to_ask_where_nothing_can_be_seen(tmp_path: Path) -> None:
    """Begun from a mixture in which asking is rare but not unheard of; `benchmarks/proactive_grpo_toy.py` runs the long one."""
    made = grpo_toy.samples(tmp_path / "pictures", 64)
    before = grpo_toy.warmed(
        tmp_path / "warm", made, seed=0, steps=60, hidden={"abstain": 0.6, "guess": 0.15, "ask": 0.25}
    )
    after, rows = grpo_toy.asked(tmp_path / "asks", before, made, ask=0.5, seed=0, steps=60, lr=2e-3)
    start, end = grpo_toy.shares_of(before, made), grpo_toy.shares_of(after, made)
    first, last = (sum(row["reward_mean"] for row in some) / 10 for some in (rows[:10], rows[-10:]))
    assert last > first + 0.1
    assert end.hidden_ask > max(start.hidden_ask + 0.2, 0.6)
    assert end.visible_correct > 0.8
    assert end.visible_ask < 0.2

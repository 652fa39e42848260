"""TRL as another backend: same prompts, same rewards. What it cannot do is said before it is loaded."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.artifacts.proactive import ProactiveSamples
from runner.context import local_context
from runner.errors import StepError
from runner.models.lvlm.loading import Lvlm
from runner.nodes.finetuning.specs import Lora
from runner.nodes.proactive.grpo_specs import GrpoSpec, RewardSpec
from runner.nodes.proactive.returns import Situation
from runner.nodes.proactive.samples import cases_of
from runner.nodes.proactive.training_steps import train
from runner.nodes.proactive.trl_backend import Rewards, rows_of, text_of
from runner.nodes.proactive.warming import situations
from tests.nodes.proactive import grpo_toy

SPEC = GrpoSpec(prompts_per_step=4, rollouts_per_prompt=4, steps=2, lr=1e-3, precision="fp32", rollout="generate", max_new_tokens=4)  # fmt: skip
HAVE = importlib.util.find_spec("trl") is not None


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ProactiveSamples:
    return grpo_toy.samples(tmp_path_factory.mktemp("squares"), 8)


@pytest.fixture(scope="module")
def model(squares: ProactiveSamples, tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    folder = grpo_toy.make_model(tmp_path_factory.mktemp("m"), grpo_toy.prompts(squares))
    return Lvlm(folder, dtype="float32")


def trained(folder: Path, model: Lvlm, samples: ProactiveSamples, **changes: Any) -> Any:
    spec = GrpoSpec.model_validate(SPEC.model_dump() | changes)
    return train(local_context(folder), model=model, samples=samples, label="x", form="text", grpo=spec, lora=Lora(r=4), backend="trl")  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), [({"turns": "multi"}, "multi"), ({"rollout": "first_token"}, "first_token"), ({"accumulation": 3}, "equal parts")])  # fmt: skip
def test_what_trl_cannot_do_is_said(
    model: Lvlm, squares: ProactiveSamples, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(StepError, match=said):
        trained(tmp_path, model, squares, **changes)


def test_a_missing_package_is_named(
    model: Lvlm, squares: ProactiveSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(StepError, match="needs the package trl"):
        trained(tmp_path, model, squares)


def test_completions_are_matched_and_rewarded(squares: ProactiveSamples) -> None:
    turns: list[Situation] = situations(cases_of(squares, split="train"), "first")
    rewards = Rewards(turns, RewardSpec())
    right = turns[1].case.record.answer
    said = [grpo_toy.ASK, f" {right} ", "nonsense", [{"role": "assistant", "content": grpo_toy.ABSTAIN}]]
    assert rewards(said, [0, 1, 0, 0], extra=None) == [0.5, 1.0, 0.0, 0.0]
    assert rewards.kinds == [["ask_valid", "category_true", "unreadable", "abstain"]]
    assert text_of([{"role": "assistant", "content": [{"type": "text", "text": "A"}]}]) == "A"
    rows = rows_of(
        [{"reward": 0.4, "loss": 0.0}, {"loss": 0.1}, {"reward": 0.5}, {"train_runtime": 1}],
        [["ask_valid"], ["abstain"]],
    )
    assert [(row["train_step"], row["reward_mean"], row["share_ask"]) for row in rows] == [(1, 0.4, 1.0), (2, 0.5, 0.0)]


@pytest.mark.skipif(not HAVE, reason="trl is not installed")
@pytest.mark.parametrize("updates", [1, 2])
def test_trl_trains_the_same_adapter_layout(model: Lvlm, squares: ProactiveSamples, tmp_path: Path, updates: int) -> None:  # fmt: skip
    found = trained(tmp_path, model, squares, updates=updates, beta=0.01)
    rows = found.steps.to_pylist()
    assert [row["train_step"] for row in rows] == [1, 2]
    assert all(0 <= row["reward_mean"] <= 1 and row["share_unreadable"] is not None for row in rows)
    assert Lvlm(model.folder, adapter=found.adapter, dtype="float32").load().sees

"""A training to ask, as a spec wants it, and the prompts of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runner.artifacts.proactive import ProactiveSamples
from runner.models.base import VisionLanguageModel
from runner.nodes.finetuning.drawing import draws
from runner.nodes.finetuning.specs import Lora, Optim
from runner.nodes.proactive.grpo_specs import GrpoSpec, RewardSpec
from runner.nodes.proactive.returns import Situation


@dataclass(frozen=True)
class PolicyJob:
    """A training to be done."""

    model: VisionLanguageModel
    samples: ProactiveSamples
    label: str
    form: str
    reward: RewardSpec
    grpo: GrpoSpec
    lora: Lora
    seed: int
    scenarios: Sequence[str] | None
    split: str
    limit: int | None

    @property
    def optim(self) -> Optim:
        """As the trainings of this project name it."""
        g = self.grpo
        return Optim(
            lr=g.lr, schedule=g.schedule, warmup_ratio=g.warmup_ratio, weight_decay=g.weight_decay, precision=g.precision,
            checkpointing=g.checkpointing, clip=g.max_norm,
        )  # fmt: skip


def course_of(starts: Sequence[Situation], spec: GrpoSpec, seed: int) -> list[list[Situation]]:
    """The prompts of each step: all of them in turn, shuffled at every pass."""
    steps = spec.steps or max(1, math.ceil(round(spec.passes * len(starts) / spec.prompts_per_step, 9)))
    drawn = draws([""] * len(starts), steps * spec.prompts_per_step, seed).reshape(steps, -1)
    return [[starts[int(i)] for i in row] for row in drawn]

"""The same training by TRL's ``GRPOTrainer`` (extra ``trl``): prompts in the same order, answers matched and rewarded as here.

Single turns and generated answers only: with pictures, its environments of several turns hang on what a chat template makes of tools.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.context import StepContext
from runner.errors import StepError
from runner.imports import importing
from runner.nodes.proactive.policy_training import PolicyLog, shares
from runner.nodes.proactive.returns import Situation, worth

if TYPE_CHECKING:
    from runner.nodes.finetuning.learner import Learner
    from runner.nodes.proactive.grpo_specs import GrpoSpec, RewardSpec
    from runner.nodes.proactive.policy_job import PolicyJob

NAMES = {
    "reward_mean": "reward", "reward_std": "reward_std", "frac_zero_std": "frac_reward_zero_std", "kl": "kl", "entropy": "entropy",
    "clip_frac": "clip_ratio/region_mean", "completion_len": "completions/mean_length", "lr": "learning_rate",
    "grad_norm": "grad_norm", "loss": "loss", "seconds": "step_time",
}  # fmt: skip
"""What TRL calls the columns of ``grpo_steps``."""


def learn_with_trl(ctx: StepContext, job: PolicyJob, learner: Learner, starts: Sequence[Situation]) -> PolicyLog:
    """Train ``learner``'s adapter. Raises ``StepError`` where TRL is missing or cannot do what is asked. Not resumed when killed."""
    check(job.grpo)
    try:
        with importing:
            from trl import GRPOConfig, GRPOTrainer
    except ImportError as error:
        raise StepError(
            f"backend: trl needs the package trl ({error})", hint="pip install trl, or take backend: native."
        ) from error
    from runner.nodes.proactive.policy_job import course_of

    course = [situation for step in course_of(starts, job.grpo, job.seed) for situation in step]
    rewards = Rewards(course, job.reward)
    learner.training()
    started = time.monotonic()
    trainer = GRPOTrainer(
        model=learner.adapted, reward_funcs=rewards, processing_class=learner.loaded.processor,
        args=GRPOConfig(**settings(job.grpo, ctx.scratch / "trl", len(course) // job.grpo.prompts_per_step, job.seed,
                                   learner.loaded.device)),
        train_dataset=dataset(job, course), callbacks=[_watch(ctx)],
    )  # fmt: skip
    trainer.train()
    ctx.check()
    return PolicyLog(rows_of(trainer.state.log_history, rewards.kinds), [], time.monotonic() - started)


def check(spec: GrpoSpec) -> None:
    """Refuse what TRL cannot do. Raises ``StepError``."""
    asked = {"grpo.turns: multi": spec.turns == "multi", "grpo.rollout: first_token": spec.rollout == "first_token"}
    if wrong := [name for name, found in asked.items() if found]:
        raise StepError(
            f"backend: trl cannot do {wrong[0]}", hint="Take grpo.rollout: generate and grpo.turns: single, or backend: native."
        )  # fmt: skip
    if spec.prompts_per_step % spec.accumulation:
        raise StepError(
            f"backend: trl cuts a step of {spec.prompts_per_step} prompts into equal parts, not into {spec.accumulation}",
            hint="Take an accumulation that divides prompts_per_step.",
        )


def settings(spec: GrpoSpec, folder: Path, steps: int, seed: int, device: str) -> dict[str, Any]:
    """Of ``GRPOConfig``. Its batches count completions; one step is all completions of ``prompts_per_step`` prompts."""
    return {
        "output_dir": str(folder), "max_steps": steps * spec.updates, "save_strategy": "no", "report_to": [], "logging_steps": 1,
        "per_device_train_batch_size": spec.prompts_per_step * spec.rollouts_per_prompt // spec.accumulation,
        "gradient_accumulation_steps": spec.accumulation, "num_generations": spec.rollouts_per_prompt,
        "num_iterations": spec.updates, "max_completion_length": spec.max_new_tokens, "temperature": spec.temperature,
        "beta": spec.beta, "epsilon": spec.clip, "loss_type": spec.loss_type, "scale_rewards": spec.scale_rewards,
        "importance_sampling_level": spec.level, "use_bias_correction_kl": spec.kl_times_ratio, "learning_rate": spec.lr,
        "lr_scheduler_type": spec.schedule, "warmup_steps": round(spec.warmup_ratio * steps * spec.updates),
        "weight_decay": spec.weight_decay, "max_grad_norm": spec.max_norm or 0.0, "seed": seed, "shuffle_dataset": False,
        "gradient_checkpointing": spec.checkpointing, "use_cpu": device == "cpu", "bf16": False, "remove_unused_columns": False,
        "disable_tqdm": True, "dataloader_num_workers": 0,
    }  # fmt: skip


def dataset(job: PolicyJob, course: Sequence[Situation]) -> Any:
    """A row a prompt in the order of the course: text, picture, number of the prompt."""
    from datasets import Dataset, Features, Image, Value
    from datasets import List as Several

    from runner.nodes.proactive.pictures import FramePictures, place_of
    from runner.nodes.proactive.rendering import render

    places = [place_of(one.case, one.state) for one in course]
    images = FramePictures(job.samples.corpus).images(places)
    prompts = [[{"role": "user", "content": render(one.case.env.observation(one.state))}] for one in course]
    columns = {"prompt": prompts, "image": [images[place] for place in places], "number": list(range(len(course)))}
    message = {"role": Value("string"), "content": Value("string")}
    return Dataset.from_dict(columns, Features(prompt=Several(message), image=Image(), number=Value("int64")))


class Rewards:
    """What TRL calls for the rewards of completions; remembers the kinds of answers, call by call."""

    __name__ = "worth"

    def __init__(self, course: Sequence[Situation], reward: RewardSpec) -> None:
        self._course, self._reward = course, reward
        self.kinds: list[list[str]] = []

    def __call__(self, completions: Sequence[Any], number: Sequence[int], **_: Any) -> list[float]:
        """Rewards of completions, each with the number of its prompt."""
        found = [self._worth(self._course[n], text_of(some)) for n, some in zip(number, completions, strict=True)]
        self.kinds.append([kind for kind, _ in found])
        return [reward for _, reward in found]

    def _worth(self, situation: Situation, text: str) -> tuple[str, float]:
        env, state = situation.case.env, situation.state
        return worth(env, state, env.shown(state), env.advance(state, text.strip()).match.index, self._reward)


def text_of(completion: Any) -> str:
    """A completion is a text, or messages of which the content is a text or a list of parts."""
    if isinstance(completion, str):
        return completion
    content = completion[0]["content"]
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def rows_of(history: Sequence[Mapping[str, Any]], kinds: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Rows of ``grpo_steps`` from TRL's log, one a batch of answers: rewards are logged with the first update on it."""
    logged = [entry for entry in history if "reward" in entry]
    return [
        {"train_step": n + 1, **{ours: entry.get(theirs) for ours, theirs in NAMES.items()}, **shares(some)}
        for n, (entry, some) in enumerate(zip(logged, kinds, strict=False))
    ]


def _watch(ctx: StepContext) -> Any:
    """Reports steps, and stops when asked to."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ctx.advance("steps")
            ctx.check()

    return Watch()

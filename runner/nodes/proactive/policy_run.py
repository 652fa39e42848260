"""One training to ask, from samples to an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from results.tables import arrow_table
from runner.artifacts.proactive import GrpoLvlm
from runner.context import StepContext
from runner.errors import ModelRefused
from runner.nodes.finetuning.learner import Learner, prepare
from runner.nodes.finetuning.running import Trained
from runner.nodes.finetuning.specs import Recipe
from runner.nodes.finetuning.trainer import STATE, TrainLog, enough_memory
from runner.nodes.finetuning.writing import write
from runner.nodes.proactive.pictures import FramePictures
from runner.nodes.proactive.policy_job import PolicyJob, course_of
from runner.nodes.proactive.policy_training import ADVICE, PolicyLog, PolicyTrainer
from runner.nodes.proactive.rendering import render
from runner.nodes.proactive.returns import Situation
from runner.nodes.proactive.rollouts import FirstToken, Generated, Policy, Turns
from runner.nodes.proactive.samples import cases_of
from runner.nodes.proactive.warming import situations

GIB = 1 << 30


def learn(ctx: StepContext, job: PolicyJob, *, backend: str, merge: bool) -> GrpoLvlm:
    """Train, or go on with a training that was stopped; write adapter, tables and summary."""
    starts = starts_of(job)
    with enough_memory("loading the model", ADVICE):
        loaded = job.model.load(dtype="float32" if job.grpo.precision == "fp32" else "bfloat16")
    if not loaded.sees:
        raise ModelRefused(f"{loaded.name} reads text only; what is asked about is in the picture")
    recipe = Recipe(train="lora", projector=False, lora=job.lora, optim=job.optim)
    learner = prepare(loaded, recipe, job.model.decoder, seed=job.seed)
    if backend == "trl":
        from runner.nodes.proactive.trl_backend import learn_with_trl

        log = learn_with_trl(ctx, job, learner, starts)
    else:
        log = _native(ctx, job, learner, starts)
    summary = _summary(job, learner, log, starts, backend, merge=merge)
    adapter, checkpoint = ctx.folder("adapter"), ctx.folder("checkpoint")
    write(Trained(learner, TrainLog(), {}), job.model, adapter, checkpoint if merge else None)
    rows, answers = ([{"model": job.label, **row} for row in table] for table in (log.rows, log.rollouts))
    return GrpoLvlm(
        adapter, checkpoint, arrow_table("grpo_steps", rows), arrow_table("grpo_rollouts", answers), summary
    )


def starts_of(job: PolicyJob) -> list[Situation]:
    """Where episodes begin, or single turns are asked."""
    cases = cases_of(job.samples, scenarios=job.scenarios, split=job.split, limit=job.limit, seed=job.seed)
    return situations(cases, "first" if job.grpo.turns == "multi" else job.grpo.frames)


def trainer_of(job: PolicyJob, learner: Learner, starts: Sequence[Situation], state: Any) -> PolicyTrainer:
    """The trainer of this project on ``starts``."""
    turns = Turns(learner, FramePictures(job.samples.corpus), render, job.grpo.cache_gb * GIB)
    policy = Policy(turns, job.grpo.temperature)
    answer = (
        FirstToken(policy, job.form, job.seed)
        if job.grpo.rollout == "first_token"
        else Generated(policy, job.grpo.max_new_tokens, job.seed)
    )
    course = course_of(starts, job.grpo, job.seed)
    return PolicyTrainer(
        learner, policy, answer, course, job.grpo, job.reward, job.optim, seed=job.seed, state=state
    )  # fmt: skip


def _native(ctx: StepContext, job: PolicyJob, learner: Learner, starts: Sequence[Situation]) -> PolicyLog:
    trainer = trainer_of(job, learner, starts, ctx.scratch / STATE)
    ctx.advance("steps", trainer.done, len(trainer.course))

    def after_step() -> None:
        ctx.advance("steps")
        ctx.check()

    return trainer.run(after_step)


def _summary(
    job: PolicyJob, learner: Learner, log: PolicyLog, starts: Sequence[Situation], backend: str, *, merge: bool
) -> dict[str, Any]:
    last = log.rows[-1] if log.rows else {}
    return {
        "model": {"name": job.model.name, "identity": job.model.identity, "small": job.model.small},
        "label": job.label, "backend": backend, "form": job.form, "reward": job.reward.model_dump(mode="json"),
        "grpo": job.grpo.model_dump(mode="json"), "lora": job.lora.model_dump(mode="json"), "seed": job.seed, "merged": merge,
        "data": {"name": job.samples.about.get("name"), "prompts": len(starts), "split": job.split,
                 "scenarios": sorted({s.case.record.scenario for s in starts})},
        "steps": len(log.rows), "trained_parameters": sum(p.numel() for p in learner.trained.values()),
        "seconds": log.seconds, "last": {k: last.get(k) for k in ("reward_mean", "share_ask", "share_correct")},
    }  # fmt: skip

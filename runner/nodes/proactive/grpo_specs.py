"""What a spec may say of the reinforcement learning. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runner.nodes.finetuning.specs import Lora

Amount = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
PAPER_LORA = Lora(r=16, alpha=16, dropout=0.1, targets=["q_proj", "k_proj"])
"""Of ProactiveBench (2603.19466)."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RewardSpec(_Spec):
    """What an answer is worth. ``correct`` 1 and ``ask`` 0.5, 0.75 or 1 are ProactiveBench's (2603.19466); the rest is ours."""

    correct: Amount = Field(default=1.0, description="the right category")
    ask: Amount = Field(
        default=0.5, description="a request that helps; below `correct`, or asking forever pays as well"
    )
    wrong: Amount = Field(
        default=0.0, description="anything else: wrong category, useless request, abstention, unreadable"
    )
    ask_at_reference: Literal["same"] | Amount = Field(
        default="same", description="a request at the most telling frame, where no further one helps"
    )
    turn_cost: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = Field(
        default=0.0, description="off the return for each turn before the last (turns: multi)"
    )


class GrpoSpec(_Spec):
    """Group-relative policy optimisation. From ProactiveBench (2603.19466): 8 rollouts a prompt, AdamW at 2e-5 without weight decay, cosine,
    no warm-up, one pass, one update a batch. Its batch of 512 is read as completions, 64 prompts; weight of the KL term, temperature,
    clipping and length are not stated there: common defaults. The rest is ours."""

    prompts_per_step: int = Field(default=64, ge=1, le=65536, description="groups a step")
    rollouts_per_prompt: int = Field(default=8, ge=2, le=4096, description="answers drawn for one prompt: a group")
    steps: int | None = Field(default=None, ge=1, le=10_000_000, description="steps; none = by passes")
    passes: float = Field(default=1.0, gt=0, le=10_000, description="over the prompts, unless steps is given")
    frames: Literal["all", "ends", "first"] = Field(
        default="all", description="of a sample, prompts of single turns: all on the way to the most telling one, first and last, or first"
    )  # fmt: skip
    turns: Literal["single", "multi"] = Field(
        default="single", description="single: answers to one frame; multi: whole episodes, one return for all turns"
    )
    rollout: Literal["first_token", "generate"] = Field(
        default="first_token",
        description="first_token: answers of one token, all of a prompt from one forward pass; generate: sampled texts",
    )
    max_new_tokens: int = Field(default=50, ge=1, le=4096, description="of a generated answer")
    temperature: float = Field(default=1.0, gt=0, le=100, allow_inf_nan=False, description="of the policy")
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = Field(
        default="grpo", description="how token losses become one: see the docs of the step"
    )
    level: Literal["token", "sequence"] = Field(default="token", description="of the ratio to the policy that drew")
    scale_rewards: Literal["group", "batch", "none"] = Field(
        default="group", description="standard deviation that advantages are divided by"
    )
    clip: float = Field(default=0.2, gt=0, lt=1, description="of the ratio; matters with updates above 1")
    beta: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="weight of the divergence to the model at the start",
    )
    kl_times_ratio: bool = Field(default=False, description="weigh the divergence by the ratio")
    updates: int = Field(default=1, ge=1, le=1000, description="of the weights, on each batch of answers")
    lr: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.0, ge=0, le=1, description="share of the steps with a rising rate")
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_norm: float | None = Field(default=1.0, gt=0, allow_inf_nan=False, description="greatest norm of the gradient")
    accumulation: int = Field(default=1, ge=1, le=65536, description="parts of a step, computed one after another")
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="of frozen weights; adapters are fp32")
    checkpointing: bool = Field(default=False, description="compute activations again instead of keeping them")
    cache_gb: float = Field(default=4.0, ge=0, description="of prompts and picture features, kept in memory")

    @model_validator(mode="after")
    def _parts(self) -> GrpoSpec:
        if self.accumulation > self.prompts_per_step:
            raise ValueError(f"accumulation {self.accumulation} cuts {self.prompts_per_step} prompts into empty parts")
        return self

"""What a spec may say of a training. Light: imported to validate a spec."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TrainMode = Literal["projector", "lora", "full"]
KdMask = Literal["labels", "all", "attention"]
Reduction = Literal["token_mean", "batch_sum"]
TeacherInputs = Literal["own", "student"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LAST = -1
"""Among hidden layers: the state after the final norm."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(_Spec):
    """Low-rank adapters of the language model's linear layers (lm_head never)."""

    r: int = Field(default=16, ge=1, le=4096, description="rank")
    alpha: float = Field(default=32, gt=0, allow_inf_nan=False, description="updates are scaled by alpha / r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the adapters' inputs, while training")
    targets: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="last names of linear layers, such as q_proj; none = all of the decoder's blocks"
    )


class HiddenLoss(_Spec):
    """Mean squared distance to the teacher's hidden states."""

    weight: Weight = 0.5
    layers: Literal["last", "kept"] | Annotated[list[int], Field(min_length=1)] = Field(
        default="last",
        description="last: after the final norm; kept: every block, beside the block it was in the teacher; or blocks of the student "
        "from 0, -1 for last",
    )

    teacher_layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None,
        description="original index of each of the student's blocks; none = as its manifest of pruning says",
    )

    @model_validator(mode="after")
    def _once(self) -> HiddenLoss:
        if isinstance(self.layers, list):
            if len(set(self.layers)) != len(self.layers):
                raise ValueError("a layer is named twice")
            if min(self.layers) < LAST:
                raise ValueError("blocks count from 0; -1 is the state after the final norm")
        return self


class LogitsLoss(_Spec):
    """Divergence between the teacher's and the student's next-token distributions, times temperature squared."""

    weight: Weight = 0.5
    divergence: Literal["forward_kl", "reverse_kl"] = "forward_kl"
    temperature: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    top_k: int | None = Field(
        default=None,
        ge=1,
        description="keep the teacher's k likeliest tokens and the rest as one: smaller on disk, and a lower bound of the divergence",
    )


class Loss(_Spec):
    """What is minimised: weighted sum of cross-entropy and of distances to a teacher."""

    ce: Weight = Field(default=1.0, description="weight of the cross-entropy of the assistant's tokens")
    hidden: HiddenLoss | None = None
    logits: LogitsLoss | None = None
    kd_mask: KdMask = Field(
        default="labels",
        description="where the teacher counts: target positions, all (also padding), or all but padding",
    )
    kd_reduction: Reduction = Field(
        default="token_mean", description="of the divergence; batch_sum: sum over positions / records"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> Loss:
        if self.ce == 0 and not self.uses_teacher:
            raise ValueError("all weights of the loss are 0: give ce, hidden.weight or logits.weight")
        return self

    @property
    def uses_teacher(self) -> bool:
        """Whether any distance to a teacher counts."""
        return self.hidden_weight > 0 or self.logits_weight > 0

    @property
    def hidden_weight(self) -> float:
        """0 where there is none."""
        return self.hidden.weight if self.hidden else 0.0

    @property
    def logits_weight(self) -> float:
        """0 where there is none."""
        return self.logits.weight if self.logits else 0.0


class Optim(_Spec):
    """AdamW and how the data reach it."""

    lr: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    projector_lr: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="none = lr")
    schedule: Literal["cosine", "linear", "constant"] = Field(default="cosine", description="after the warm-up, to 0")
    warmup_ratio: float = Field(default=0.03, ge=0, le=1, description="share of the steps with a rising rate")
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="of matrices only")
    epochs: float = Field(default=1.0, gt=0, le=1000, description="passes over the data, unless steps is given")
    steps: int | None = Field(default=None, ge=1, le=10_000_000, description="steps of the optimiser")
    batch_size: int = Field(default=16, ge=1, le=65536, description="records a step")
    accumulation: int = Field(default=1, ge=1, le=65536, description="parts of a step, computed one after another")
    processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="of this machine that share each part: one a GPU, or on the CPU; the step starts them",
    )
    max_length: int = Field(default=2048, ge=8, le=1_000_000, description="tokens of a record, image tokens included")
    clip: float | None = Field(default=1.0, gt=0, allow_inf_nan=False, description="greatest norm of the gradient")
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16", description="bf16: frozen weights and activations; what trains is fp32 either way"
    )
    checkpointing: bool = Field(default=False, description="compute activations again instead of keeping them")
    group_by_length: bool = Field(default=True, description="records of like lengths in one batch: less padding")

    @model_validator(mode="after")
    def _parts(self) -> Optim:
        if self.accumulation > self.batch_size:
            raise ValueError(f"accumulation {self.accumulation} cuts a batch of {self.batch_size} into empty parts")
        if self.processes > self.batch_size // self.accumulation:
            raise ValueError(
                f"parts of {self.batch_size // self.accumulation} records (batch_size / accumulation) leave some of {self.processes} "
                "processes without any"
            )
        return self


class Recipe(_Spec):
    """A whole training, but for model, data and teacher."""

    train: TrainMode = "lora"
    projector: bool = Field(default=True, description="whether the projector trains besides lora or full")
    lora: Lora = Lora()
    loss: Loss = Loss()
    optim: Optim = Optim()
    teacher_inputs: TeacherInputs = "own"
    cache_gb: float = Field(default=8.0, ge=0, description="of picture features, and of teacher outputs, kept on disk")


def weights_problem(weights: dict[str, float], domains: list[str]) -> str | None:
    """Why these are no shares of the domains; None where they are."""
    unknown = sorted(set(weights) - set(domains))
    if unknown:
        return f"{', '.join(unknown[:5])}: no such domain; there are {', '.join(domains[:20])}"
    if any(not math.isfinite(w) or w < 0 for w in weights.values()):
        return "shares are finite and not negative"
    if abs(sum(weights.values()) - 1) > 1e-6:
        return f"shares sum to 1, not to {sum(weights.values()):g}"
    return None

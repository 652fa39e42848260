"""What a spec says of part discovery. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Arch = Literal["single", "two_stage"]
Routing = Literal["fixed", "learned"]
Modulation = Literal["layer_norm", "original", "mlp", "none"]
PresenceTerm = Literal["max", "soft_constraint", "tanh", "soft_tanh"]
BackgroundTerm = Literal["enforced", "log", "linear", "mse"]
Pooling = Literal["mean", "mean_all"]
SecondPool = Literal["cls", "mean"]
Weight = Annotated[float, Field(ge=0, le=1e6)]


class ShapingWeights(BaseModel):
    """Weights of the terms that shape part maps; the defaults are iFAM's."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tv: Weight = 1.0
    presence: Weight = 1.0
    background: Weight = 2.0
    entropy: Weight = 1.0
    orth: Weight = 1.0
    equiv: Weight = 1.0
    conc: Weight = 0.0


class HeadPlan(NamedTuple):
    """The parts that are trained. ``slots`` K; ``pooling`` of single-stage vectors, ``second_pool`` of stage-2 ones."""

    slots: int
    width: int
    modulation: Modulation
    pooling: Pooling
    second_pool: SecondPool
    classes: int


class TrainPlan(NamedTuple):
    """How to train. ``lr`` is the base rate at a batch of 16; see ``discovery_training.learning_rates``."""

    epochs: int
    lr: float
    batch: int
    weights: ShapingWeights
    presence_kind: PresenceTerm
    background_kind: BackgroundTerm
    class_weight: float
    part_dropout: float
    tau: float
    balance: bool
    augment: Literal["none", "light"]
    train_stage2: bool
    train_tokens: bool

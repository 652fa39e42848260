"""Steps ``leakage.discover`` and ``leakage.found_parts``. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from runner.artifacts import PartImages
from runner.context import StepContext
from runner.models.base import VisionBackbone
from runner.nodes.leakage.discovery_specs import (
    Arch,
    BackgroundTerm,
    Modulation,
    Pooling,
    PresenceTerm,
    Routing,
    SecondPool,
    ShapingWeights,
    TrainPlan,
)
from runner.nodes.leakage.names import each_once
from runner.nodes.leakage.outputs import Discovery
from runner.steps import step

Arches = Annotated[
    list[Arch],
    Field(min_length=1, description="single: vectors pooled late; two_stage: recomputed from the part alone"),
    AfterValidator(each_once),
]
Route = Annotated[
    Routing, Field(description="fixed: an attribute reads the slot of its part; learned: one by group (text before ::)")
]
BaseRate = Annotated[
    float, Field(gt=0, le=1, description="base rate at a batch of 16; heads 10,000 and prototypes 1,000 times")
]
Which = Annotated[
    Literal["owned", "all"],
    Field(description="owned: those that belong to parts; all: global ones too, read from all slots"),
]
SecondStage = Annotated[Literal["frozen", "train"], Field(description="weights of the second stage")]
SecondVector = Annotated[SecondPool, Field(description="cls (mean where there is none), or mean of kept patches")]
Augment = Annotated[
    Literal["none", "light"], Field(description="light: brightness, contrast; mirrored where no part has a side")
]
Levels = Annotated[
    list[Annotated[float, Field(gt=0, lt=1)]],
    Field(max_length=10, description="quantiles of patches to remove at test time"),
    AfterValidator(each_once),
]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=100), AfterValidator(each_once)
]
FirstVector = Annotated[Pooling, Field(description="single stage: by the map's sum, or by all patches")]


@step("leakage.discover", version="2")
def discover(
    ctx: StepContext,
    *,
    backbone: VisionBackbone,
    images: PartImages,
    arch: Arches = ["single", "two_stage"],  # noqa: B006
    slots: Annotated[int | None, Field(ge=1, le=200, description="part slots K; none = one a part")] = None,
    routing: Route = "fixed",
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 90,
    lr: BaseRate = 1e-6,
    batch: Annotated[int, Field(ge=1, le=4096)] = 16,
    weights: ShapingWeights = ShapingWeights(),  # noqa: B008 - frozen
    class_weight: Annotated[float, Field(ge=0, le=1e6, description="of the class labels; 0 = attributes only")] = 0.0,
    attributes: Which = "owned",
    balance: Annotated[bool, Field(description="weigh positives of rare attributes up")] = False,
    modulation: Modulation = "layer_norm",
    pooling: FirstVector = "mean",
    stage2: SecondStage = "frozen",
    stage2_pool: SecondVector = "cls",
    train_tokens: Annotated[bool, Field(description="train CLS, register and position embeddings of stage 1")] = False,
    presence_kind: PresenceTerm = "max",
    background_kind: BackgroundTerm = "enforced",
    part_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
    tau: Annotated[float, Field(gt=0, le=100, description="temperature of the part maps")] = 1.0,
    augment: Augment = "none",
    leave_one_out: Annotated[bool, Field(description="measure what changes when one slot becomes background")] = True,
    low_confidence: Levels = [],  # noqa: B006
    seeds: Seeds = [0],  # noqa: B006
    pictures: Annotated[int, Field(ge=0, le=1000, description="test pictures drawn with their parts")] = 12,
    limit: Annotated[int | None, Field(ge=2, description="most pictures of each split")] = None,
    bootstrap: Annotated[int, Field(ge=0, le=100_000, description="resamples of the test pictures")] = 1000,
) -> Discovery:
    """Find parts from attribute labels, without masks: maps over a frozen vision transformer that tell attributes slot by slot.

    Trained on the split train, measured on test against masks and keypoints, which training never sees. Noise-free evaluation.
    """
    from runner.nodes.leakage.discovery_run import Looks, Task, check, run

    plan = TrainPlan(
        epochs, lr, batch, weights, presence_kind, background_kind, class_weight, part_dropout, tau, balance, augment,
        stage2 == "train", train_tokens,
    )  # fmt: skip
    task = Task(tuple(arch), tuple(seeds), slots, routing, attributes, modulation, pooling, stage2_pool, limit)
    check(backbone, images, task, plan)
    return Discovery(
        **run(ctx, backbone, images, task, plan, Looks(leave_one_out, tuple(low_confidence), pictures, bootstrap))
    )


@step("leakage.found_parts", version="1")
def found_parts(
    ctx: StepContext,
    *,
    discovery: Discovery,
    images: PartImages,
    arch: Arch = "two_stage",
    seed: Annotated[int, Field(ge=0)] = 0,
) -> PartImages:
    """The same pictures and labels with the found parts in the place of the drawn ones, for whatever takes part masks.

    With fixed routing slots keep the names of their parts; with learned routing they are ``slot0`` .. and an attribute
    belongs to the slot that it reads.
    """
    from runner.nodes.leakage.discovery_found import part_images_of

    return part_images_of(discovery, images, f"{arch}.seed{seed}")

"""Steps `prune.cut`, `prune.plan`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.artifacts.lvlm import Conversations, PrunedLvlm, PrunePlan, PruneScores
from runner.context import StepContext
from runner.models.base import VisionLanguageModel
from runner.nodes.pruning.specs import Recalibration, Stage
from runner.steps import step

Label = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\n\r]+$")]
Stages = Annotated[list[Stage], Field(min_length=1, max_length=32, description="in this order")]


@step("prune.cut", version="2")
def cut(
    ctx: StepContext,
    *,
    model: VisionLanguageModel,
    stages: Stages,
    scores: PruneScores | None = None,
    calibration: Conversations | None = None,
    recalibration: Recalibration = Recalibration(),  # noqa: B008 - frozen
    format: Annotated[
        Literal["uniform", "manifest", "masked"],
        Field(
            description="uniform: a stock checkpoint, layers alike; manifest: read here; masked: stock shapes with zeros"
        ),
    ] = "manifest",
    label: Label = "pruned",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        Field(description="of the weights written; default: the model's"),
    ] = None,
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="default: the run's")] = None,
) -> PrunedLvlm:
    """Remove decoder blocks, attention heads and neurons from a model's language model and write what is left.

    After "Structural Pruning of Large Vision Language Models" (2604.24380). `scores` come from `prune.score`; with `calibration` later
    stages and iterative ones score the model as it is then, without it they go by the scores of the original. Vision encoder and projector stay.
    """
    from runner.nodes.pruning.cut_run import run

    seed = ctx.seed if seed is None else seed
    return run(ctx, model, scores, stages, calibration, recalibration, format, label, dtype, seed)


@step("prune.plan", version="1")
def plan(
    ctx: StepContext,
    *,
    model: VisionLanguageModel,
    stages: Stages,
    label: Label = "planned",
) -> PrunePlan:
    """Count what `prune.cut` would leave, from the model's config alone: no weight is read.

    Counts are exact where each layer keeps a number that the spec fixes; `notes` say what only data can tell.
    """
    from runner.nodes.pruning.plan_run import foresee

    models, notes = foresee(model, stages, label, ctx.seed)
    return PrunePlan(models, notes)

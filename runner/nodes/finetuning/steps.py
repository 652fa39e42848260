"""Steps `lvlm.finetune`, `dmo.train_experts`, `dmo.train_mixtures`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from runner.artifacts import Conversations, FinetunedLvlm
from runner.context import StepContext
from runner.models.base import VisionLanguageModel
from runner.nodes.finetuning.specs import Lora, Loss, Optim, Recipe, TeacherInputs, TrainMode
from runner.steps import step

if TYPE_CHECKING:
    import pyarrow as pa

    from runner.nodes.finetuning.running import Trained

Fraction = Annotated[float, Field(gt=0, le=1, description="of the training records, drawn by the seed")]
Seed = Annotated[int | None, Field(ge=0, le=2**31 - 1, description="none = the run's")]
Label = Annotated[str, Field(min_length=1, max_length=200, description="what results call the model")]


@step("lvlm.finetune", version="1")
def finetune(
    ctx: StepContext,
    *,
    model: VisionLanguageModel,
    data: Conversations,
    train: Annotated[
        TrainMode, Field(description="projector alone; lora on the language model; full: the language model itself")
    ],
    label: Label,
    projector: Annotated[bool, Field(description="whether the projector trains besides lora or full")] = True,
    lora: Lora = Lora(),  # noqa: B008 - frozen
    loss: Loss = Loss(),  # noqa: B008 - frozen
    teacher: VisionLanguageModel | None = None,
    teacher_inputs: Annotated[
        TeacherInputs,
        Field(
            description="own: the teacher reads the pictures by itself; student: it is given the student's embeddings"
        ),
    ] = "own",
    fraction: Fraction = 1.0,
    stratified: Annotated[bool, Field(description="the fraction of every domain, instead of the whole")] = False,
    weights: Annotated[
        dict[str, float] | None, Field(description="share of each domain; none = as the data are")
    ] = None,
    optim: Optim = Optim(),  # noqa: B008 - frozen
    merge: Annotated[bool, Field(description="also write the whole model with what was learnt in its weights")] = False,
    cache_gb: Annotated[
        float, Field(ge=0, description="of picture features, and of teacher outputs, kept on disk")
    ] = 8.0,
    seed: Seed = None,
) -> FinetunedLvlm:
    """Train a vision-language model on conversations, with or without a teacher; its vision tower stays as it is.

    Modes, losses and defaults of recovery follow "Structural Pruning of Large Vision Language Models" (2604.24380).
    """
    from runner.nodes.finetuning.running import Job, chosen_rows, run
    from runner.nodes.finetuning.writing import write

    seed = ctx.seed if seed is None else seed
    recipe = Recipe(
        train=train,
        projector=projector,
        lora=lora,
        loss=loss,
        optim=optim,
        teacher_inputs=teacher_inputs,
        cache_gb=cache_gb,
    )
    rows = chosen_rows(data, fraction, seed, stratified=stratified)
    trained = run(ctx, Job(model, data, rows, recipe, seed, ctx.scratch, shares=weights, teacher=teacher))
    adapter, checkpoint = ctx.folder("adapter"), ctx.folder("checkpoint")
    log, timing = _tables(trained, label)
    summary = {**trained.summary, "fraction": fraction, "merged": merge}
    write(trained, model, adapter, checkpoint if merge or train == "full" else None)
    return FinetunedLvlm(adapter, checkpoint, log, timing, summary)


def _tables(trained: Trained, label: str) -> tuple[pa.Table, pa.Table]:
    from results.tables import arrow_table

    log: list[dict[str, Any]] = [{"model": label, **row} for row in trained.log.rows]
    timing = {"model": label, "stage": "finetune", "seconds": trained.log.seconds, "peak_bytes": trained.log.peak_bytes}
    return arrow_table("recovery_step", log), arrow_table("prune_timing", [timing])

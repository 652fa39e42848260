"""Steps `lvlm.finetune`, `dmo.train_experts`, `dmo.train_mixtures`. Light: imported to validate a spec."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from runner.artifacts import Conversations, Experts, FinetunedLvlm, Mixtures
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


Expert = Annotated[
    Literal["lora", "full"],
    Field(description="lora: on every linear layer of the blocks; full: the language model itself"),
]
EXPERT_LORA = Lora(r=16, alpha=32, dropout=0.0)
EXPERT_OPTIM = Optim(lr=2e-5, warmup_ratio=0.1, batch_size=128, accumulation=16, max_length=4096)
"""Of experts and mixtures in "Linear Model Merging Unlocks Simple and Scalable Multimodal Data Mixture Optimization" (2602.04937);
128 records a step were 8 x 4 parts x 4 devices there."""


@step("dmo.train_experts", version="1")
def train_experts(
    ctx: StepContext,
    *,
    base: VisionLanguageModel,
    data: Conversations,
    train: Expert = "lora",
    domains: Annotated[
        list[str] | None, Field(min_length=1, description="none = all of the data, in their order")
    ] = None,
    projector: Annotated[bool, Field(description="whether the projector trains too")] = False,
    lora: Lora = EXPERT_LORA,
    optim: Optim = EXPERT_OPTIM,
    fraction: Fraction = 1.0,
    cache_gb: Annotated[float, Field(ge=0, description="of picture features kept on disk")] = 8.0,
    seed: Seed = None,
) -> Experts:
    """Train one expert a domain, all from one base and by one recipe (2602.04937)."""
    from runner.nodes.finetuning.experts import Candidate, experts, train_all
    from runner.nodes.finetuning.running import Job, chosen_rows

    seed = ctx.seed if seed is None else seed
    recipe = Recipe(train=train, projector=projector, lora=lora, optim=optim, cache_gb=cache_gb)
    names = _known(domains, data)
    wanted = [(name, chosen_rows(data, fraction, seed, domains=[name])) for name in names]
    jobs = [Candidate(name, Job(base, data, rows, recipe, seed, ctx.scratch), name) for name, rows in wanted]
    return experts(ctx, train_all(ctx, jobs), names)


@step("dmo.train_mixtures", version="1")
def train_mixtures(
    ctx: StepContext,
    *,
    base: VisionLanguageModel,
    data: Conversations,
    mixtures: Mixtures,
    train: Expert = "lora",
    projector: Annotated[bool, Field(description="whether the projector trains too")] = False,
    lora: Lora = EXPERT_LORA,
    optim: Optim = EXPERT_OPTIM,
    cache_gb: Annotated[float, Field(ge=0, description="of picture features kept on disk")] = 8.0,
    seed: Seed = None,
) -> Experts:
    """Train one model a mixture, all of them as many steps, records of the domains by exact quotas (2602.04937)."""
    from runner.nodes.finetuning.experts import Candidate, experts, train_all
    from runner.nodes.finetuning.running import Job, chosen_rows

    seed = ctx.seed if seed is None else seed
    names = _known(list(mixtures.domains), data)
    rows = chosen_rows(data, 1.0, seed, domains=names)
    points = mixtures.mixtures.to_pylist()
    optim = optim if optim.steps else optim.model_copy(update={"steps": _common_steps(len(rows) / len(names), optim)})
    recipe = Recipe(train=train, projector=projector, lora=lora, optim=optim, cache_gb=cache_gb)
    jobs = []
    for point in points:
        shares = dict(zip(point["domains"], point["weights"], strict=True))
        job = Job(base, data, rows, recipe, seed, ctx.scratch, shares=shares, examples=ctx.scratch / "examples")
        jobs.append(Candidate(str(point["mixture_id"]), job))
    return experts(ctx, train_all(ctx, jobs), names)


def _known(domains: list[str] | None, data: Conversations) -> list[str]:
    """The domains, each once and in the data."""
    from runner.errors import DataError

    have = list(data.about["domains"])
    names = have if domains is None else domains
    unknown = [name for name in names if name not in have]
    if unknown or len(set(names)) < len(names):
        what = f"{unknown[0]}: no such domain" if unknown else "a domain is named twice"
        raise DataError(f"domains: {what}; the data have {', '.join(have[:20])}")
    return names


def _common_steps(records: float, optim: Optim) -> int:
    """Steps that every mixture trains for, so that only the shares differ: those of the mean number of records a domain."""
    return max(1, math.ceil(optim.epochs * records / optim.batch_size))


def _tables(trained: Trained, label: str) -> tuple[pa.Table, pa.Table]:
    from results.tables import arrow_table

    log: list[dict[str, Any]] = [{"model": label, **row} for row in trained.log.rows]
    timing = {"model": label, "stage": "finetune", "seconds": trained.log.seconds, "peak_bytes": trained.log.peak_bytes}
    return arrow_table("recovery_step", log), arrow_table("prune_timing", [timing])

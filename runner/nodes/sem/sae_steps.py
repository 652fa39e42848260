"""Steps: train a sparse autoencoder on a CLIP model's embeddings, or read one from a file. Light: imported to validate a spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from runner.artifacts import ImageFeatures, SparseCoder
from runner.context import StepContext
from runner.models.base import ClipModel
from runner.nodes.text_specs import Texts
from runner.references import InputPath
from runner.steps import Rows, Table, step


def _ascending(levels: list[int]) -> list[int]:
    if sorted(set(levels)) != levels:
        raise ValueError("levels must ascend without repetition")
    return levels


Levels = Annotated[
    list[Annotated[int, Field(ge=1)]],
    Field(min_length=1, description="Matryoshka levels, ascending; one k for topk and batch_topk"),
    AfterValidator(_ascending),
]
Batch = Annotated[int, Field(ge=1, le=1_000_000)]


def _fitting(levels: list[int] | None, info: ValidationInfo) -> list[int] | None:
    """Refuse levels that the architecture does not take, or beyond the latents, where both are known."""
    known: dict[str, Any] = info.data or {}
    architecture, latents = known.get("param_architecture"), known.get("param_latents")
    if levels is None:
        return None
    if architecture == "relu_l1":
        raise ValueError("relu_l1 takes no levels")
    if architecture in ("topk", "batch_topk") and len(levels) != 1:
        raise ValueError(f"{architecture} takes one level, its k")
    if isinstance(latents, int) and levels[-1] > latents:
        raise ValueError(f"the level {levels[-1]} is larger than the number of latents, {latents}")
    return levels


def _with_sources(modality: str, info: ValidationInfo) -> str:
    """Refuse a modality whose texts or pictures are not given, and one that leaves some of them unused."""
    known: dict[str, Any] = info.data or {}
    for name, unused in (("texts", "image"), ("images", "text")):
        if f"param_{name}" in known and (known[f"param_{name}"] is None) != (modality == unused):
            raise ValueError(f"modality {modality} {'takes no' if modality == unused else 'needs'} {name}")
    return modality


@dataclass(frozen=True)
class TrainedSae(SparseCoder):
    """A sparse autoencoder with the log of its training."""

    log: Annotated[Table, Rows("sae_train_log")]


Modality = Annotated[
    Literal["text", "image", "both"],
    Field(
        description="text: raw embeddings; image: unit norm; both: images scaled to the texts' mean norm (ours)",
        validate_default=True,
    ),
    AfterValidator(_with_sources),
]
SaeLevels = Annotated[
    Levels | None,
    Field(description="default (ours): half the width, the width, and all; 64 for topk, 32 for batch_topk"),
    AfterValidator(_fitting),
]
Weighting = Annotated[
    Literal["reverse", "uniform"], Field(description="of the levels; reverse: most weight on the sparsest")
]
AverageLevels = Annotated[
    bool, Field(description="divide the levels' weighted sum by the weights' sum, as MSAE does and SEM does not")
]
Rate = Annotated[
    float | None,
    Field(gt=0, le=1, description="default: 1e-4 for msae, 5e-4 for topk and batch_topk, 5e-5 for relu_l1"),
]
ConstantShare = Annotated[
    float, Field(ge=0, le=1, description="of the epochs at the full rate, which then falls linearly to 0")
]
Patience = Annotated[
    int | None, Field(ge=1, description="stop after so many epochs without a lower FVU, and keep the best weights")
]
Init = Annotated[
    Literal["msae", "sem"],
    Field(description="msae: decoder of norm 0.1, encoder its transpose; sem: as torch's layers"),
]
Centre = Annotated[
    bool,
    Field(description="subtract the mean and scale to the norm sqrt(width), as MSAE; stored and undone at use"),
]
Export = Annotated[
    list[Literal["sem", "msae"]], Field(description="also write a .pth in these layouts into the folder")
]


@step("sem.train_sae", version="1")
def train_sae(
    ctx: StepContext,
    *,
    clip: ClipModel,
    texts: Annotated[Texts | None, Field(description="encoded as they are, each distinct one once")] = None,
    images: ImageFeatures | None = None,
    modality: Modality = "text",
    max_texts: Annotated[int | None, Field(ge=1, description="at most so many texts, drawn with the seed")] = None,
    architecture: Literal["msae", "topk", "batch_topk", "relu_l1"] = "msae",
    latents: Annotated[int, Field(ge=2, le=1_048_576)] = 16384,
    levels: SaeLevels = None,
    weighting: Weighting = "reverse",
    average_levels: AverageLevels = False,
    loss: Annotated[Literal["mse", "nmse", "cosine"], Field(description="of each level's reconstruction")] = "mse",
    l1: Annotated[float, Field(ge=0, le=1000, description="weight of the L1 norm, relu_l1 only")] = 0.003,
    lr: Rate = None,
    batch: Batch = 4096,
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 30,
    constant_share: ConstantShare = 0.8,
    clip_norm: Annotated[float, Field(gt=0, description="largest norm of the gradient")] = 1.0,
    val_fraction: Annotated[float, Field(gt=0, le=0.5, description="share of the rows held out to measure on")] = 0.05,
    patience: Patience = None,
    unit_norm_decoder: bool = True,
    init: Init = "msae",
    centre: Centre = False,
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="default: the run's")] = None,
    text_batch: Annotated[int, Field(ge=1, le=65536, description="texts encoded and saved together")] = 1024,
    export: Export = [],  # noqa: B006
) -> TrainedSae:
    """Train a sparse autoencoder on embeddings of texts, pictures or both; the defaults are ours, not the authors'."""
    from results.tables import arrow_table
    from runner.nodes.sem.losses import Objective
    from runner.nodes.sem.sae_runs import Plan, Sources, default_levels, default_lr, train, weights_of
    from runner.nodes.sem.training import Schedule

    kept = default_levels(architecture, clip.dim, latents) if levels is None else tuple(levels)
    rate = default_lr(architecture) if lr is None else lr
    objective = Objective(
        architecture,
        kept,
        weights_of(architecture, kept, weighting),
        loss,
        average_levels,
        l1 * (architecture == "relu_l1"),
    )
    schedule = Schedule(rate, batch, epochs, constant_share, clip_norm, unit_norm_decoder, patience)
    plan = Plan(
        objective,
        schedule,
        latents,
        weighting,
        val_fraction,
        init,
        centre,
        ctx.seed if seed is None else seed,
        tuple(export),
    )
    model, log = train(ctx, clip, Sources(texts, images, modality, max_texts, text_batch, plan.seed), plan)
    return TrainedSae(ctx.folder("folder"), arrow_table("sae_model", [model]), arrow_table("sae_train_log", log))


@step("sem.import_sae", version="2")
def import_sae(
    ctx: StepContext,
    *,
    path: Annotated[InputPath, Field(description="a .pth or .safetensors file, or a folder that sem.train_sae made")],
    clip: Annotated[
        ClipModel | None, Field(description="the model whose embeddings it codes; its width is checked")
    ] = None,
    layout: Annotated[
        Literal["sem", "msae", "native"] | None, Field(description="default: by what the file holds")
    ] = None,
    backbone: Annotated[
        str | None,
        Field(min_length=1, max_length=200, description="default: the model's name, else what the file says"),
    ] = None,
    levels: Annotated[Levels | None, Field(description="default: what the file or its name says")] = None,
    weighting: Annotated[
        Literal["reverse", "uniform"] | None, Field(description="default: what the file or its name says")
    ] = None,
    architecture: Annotated[
        Literal["msae", "topk", "batch_topk", "relu_l1"] | None,
        Field(description="default: what the file says, else msae"),
    ] = None,
    texts: Annotated[
        Texts | None, Field(description="texts to measure its reconstruction on; a wrong scale is noticed by them")
    ] = None,
    text_batch: Annotated[int, Field(ge=1, le=65536, description="texts encoded and saved together")] = 1024,
) -> SparseCoder:
    """Read a sparse autoencoder in SEM's layout, MSAE's or this program's, and measure it on texts."""
    from results.tables import arrow_table
    from runner.nodes.sem.sae_runs import Claims, Sources, adopt

    claims = Claims(layout, backbone, None if levels is None else tuple(levels), weighting, architecture)
    model = adopt(ctx, path, clip, claims, Sources(texts, None, "text", None, text_batch, ctx.seed))
    return SparseCoder(ctx.folder("folder"), arrow_table("sae_model", [model]))

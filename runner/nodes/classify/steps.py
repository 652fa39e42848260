"""Steps of closed-world contrastive classification. Light: imported to validate a spec.

``classify.features`` or ``classify.import_features``, ``classify.pool``; ``classify.neighbours``;
``classify.clip_zero_shot``, ``classify.tip_adapter``, ``classify.knn``; ``classify.score``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from runner.artifacts import ClosedAnswers, Datasets, FewShotPool, ImageFeatures, Neighbours
from runner.context import StepContext
from runner.models.base import ImageTextEncoder
from runner.references import InputPath
from runner.steps import Artifact, Rows, Table, step

if TYPE_CHECKING:
    from runner.nodes.classify.answering import TipPlan, TipResult, Who


@dataclass(frozen=True)
class TipAnswers(ClosedAnswers):
    """Answers of Tip-Adapter, and the validation accuracy of every pair (alpha, beta) that the search looked at."""

    tip_grid: Annotated[Table, Rows("tip_grid")]


@dataclass(frozen=True)
class ClosedScores(Artifact):
    """Closed-world answers judged, and their accuracies by dataset, group and over all."""

    predictions: Annotated[Table, Rows("closed_world_prediction")]
    summary: Annotated[Table, Rows("closed_world_summary")]


class FeatureFile(BaseModel):
    """One stored pair: ``features`` (a .pt tensor, pictures x dim) and ``metadata`` (JSON: row number -> visual, target)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(min_length=1, description="dataset of `images` that it is of")
    split: Literal["train", "val", "test"] = "train"
    features: InputPath = Field(description="tensor file, such as dtd/train/ViT-B-32.pt")
    metadata: InputPath = Field(description="its JSON, such as dtd/train/ViT-B-32_metadata.json")


def _one_place(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError("a template needs {} once, where the class goes")
    return template


Split = Literal["train", "val", "test"]
Template = Annotated[str, Field(max_length=300), AfterValidator(_one_place)]
Templates = Annotated[
    list[Template] | None, Field(min_length=1, description="prompts with {}; several are averaged; default: the dataset's")
]  # fmt: skip
Limit = Annotated[int | None, Field(ge=1, description="queries a dataset, drawn by the run's seed; default: all")]
Label = Annotated[
    str | None, Field(min_length=1, max_length=80, description="method's name in results, to tell two runs apart")
]
Seed = Annotated[int | None, Field(ge=0, le=2**31 - 1, description="of the draw; default: the run's")]
BatchSize = Annotated[int, Field(ge=1, le=4096, description="pictures encoded and saved together")]


@step("classify.features", version="1")
def features(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    images: Datasets,
    splits: Annotated[list[Split], Field(description="embedded whole")] = ["train", "val", "test"],  # noqa: B006
    pool: FewShotPool | None = None,
    batch_size: BatchSize = 64,
) -> ImageFeatures:
    """Embed the pictures of the splits, and those of ``pool``, whatever their split; each picture once a workspace."""
    from runner.errors import DataError
    from runner.nodes.classify.features import image_rows, make_features

    drawn = set() if pool is None else _named(pool.pool)
    rows = [r for r in image_rows(images) if r["split"] in splits or (r["dataset"], r["sample_id"]) in drawn]
    if not rows:
        raise DataError(f"the datasets have no picture in the splits {', '.join(splits) or '(none)'}")
    return make_features(ctx, encoder, images, rows, batch_size)


def _named(table: Any) -> set[tuple[str, str]]:
    return {(row["dataset"], row["sample_id"]) for row in table.select(["dataset", "sample_id"]).to_pylist()}


@step("classify.import_features", version="1")
def import_features(
    ctx: StepContext,
    *,
    images: Datasets,
    files: Annotated[list[FeatureFile], Field(min_length=1, description="stored features, one entry a split")],
    encoder: ImageTextEncoder | None = None,
) -> ImageFeatures:
    """Read features that were stored as tensor files with their metadata.

    ``encoder``: the model that made them; without it they serve k-NN and neighbours only, since nothing else embeds
    texts into their space.
    """
    from runner.nodes.classify.importing import import_stored

    return import_stored(ctx, images, [file.model_dump() for file in files], encoder)


@step("classify.pool", version="1")
def pool(
    ctx: StepContext,
    *,
    images: Datasets,
    split: Split = "train",
    shots_per_class: Annotated[int, Field(ge=1, le=100_000, description="labelled pictures a class")] = 16,
    seed: Seed = None,
    allow_fewer: Annotated[bool, Field(description="take what smaller classes have")] = False,
) -> FewShotPool:
    """Draw the labelled pictures that all few-shot methods share, the same number of every class."""
    from results.tables import arrow_table
    from runner.errors import DataError
    from runner.nodes.classify.features import image_rows
    from runner.nodes.classify.pool import pool_rows

    seed = ctx.seed if seed is None else seed
    every = [row for row in image_rows(images) if row["split"] == split]
    drawn = []
    for info in images.datasets:
        own = [row for row in every if row["dataset"] == info["dataset"]]
        drawn += pool_rows(info, own, shots_per_class, seed, allow_fewer=allow_fewer, split=split)
    if not drawn:
        raise DataError("there is no dataset to draw from")
    return FewShotPool(images.datasets, images.corpus, arrow_table("few_shot_pool", drawn), shots_per_class, seed)


@step("classify.neighbours", version="1")
def neighbours(
    ctx: StepContext,
    *,
    features: ImageFeatures,
    pool: FewShotPool,
    split: Split = "test",
    k: Annotated[int, Field(ge=1, description="pool pictures a query")] = 16,
    how: Annotated[
        Literal["similarity", "random"], Field(description="the nearest by cosine, or any of the pool")
    ] = "similarity",
    order: Annotated[
        Literal["nearest_first", "farthest_first", "shuffle"], Field(description="as they are shown")
    ] = "nearest_first",
    seed: Seed = None,
    limit: Limit = None,
) -> Neighbours:
    """Choose pool pictures to stand beside each query. Exact inner products; equal ones by their place in the pool."""
    import pyarrow as pa

    from runner.nodes.classify.answering import chosen_datasets, neighbour_table, neighbours_of
    from runner.nodes.classify.features import FeatureLookup

    lookup, seed = FeatureLookup(features), ctx.seed if seed is None else seed
    tables = []
    for info in ctx.track(list(chosen_datasets(features)), unit="datasets"):
        queries, own = lookup.split(info, split, limit, ctx.seed), lookup.pool(ctx, info, pool)
        tables.append(neighbour_table(queries, own, neighbours_of(queries, own, k, how, order, seed)))
    return Neighbours(features.encoder, how, pa.concat_tables(tables), pool.shots, pool.seed)


@step("classify.clip_zero_shot", version="1")
def clip_zero_shot(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    features: ImageFeatures,
    images: Datasets | None = None,
    templates: Templates = None,
    split: Split = "test",
    limit: Limit = None,
    label: Label = None,
) -> ClosedAnswers:
    """Answer with the class whose prompt is nearest. With ``images``, pictures that could not be read are failures."""
    from runner.nodes.classify.answering import Who, chosen_datasets
    from runner.nodes.classify.features import FeatureLookup, check_encoder
    from runner.nodes.classify.zero_shot import class_weights

    check_encoder(encoder, features)
    lookup, who = FeatureLookup(features), Who(label or "clip_zero_shot", encoder.name, 0, 0)
    rows, used = [], {}
    for info in ctx.track(list(chosen_datasets(features)), unit="datasets"):
        queries = lookup.split(info, split, limit, ctx.seed)
        used[info["dataset"]] = templates or [info["template"]]
        weights = class_weights(encoder, info["classes"], used[info["dataset"]])
        rows += who.rows(queries, (queries.vectors @ weights).argmax(1))
    rows = who.with_failures(rows, images, split, limit, ctx.seed)
    return ClosedAnswers(features.datasets, who.method, {"templates": used, "split": split}, _answers(rows))


@step("classify.tip_adapter", version="2")
def tip_adapter(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    features: ImageFeatures,
    pool: FewShotPool,
    images: Datasets | None = None,
    variant: Annotated[
        Literal["exponential", "linear"], Field(description="Tip-Adapter's, or the sum of CIRCLE's equation 4")
    ] = "exponential",
    finetune: Annotated[bool, Field(description="train the keys (Tip-Adapter-F)")] = False,
    search: Annotated[bool, Field(description="search alpha and beta on val_split; false = fixed ones")] = True,
    alpha: Annotated[float | None, Field(ge=0, le=1e6, description="default: the dataset's")] = None,
    beta: Annotated[float | None, Field(ge=0, le=1e6, description="default: 1")] = None,
    omega: Annotated[float | None, Field(ge=0, le=1e6, description="weight of the linear variant; default: 1")] = None,
    alpha_scale: Annotated[
        float | None, Field(gt=0.1, le=1e6, description="end of the search; default: the dataset's")
    ] = None,
    beta_scale: Annotated[
        float | None, Field(gt=0.1, le=1e6, description="end of the search; default: the dataset's")
    ] = None,
    alpha_steps: Annotated[int, Field(ge=1, le=1000)] = 20,
    beta_steps: Annotated[int, Field(ge=1, le=1000)] = 200,
    augment_epochs: Annotated[
        int, Field(ge=0, le=100, description="random views of each pool picture; 0 = its plain features")
    ] = 10,
    epochs: Annotated[int | None, Field(ge=1, le=10_000, description="of training; default: 20, EuroSAT 100")] = None,
    templates: Templates = None,
    split: Split = "test",
    val_split: Split = "val",
    limit: Limit = None,
    batch_size: BatchSize = 64,
    label: Label = None,
) -> TipAnswers:
    """Answer with CLIP's logits and a cache of labelled pictures (Tip-Adapter, ECCV 2022)."""
    from runner.nodes.classify.answering import TipPlan, Who

    _check_tip(ctx, variant, finetune, search, {"alpha": alpha, "beta": beta, "omega": omega})
    if search and val_split == split:
        from runner.errors import StepError

        raise StepError(f"alpha and beta would be searched on the queries ({split})", step=ctx.step, hint="Use val.")
    plan = TipPlan(
        variant=variant, finetune=finetune, search=search, alpha=omega if variant == "linear" else alpha, beta=beta,
        alpha_scale=alpha_scale, beta_scale=beta_scale, alpha_steps=alpha_steps, beta_steps=beta_steps,
        augment_epochs=augment_epochs, epochs=epochs, split=split, val_split=val_split, limit=limit,
        batch_size=batch_size,
    )  # fmt: skip
    name = "tip_adapter_linear" if variant == "linear" else "tip_adapter_f" if finetune else "tip_adapter"
    who = Who(label or name, encoder.name, pool.shots, pool.seed)
    results = _tip_results(ctx, encoder, features, pool, plan, templates)
    rows = [row for result in results for row in who.rows(result.queries, result.said)]
    return _tip_artifact(features, plan, who, who.with_failures(rows, images, split, limit, ctx.seed), results)


def _check_tip(ctx: StepContext, variant: str, finetune: bool, search: bool, fixed: dict[str, float | None]) -> None:
    """Raise ``StepError`` where a setting would be ignored."""
    from runner.errors import StepError

    given = [name for name, value in fixed.items() if value is not None]
    foreign = [name for name in given if (name == "omega") != (variant == "linear")]
    if foreign:
        raise StepError(f"{foreign[0]} means nothing to the {variant} variant", step=ctx.step, hint="Leave it out.")
    if variant == "linear" and finetune:
        raise StepError("the linear variant has no trained keys", step=ctx.step, hint="Set finetune: false.")
    if given and search and not finetune:
        hint = "Set search: false to use the value, or leave it out to search."
        raise StepError(f"{given[0]} is given, and would be searched", step=ctx.step, hint=hint)


def _tip_results(
    ctx: StepContext,
    encoder: ImageTextEncoder,
    features: ImageFeatures,
    pool: FewShotPool,
    plan: TipPlan,
    templates: list[str] | None,
) -> list[TipResult]:
    from runner.nodes.classify.answering import chosen_datasets, keys_of, tip_answers, validation_of
    from runner.nodes.classify.features import FeatureLookup, check_apart, check_encoder
    from runner.nodes.classify.zero_shot import class_weights

    check_encoder(encoder, features)
    lookup, results = FeatureLookup(features), []
    datasets = list(chosen_datasets(features))
    parts = {info["dataset"]: lookup.split(info, plan.split, plan.limit, ctx.seed) for info in datasets}
    held_out = {name: validation_of(lookup, part.info, plan) for name, part in parts.items()}
    for info in ctx.track(datasets, unit="datasets"):
        name = info["dataset"]
        own, views = keys_of(ctx, encoder, info, pool, lookup, plan)
        for part in (parts[name], held_out[name]):
            if part is not None:
                check_apart(part, own)
        weights = class_weights(encoder, info["classes"], templates or [info["template"]])
        results.append(tip_answers(ctx, plan, parts[name], held_out[name], own, views, weights, pool.shots))
    return results


def _tip_artifact(
    features: ImageFeatures, plan: TipPlan, who: Who, rows: list[dict[str, Any]], results: list[TipResult]
) -> TipAnswers:
    from results.tables import arrow_table

    settings = vars(plan) | {"used": {result.queries.info["dataset"]: result.settings for result in results}}
    grid = arrow_table("tip_grid", [row for result in results for row in result.grid])
    return TipAnswers(features.datasets, who.method, settings, _answers(rows), grid)


@step("classify.knn", version="1")
def knn(
    ctx: StepContext,
    *,
    features: ImageFeatures,
    pool: FewShotPool | None = None,
    neighbours: Neighbours | None = None,
    images: Datasets | None = None,
    k: Annotated[int, Field(ge=1, description="neighbours that vote")] = 16,
    split: Split = "test",
    limit: Limit = None,
    label: Label = None,
) -> ClosedAnswers:
    """Answer with the majority label of the k nearest pool pictures: of ``pool``, or of ``neighbours`` as found."""
    from runner.errors import StepError
    from runner.nodes.classify.answering import Who, chosen_datasets, neighbours_of, voters
    from runner.nodes.classify.features import FeatureLookup
    from runner.nodes.classify.knn import knn_vote

    if (pool is None) == (neighbours is None):
        raise StepError("give pool or neighbours, one of them", step=ctx.step)
    source = pool or neighbours
    assert source is not None
    lookup = FeatureLookup(features)
    who = Who(label or "knn", features.encoder["name"], source.shots, source.seed)
    rows = []
    for info in ctx.track(list(chosen_datasets(features)), unit="datasets"):
        queries = lookup.split(info, split, limit, ctx.seed)
        if pool is not None:
            own = lookup.pool(ctx, info, pool)
            labels = own.classes[neighbours_of(queries, own, k, "similarity", "nearest_first", 0).slots]
        else:
            assert neighbours is not None
            labels = voters(neighbours.neighbours, queries, k)
        rows += who.rows(queries, knn_vote(labels))
    rows = who.with_failures(rows, images, split, limit, ctx.seed)
    return ClosedAnswers(features.datasets, who.method, {"k": k, "split": split}, _answers(rows))


def _answers(rows: list[dict[str, Any]]) -> Any:
    from results.tables import arrow_table

    return arrow_table("closed_world_answer", rows)


@step("classify.score", version="2")
def score(
    ctx: StepContext, *, answers: Annotated[list[ClosedAnswers], Field(description="of one method or several")]
) -> ClosedScores:
    """Accuracy by text inclusion and by the strict rule, for each dataset, group and over all, with 95 % intervals."""
    from results.tables import arrow_table
    from runner.errors import DataError
    from runner.nodes.classify.scoring import judged_rows, summary_rows, warn_of_other_pictures

    rows = judged_rows(answers)
    if not rows:
        raise DataError("there are no answers to score")
    warn_of_other_pictures(ctx, rows)
    groups = {info["dataset"]: info.get("group") for info in _every_dataset(answers)}
    summary = arrow_table("closed_world_summary", summary_rows(rows, groups))
    judged = [{name: value for name, value in row.items() if name != "failure"} for row in rows]
    return ClosedScores(arrow_table("closed_world_prediction", judged), summary)


def _every_dataset(answers: Iterable[ClosedAnswers]) -> Iterable[dict[str, Any]]:
    return (info for part in answers for info in part.datasets)

"""Steps of debiasing: queries debiased, retrieval and classification with them, comparisons, two studies. Light.

``debias.texts``; ``debias.retrieval``, ``debias.zero_shot``; ``debias.compare``; ``debias.disentanglement``, ``debias.cp_bn``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from runner.artifacts import AttributedImages, DebiasedTexts, DebiasPrompts, ImageFeatures, SparseCoder
from runner.context import StepContext
from runner.models.base import ClipModel
from runner.nodes.sem.methods_specs import BendSpec, Methods, Relevant
from runner.steps import Artifact, Rows, Table, step


@dataclass(frozen=True)
class DebiasScores(Artifact):
    """One evaluation of debiased queries; tables of the other task are empty.

    ``task``: retrieval or zero_shot. ``answers``: of classification, one row a method and picture with the number of evaluated
    halves (``n``), of right answers in them (``correct``) and its ``cluster`` or NULL; what ``debias.compare`` pairs.
    """

    task: str
    settings: dict[str, Any]
    retrieval: Annotated[Table, Rows("debias_retrieval")]
    counts: Annotated[Table, Rows("debias_retrieval_count")]
    groups: Annotated[Table, Rows("debias_group")]
    summary: Annotated[Table, Rows("debias_summary")]
    changes: Annotated[Table, Rows("debias_change")]
    answers: Table


@dataclass(frozen=True)
class DebiasComparison(Artifact):
    """Paired differences between evaluations of the same pictures."""

    reference: str
    differences: Annotated[Table, Rows("debias_compare")]


@dataclass(frozen=True)
class LeakStudy(Artifact):
    """How much of an attribute leaks into a task, from dense features and from latents."""

    settings: dict[str, Any]
    study: Annotated[Table, Rows("disentanglement")]


@dataclass(frozen=True)
class Preserved(Artifact):
    """Content preservation and bias neutralisation by method."""

    settings: dict[str, Any]
    scores: Annotated[Table, Rows("cp_bn")]


def _one_place(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError("a template needs {} once, where the query goes")
    return template


def _study_places(template: str) -> str:
    if template.count("{value}") != 1 or template.count("{subject}") != 1:
        raise ValueError("a template of a study needs {value} and {subject} once each")
    return template


def _each_once(values: list[str] | None) -> list[str] | None:
    twice = next((value for value in values or [] if (values or []).count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice[:80]!r} stands there twice")
    return values


Template = Annotated[str, Field(max_length=300), AfterValidator(_one_place)]
StudyTemplate = Annotated[str, Field(max_length=300), AfterValidator(_study_places)]
Texts = Annotated[list[DebiasedTexts], Field(description="of one debias.texts or several, for the same queries")]
Attribute = Annotated[str, Field(min_length=1, max_length=200, description="attribute of the pictures")]
Values = Annotated[
    list[str] | None,
    Field(min_length=2, description="values that count; pictures of others are left out; default: all"),
    AfterValidator(_each_once),
]
Split = Annotated[
    Literal["all", "train", "val", "test"], Field(description="pictures used; all = every split pooled, as published")
]
FoldCount = Annotated[int, Field(ge=1, le=1000, description="repeated random halves")]
Fraction = Annotated[float, Field(gt=0, lt=1, description="share that is evaluated; the rest is reference for bend")]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1, description="of the halves")]
Bends = Annotated[list[BendSpec], Field(max_length=60, description="second step of BendVLM on top of methods")]
Cluster = Annotated[
    str | None,
    Field(
        min_length=1, max_length=200,
        description="attribute whose values are resampled for intervals, all their pictures together, such as cut_out; "
        "default: pictures are resampled",
    ),
]  # fmt: skip
Words = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]],
    Field(min_length=2, max_length=1000),
    AfterValidator(_each_once),
]


@step("debias.texts", version="2")
def texts(
    ctx: StepContext,
    *,
    clip: ClipModel,
    prompts: DebiasPrompts,
    sae: SparseCoder | None = None,
    methods: Methods,
    templates: Annotated[
        Annotated[list[Template], Field(min_length=1)] | Literal["imagenet"] | None,
        Field(description="queries are filled in and their embeddings averaged; ours; imagenet: the 80 of open_clip"),
    ] = None,
    top_neurons: Annotated[
        int, Field(ge=0, le=100_000, description="latents kept of each query, most moved first")
    ] = 20,
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="of subsamples; default: the run's")] = None,
    other_backbone: Annotated[
        bool, Field(description="take an autoencoder of another model, such as of one whose vision tower was edited")
    ] = False,
) -> DebiasedTexts:
    """Debias the queries with each method; every distinct text is encoded once, raw and in float32."""
    from runner.nodes.sem.texts_debiased import debias

    return debias(
        ctx, clip, prompts, sae, methods, templates, top_neurons, ctx.seed if seed is None else seed, other_backbone
    )


@step("debias.retrieval", version="1")
def retrieval(
    ctx: StepContext,
    *,
    features: ImageFeatures,
    images: AttributedImages,
    texts: Texts,
    attribute: Attribute,
    values: Values = None,
    k: Annotated[int, Field(ge=1, le=10_000_000, description="pictures retrieved")] = 500,
    folds: FoldCount = 10,
    val_fraction: Fraction = 0.5,
    seed: Seed = 42,
    split: Split = "all",
    bend: Bends = [],  # noqa: B006
    relevant: Annotated[
        dict[str, Relevant], Field(description="what a query asks for, for precision: {query: {target: CLASS}}")
    ] = {},  # noqa: B006
    draws: Annotated[int, Field(ge=0, le=10_000, description="resamples of pictures for intervals; 0 = none")] = 200,
    cluster: Cluster = None,
) -> DebiasScores:
    """Shares of the attribute's values among the k most similar pictures, against those of the searched half."""
    from runner.nodes.sem.evaluating import populations, queries_of
    from runner.nodes.sem.evaluating_retrieval import RetrievalPlan, RetrievalRows, evaluate_retrieval

    names, queries = queries_of(texts, features)
    plan = RetrievalPlan(
        attribute, features.encoder["name"], k, folds, val_fraction, seed, draws, bend, relevant
    )  # fmt: skip
    found = RetrievalRows([], [], [])
    for population in populations(ctx, features, images, attribute, split, values, cluster):
        found.extend(evaluate_retrieval(ctx, population, names, queries, plan))
    settings: dict[str, Any] = {
        "k": k,
        "folds": folds,
        "val_fraction": val_fraction,
        "seed": seed,
        "split": split,
        "draws": draws,
    }
    settings["cluster"] = cluster
    return _scores("retrieval", settings, retrieval=found.scores, counts=found.counts, summary=found.summary)


@step("debias.zero_shot", version="1")
def zero_shot(
    ctx: StepContext,
    *,
    features: ImageFeatures,
    images: AttributedImages,
    texts: Texts,
    attribute: Attribute,
    values: Values = None,
    target: Annotated[
        list[str] | None,
        Field(min_length=2, description="class of each query, in order; default: the dataset's classes"),
    ] = None,
    folds: FoldCount = 10,
    val_fraction: Fraction = 0.5,
    seed: Seed = 42,
    split: Split = "all",
    bend: Bends = [],  # noqa: B006
    baseline: Annotated[str | None, Field(description="label that changes are told against; default: vanilla")] = None,
    examples: Annotated[int, Field(ge=0, le=1000, description="changed pictures kept of each kind and group")] = 12,
    draws: Annotated[int, Field(ge=0, le=100_000, description="resamples of pictures for intervals; 0 = none")] = 2000,
    cluster: Cluster = None,
) -> DebiasScores:
    """Accuracy, worst group and gap of zero-shot classification over the groups of class and attribute."""
    from runner.nodes.sem.evaluating import populations, queries_of
    from runner.nodes.sem.evaluating_zero_shot import ZeroShotPlan, ZeroShotRows, evaluate_zero_shot, of_classes

    names, queries = queries_of(texts, features)
    plan = ZeroShotPlan(
        attribute, features.encoder["name"], folds, val_fraction, seed, draws, bend, baseline, examples
    )  # fmt: skip
    found = ZeroShotRows([], [], [], [])
    for population in populations(ctx, features, images, attribute, split, values, cluster):
        found.extend(evaluate_zero_shot(ctx, of_classes(ctx, population, names, target), queries, plan))
    settings: dict[str, Any] = {
        "folds": folds,
        "val_fraction": val_fraction,
        "seed": seed,
        "split": split,
        "draws": draws,
    }
    settings["cluster"] = cluster
    return _scores(
        "zero_shot", settings, groups=found.groups, summary=found.summary, changes=found.changes, answers=found.answers
    )


def _scores(
    task: str, settings: dict[str, Any], *, answers: list[Any] | None = None, **rows: list[Any]
) -> DebiasScores:
    import pyarrow as pa

    from results.tables import arrow_table
    from runner.nodes.sem.evaluating_zero_shot import ANSWERS

    names = {"retrieval": "debias_retrieval", "counts": "debias_retrieval_count", "groups": "debias_group"}
    names |= {"summary": "debias_summary", "changes": "debias_change"}
    tables = {field: arrow_table(table, rows.get(field, [])) for field, table in names.items()}
    every = pa.concat_tables(answers) if answers else ANSWERS.empty_table()
    return DebiasScores(task=task, settings=settings, **tables, answers=every)


@step("debias.compare", version="1")
def compare(
    ctx: StepContext,
    *,
    scores: Annotated[dict[str, DebiasScores], Field(description="evaluations by name: {before: $x, after: $y}")],
    reference: Annotated[
        str | None, Field(description="EVALUATION/METHOD that all are compared with; default: vanilla of the first")
    ] = None,
    draws: Annotated[int, Field(ge=100, le=100_000, description="resamples of pictures")] = 2000,
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="of the resamples; default: the run's")] = None,
) -> DebiasComparison:
    """Paired differences of accuracy, worst group and gap between evaluations of the same pictures (ours)."""
    from results.tables import arrow_table
    from runner.errors import DataError
    from runner.nodes.sem.evaluating_compare import compare_rows

    foreign = next((name for name, one in scores.items() if one.task != "zero_shot"), None)
    if foreign is not None:
        raise DataError(f"{foreign} is an evaluation of retrieval, and answers of classification are compared")
    tables = {name: one.answers for name, one in scores.items()}
    rows = compare_rows(ctx, tables, reference, draws, ctx.seed if seed is None else seed)
    return DebiasComparison(rows[0]["first"], arrow_table("debias_compare", rows))


@step("debias.disentanglement", version="1")
def disentanglement(
    ctx: StepContext,
    *,
    clip: ClipModel,
    sae: SparseCoder | None = None,
    attribute: Annotated[str, Field(min_length=1, max_length=200, description="such as gender")],
    values: Annotated[Words, Field(description="words of its values, such as male, female")],
    task: Annotated[str, Field(min_length=1, max_length=200, description="what a subject is, such as profession")],
    subjects: Annotated[Words, Field(description="such as 100 professions")],
    templates: Annotated[list[StudyTemplate], Field(min_length=2, max_length=1000, description="captions")],
    folds: Annotated[int, Field(ge=2, le=100)] = 5,
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42,
    rule: Annotated[
        Literal["clamped", "official"], Field(description="official: D = 0 where nothing leaks, as published")
    ] = "clamped",
    by_template: Annotated[bool, Field(description="texts of a template stay in one fold; ours")] = False,
    other_backbone: bool = False,
) -> LeakStudy:
    """How much of an attribute can be read from what a linear model learns of a task: embeddings against latents."""
    from results.tables import arrow_table
    from runner.nodes.sem.texts_studies import LeakPlan, leak_rows

    plan = LeakPlan(attribute, values, task, subjects, templates, folds, seed, rule, by_template)
    rows = leak_rows(ctx, clip, sae, plan, other_backbone)
    settings = {"rule": rule, "by_template": by_template, "seed": seed, "small": clip.small}
    return LeakStudy(settings, arrow_table("disentanglement", rows))


@step("debias.cp_bn", version="1")
def cp_bn(
    ctx: StepContext,
    *,
    clip: ClipModel,
    prompts: DebiasPrompts,
    sae: SparseCoder | None = None,
    methods: Methods,
    values: Annotated[Words, Field(description="words of the attribute's values, such as male, female")],
    subjects: Annotated[Words, Field(description="such as 100 professions")],
    template: StudyTemplate = "A photo of a {value} {subject}.",
    neutral: Annotated[str, Field(max_length=300, description="the same without a value", pattern=r"\{subject\}")] = (
        "A photo of a {subject}."
    ),
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="of subsamples; default: the run's")] = None,
    other_backbone: bool = False,
) -> Preserved:
    """Texts that name a value, debiased: are the values alike (BN), and near the neutral text still (CP)?"""
    from results.tables import arrow_table
    from runner.nodes.sem.texts_studies import PreservationPlan, preservation_rows

    plan = PreservationPlan(values, subjects, template, neutral)
    seed = ctx.seed if seed is None else seed
    rows = preservation_rows(ctx, clip, prompts, sae, methods, plan, seed, other_backbone)
    return Preserved({"template": template, "neutral": neutral, "small": clip.small}, arrow_table("cp_bn", rows))

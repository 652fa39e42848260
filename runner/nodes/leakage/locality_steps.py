"""Steps ``leakage.mask_pictures``, ``leakage.fit_concepts``, ``leakage.answer``, ``leakage.perturb``, ``leakage.locality``. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from runner.artifacts import ConceptAnswers, MaskedPictures, PartImages
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import Classifier, ImageTextEncoder, VisionBackbone
from runner.steps import Artifact, Folder, Rows, Table, step

Split = Literal["train", "val", "test"]
Seed = Annotated[int | None, Field(ge=0, le=2**31 - 1, description="of the draw; default: the run's")]
BatchSize = Annotated[int, Field(ge=1, le=4096, description="pictures in one forward pass; changes no result")]
Text = Annotated[str, Field(min_length=1, max_length=300)]
Label = Annotated[
    str | None, Field(min_length=1, max_length=80, description="predictor's name in results, to tell two apart")
]


class YesNoTexts(BaseModel):
    """Two sides of a concept for an image-text encoder; several texts of a side are averaged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    yes: list[Text] = Field(min_length=1, max_length=200, description="texts that say that it is there")
    no: list[Text] = Field(min_length=1, max_length=200, description="texts that say that it is not")


@dataclass(frozen=True)
class ConceptHead(Artifact):
    """Concepts fitted on pooled features of a backbone. ``head``: the folder that the provider ``concept_head`` takes; ``fits``:
    ``attribute``, ``n``, ``positives``, ``auroc`` (on the pictures that it was fitted on), ``dropped`` (why it is not in the head)."""

    head: Folder
    fits: Table
    settings: dict[str, Any]


@dataclass(frozen=True)
class Perturbed(Artifact):
    """How far concepts can be pushed. ``changes``: ``sample_id``, ``concept``, ``side`` (``outside`` or ``inside`` of its part), ``change``:
    the largest absolute change found, ``n_pixels``: how many were open, the same on both sides; ``about``, ``predictor`` as in ``ConceptAnswers``."""

    about: dict[str, Any]
    settings: dict[str, Any]
    predictor: dict[str, Any]
    changes: Table


@dataclass(frozen=True)
class Locality(Artifact):
    """Masking response of concept predictors and what it says of their locality."""

    settings: dict[str, Any]
    response: Annotated[Table, Rows("leak_masking_response")]
    locality: Annotated[Table, Rows("leak_locality")]


@step("leakage.mask_pictures", version="2")
def mask_pictures(
    ctx: StepContext,
    *,
    images: PartImages,
    parts: Annotated[list[str] | None, Field(min_length=1, description="parts to hide; default: all")] = None,
    images_per_pair: Annotated[int, Field(ge=1, description="pictures drawn for each pair of parts and draw")] = 100,
    draws: Annotated[int, Field(ge=1, le=100, description="how often pictures are drawn")] = 3,
    region: Annotated[
        Literal["mask", "keypoint"],
        Field(description="what is hidden: the part's mask, or the pixels nearest to its keypoint"),
    ] = "mask",
    radius: Annotated[
        float, Field(gt=0, le=1, description="of a keypoint's region, as a share of the picture's shorter side")
    ] = 0.3,
    fill: Annotated[
        Literal["image_mean", "dataset_mean"],
        Field(description="colour: mean of the picture, or of all that were drawn"),
    ] = "image_mean",
    split: Split = "test",
    seed: Seed = None,
    side: Annotated[
        int | None,
        Field(ge=16, le=4096, description="longer side of the written pictures at most; default: as they are"),
    ] = None,
) -> MaskedPictures:
    """Draw pictures for every pair of parts, and write them as they are and with one part hidden."""
    from runner.nodes.leakage.locality_pictures import Hiding, masked_pictures

    chosen = _parts(images, parts, ctx)
    hiding = Hiding(
        chosen, images_per_pair, draws, region, radius, fill, split, ctx.seed if seed is None else seed, side
    )  # fmt: skip
    return masked_pictures(ctx, images, hiding)


def _parts(images: PartImages, parts: list[str] | None, ctx: StepContext) -> tuple[str, ...]:
    """The parts in the order of the dataset. Raises ``StepError`` for one that it does not have."""
    import difflib

    known: list[str] = images.about["parts"]
    if parts is None:
        return tuple(known)
    for part in parts:
        if part not in known:
            near = ", ".join(difflib.get_close_matches(part, known, 3) or known[:30])
            raise StepError(
                f"parts: {images.about['dataset']} has no part {part!r}", step=ctx.step, hint=f"it has {near}"
            )
    return tuple(part for part in known if part in parts)


@step("leakage.fit_concepts", version="1")
def fit_concepts(
    ctx: StepContext,
    *,
    backbone: VisionBackbone,
    images: PartImages,
    pool: Annotated[
        Literal["cls", "mean"],
        Field(description="feature of the whole picture: the CLS token, or the mean over patches"),
    ] = "cls",
    layer: Annotated[int, Field(ge=-100, le=100, description="0 = patch embedding; -1 = the last layer")] = -1,
    penalty: Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="C of the logistic regression, as in scikit-learn: smaller = smaller weights",
        ),
    ] = 1.0,
    split: Split = "train",
    batch_size: BatchSize = 64,
) -> ConceptHead:
    """Fit one logistic regression an attribute on frozen features of whole pictures: a concept predictor to be audited."""
    from runner.nodes.leakage.locality_fitting import fit_head

    return ConceptHead(*fit_head(
        ctx, backbone, images, pool=pool, layer=layer, c=penalty, split=split, batch_size=batch_size
    ))  # fmt: skip


@step("leakage.answer", version="1")
def answer(
    ctx: StepContext,
    *,
    predictor: Classifier | ImageTextEncoder,
    pictures: MaskedPictures,
    concepts: Annotated[
        dict[str, Text | YesNoTexts] | None,
        Field(
            min_length=1,
            description="by attribute: a label of the classifier (default: the same name), or {yes: [texts], no: [texts]} for an "
            "image-text encoder",
        ),
    ] = None,
    label: Label = None,
    batch_size: BatchSize = 64,
) -> ConceptAnswers:
    """Ask a concept predictor about pictures as they are and with one part hidden."""
    from runner.nodes.leakage.locality_answers import (
        check_attributes,
        classifier_values,
        labels_for,
        zero_shot_values,
    )

    attributes: list[str] = pictures.about["attributes"]
    check_attributes(list(concepts or ()), attributes, ctx.step)
    who = {"name": label or predictor.name, "identity": predictor.identity}
    from runner.data.parts.answers import answers_of

    if isinstance(predictor, Classifier):
        chosen = labels_for(_labels(concepts, ctx), attributes, predictor, ctx.step)
        found = classifier_values(ctx, predictor, pictures, list(chosen.values()), batch_size)
        return answers_of(pictures, {**who, "kind": "classifier"}, list(chosen), *found)
    sides = _sides(concepts, ctx)
    found = zero_shot_values(ctx, predictor, pictures, list(sides.values()), batch_size)
    return answers_of(pictures, {**who, "kind": "zero-shot"}, list(sides), *found)


def _labels(concepts: Mapping[str, str | YesNoTexts] | None, ctx: StepContext) -> dict[str, str] | None:
    if concepts is None:
        return None
    labels = {attribute: label for attribute, label in concepts.items() if isinstance(label, str)}
    if len(labels) < len(concepts):
        hint = "write {attribute: label}, or name an image-text encoder as predictor"
        raise StepError("concepts: a classifier has labels, not texts of yes and no", step=ctx.step, hint=hint)
    return labels


def _sides(concepts: Mapping[str, str | YesNoTexts] | None, ctx: StepContext) -> dict[str, tuple[list[str], list[str]]]:
    sides = {name: (texts.yes, texts.no) for name, texts in (concepts or {}).items() if isinstance(texts, YesNoTexts)}
    if not sides or len(sides) < len(concepts or ()):
        hint = "write concepts: {attribute: {yes: [a photo of a red beak], no: [a photo of a beak that is not red]}}"
        raise StepError("concepts: an image-text encoder needs texts of yes and no", step=ctx.step, hint=hint)
    return sides


@step("leakage.perturb", version="2")
def perturb(
    ctx: StepContext,
    *,
    predictor: Classifier,
    images: PartImages,
    pictures: Annotated[int, Field(ge=1, description="pictures at most, drawn with the run's seed")] = 50,
    split: Split = "test",
    epsilon: Annotated[float, Field(gt=0, le=1, description="largest change of a pixel, of 0..1")] = 8 / 255,
    steps: Annotated[int, Field(ge=1, le=1000, description="gradient steps in each direction")] = 10,
    label: Label = None,
    batch_size: BatchSize = 16,
) -> Perturbed:
    """Push each concept of a differentiable predictor as far as it goes with pixels outside its part only, and with as many inside it."""
    from runner.nodes.leakage.locality_perturbing import Plan, perturbed_rows

    changes = perturbed_rows(ctx, predictor, images, Plan(pictures, split, epsilon, steps, batch_size, ctx.seed))
    settings = {"pictures": pictures, "split": split, "epsilon": epsilon, "steps": steps}
    who = {"name": label or predictor.name, "identity": predictor.identity, "kind": "classifier"}
    return Perturbed(images.about, settings, who, changes)


@step("leakage.locality", version="2")
def locality(
    ctx: StepContext,
    *,
    answers: list[ConceptAnswers],
    perturbed: list[Perturbed] | None = None,
    resamples: Annotated[int, Field(ge=1, le=100_000, description="bootstrap resamples of the pictures")] = 1000,
) -> Locality:
    """Masking response by pair of parts, locality scores with intervals, and how right the predictors are on pictures as they are."""
    from results.tables import arrow_table
    from runner.nodes.leakage.locality_rows import locality_rows, perturbed_measures

    if not answers:
        raise StepError("`answers` is an empty list", step=ctx.step, hint="name steps that answer, such as [$concepts]")
    _check_names(answers, ctx)
    _check_names(perturbed or [], ctx)
    response: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for one in ctx.track(answers, unit="predictors"):
        rows = locality_rows(one, resamples=resamples, seed=ctx.seed, say=ctx.warn)
        response += rows[0]
        scores += rows[1]
    for pushed in perturbed or ():
        about = pushed.about
        who = {"dataset": about["dataset"], "predictor": pushed.predictor["name"]}
        excluded = about.get("excluded", {})
        measures = perturbed_measures(pushed.changes, excluded=excluded, resamples=resamples, seed=ctx.seed)
        scores += [who | row for row in measures]
    settings = {"resamples": resamples, "seed": ctx.seed, "predictors": [one.predictor for one in answers]}
    return Locality(settings, arrow_table("leak_masking_response", response), arrow_table("leak_locality", scores))


def _check_names(answers: Sequence[ConceptAnswers] | Sequence[Perturbed], ctx: StepContext) -> None:
    """Raises ``StepError`` where two predictors could not be told apart in the results, or one has nothing to measure."""
    names = [(one.about["dataset"], one.predictor["name"]) for one in answers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise StepError(
            f"two of the predictors are {twice[1]!r} on {twice[0]!r}", step=ctx.step,
            hint="give each its own `label` in the step that asks it",
        )  # fmt: skip
    for one in answers:
        if not (one.answers if isinstance(one, ConceptAnswers) else one.changes).num_rows:
            raise StepError(
                f"{one.predictor['name']} gave nothing to measure", step=ctx.step, hint="see the step before"
            )

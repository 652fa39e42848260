"""Steps of SITH on the weights' side. Light: imported to validate a spec.

``sith.decompose``; ``sith.edit``, ``sith.attribute_effect``; ``sith.compare``, ``sith.merge_adapter``; ``sith.recall``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from runner.artifacts import (
    AttributedImages,
    ConceptDictionary,
    EditedClip,
    HeadConcepts,
    HeadDirections,
    HeadJudgements,
    ImageFeatures,
)
from runner.context import StepContext
from runner.models.base import ClipModel
from runner.nodes.sith.attribute_effects import AttributeEffects
from runner.references import InputPath
from runner.steps import Artifact, Rows, Table, step


@dataclass(frozen=True)
class HeadComparisons(Artifact):
    """Heads of two models compared, direction by direction."""

    comparisons: Annotated[Table, Rows("sith_compare")]


@dataclass(frozen=True)
class RedirectedRecall(Artifact):
    """Recall of the safe partner in the six settings of ViSU."""

    recall: Annotated[Table, Rows("sith_recall")]


class When(BaseModel):
    """Which directions: bounds on one kind of evidence.

    ``top``: the so many with the largest |effect|; ``top_along``: the so many that push most the way all effects together push.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    score_ge: Annotated[int, Field(ge=1, le=5)] | None = None
    score_le: Annotated[int, Field(ge=1, le=5)] | None = None
    score_eq: Annotated[int, Field(ge=1, le=5)] | None = None
    effect_ge: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    share_ge: Annotated[float, Field(ge=0, le=1)] | None = None
    top: Annotated[int, Field(ge=1)] | None = None
    top_along: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> When:
        if len(self.kinds()) != 1 or (self.top is not None and self.top_along is not None):
            raise ValueError(
                "give bounds on one kind of evidence: score_ge / score_le / score_eq, effect_ge, share_ge, top or top_along"
            )
        return self

    def kinds(self) -> set[str]:
        """Kinds of evidence it has bounds on."""
        return {name.split("_")[0] for name, value in self.model_dump().items() if value is not None}


class EditRule(BaseModel):
    """Multiply the singular values of the directions that fit; the first rule that fits counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: When
    multiply: Annotated[float, Field(ge=-100, le=100)]


class Match(BaseModel):
    """Multiply the directions whose active concepts fit: by pattern, by name, or by likeness to a text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    regex: Annotated[str, Field(min_length=1, max_length=500, description="Python pattern, searched in each concept")] | None = None  # fmt: skip
    concepts: Annotated[list[str], Field(min_length=1, description="concepts, upper and lower case alike")] | None = (
        None
    )
    text: Annotated[str, Field(min_length=1, max_length=500, description="concepts whose embedding is near this text's")] | None = None  # fmt: skip
    cosine: Annotated[float, Field(ge=-1, le=1, description="how near, for `text`")] = 0.8
    multiply: Annotated[float, Field(ge=-100, le=100, description="0 removes, above 1 amplifies")] = 0.0

    @model_validator(mode="after")
    def _one_way(self) -> Match:
        import re

        if sum(way is not None for way in (self.regex, self.concepts, self.text)) != 1:
            raise ValueError("give one of regex, concepts and text")
        try:
            re.compile(self.regex or "")
        except re.error as error:
            raise ValueError(f"this is no pattern: {error}") from None
        return self


class TaskRule(BaseModel):
    """Classes of the preset `task` and how strongly directions near them are kept (supplement A.7's values as defaults)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    template: Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$", description="with {} where the class goes")] = "{}"
    class_k: Annotated[int, Field(ge=1, le=1000, description="concepts a class")] = 10
    coherence: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.3
    filter_classes: Annotated[bool, Field(description="leave out concepts that are a class name, letter by letter")] = (
        True
    )
    offset: Annotated[float, Field(ge=-10, le=10)] = 0.3
    minimum: Annotated[float, Field(ge=-10, le=10)] = 0.8
    maximum: Annotated[float, Field(ge=-10, le=10)] | None = None


def _something(match: Match | None, info: ValidationInfo) -> Match | None:
    """Refuse an edit that nothing decides. A parameter that was refused itself is not known here."""
    known = info.data or {}
    if match is None and all(name in known and known[name] is None for name in ("param_preset", "param_rules")):
        raise ValueError("nothing says what to edit: give preset, rules or match")
    return match


Layers = Annotated[list[int], Field(min_length=1, description="blocks from 0, or from the end: -1 is the last")]
Heads = Annotated[Literal["all"] | list[int], Field(description="all, or numbers from 0")]
FoldLn = Annotated[bool, Field(description="fold ln_1 into the weights and centre them; the model stays the same")]
Rank = Annotated[int | None, Field(ge=1, description="directions a head; default: all")]
MeanFile = Annotated[InputPath | None, Field(description="image mean [dim] as .npy or .safetensors")]
LAST_FOUR = [-4, -3, -2, -1]


@step("sith.decompose", version="2")
def decompose(
    ctx: StepContext,
    *,
    clip: ClipModel,
    layers: Layers = LAST_FOUR,
    heads: Heads = "all",
    fold_ln: FoldLn = True,
    rank: Rank = None,
    side: Annotated[Literal["right", "left", "both"], Field(description="what is written, read, or both")] = "right",
    ln_post: Annotated[
        Literal["full", "no_bias", "linear"], Field(description="how vectors pass the final norm; full = published")
    ] = "full",
    centre: Annotated[bool, Field(description="take the image mean off in the joint space")] = True,
    features: Annotated[ImageFeatures | None, Field(description="image mean = mean of these embeddings")] = None,
    mean_file: MeanFile = None,
    dictionary: Annotated[ConceptDictionary | None, Field(description="image mean = mean of its texts (ours)")] = None,
    image_mean: Annotated[Literal["zero"] | None, Field(description="zero: no image mean")] = None,
    minus: Annotated[
        ClipModel | None, Field(description="directions of the difference to this model's weights")
    ] = None,
) -> HeadDirections:
    """Singular vectors of the heads' value-output matrices, and where they point in the joint image-text space."""
    from pathlib import Path

    from runner.nodes.sith.comparing import check_comparable
    from runner.nodes.sith.decomposing import directions_of, reading_of
    from runner.nodes.sith.decomposing import image_mean as mean_of

    reading = reading_of(clip.network.visual, layers, heads, fold_ln, rank, side, ln_post, centre)
    if minus is not None:
        check_comparable(clip, minus)
    file = None if mean_file is None else Path(mean_file)
    mean = mean_of(ctx, clip, features, file, dictionary, image_mean == "zero", centre)
    return directions_of(ctx, clip, minus, reading, mean)


@step("sith.edit", version="3")
def edit(
    ctx: StepContext,
    *,
    clip: ClipModel,
    directions: HeadDirections,
    preset: Annotated[
        Literal["spurious", "nsfw", "task", "reconstruction"] | None, Field(description="a published edit")
    ] = None,
    rules: Annotated[list[EditRule] | None, Field(min_length=1, description="own rules instead of a preset")] = None,
    match: Annotated[
        Match | None,
        Field(description="by concept; comes before `rules`", validate_default=True),
        AfterValidator(_something),
    ] = None,
    task: Annotated[TaskRule | None, Field(description="for the preset task")] = None,
    judgements: HeadJudgements | None = None,
    decisions: Annotated[
        InputPath | None, Field(description='scores as JSON {"<layer>": [heads x rank]} instead of judgements')
    ] = None,
    effects: AttributeEffects | None = None,
    concepts: HeadConcepts | None = None,
    dictionary: ConceptDictionary | None = None,
    top_n_per_head: Annotated[
        int | None,
        Field(
            ge=1,
            description="change at most so many directions a head: first those of match, then of the kinds of evidence in the order of the rules",
        ),
    ] = None,
    max_unscored: Annotated[
        float, Field(ge=0, le=1, description="share of lists without a score that is allowed")
    ] = 0.05,
    truncate: Annotated[bool, Field(description="drop the directions beyond the rank that was decomposed")] = False,
    keep_means: Annotated[
        bool,
        Field(
            description="put back what changed directions add on average over the pictures of `effects` (activations); ours"
        ),
    ] = False,
    dry_run: Annotated[bool, Field(description="list what would change; write no weights")] = False,
) -> EditedClip:
    """Rescale singular values of the heads and write the model as a checkpoint that stock open_clip loads."""
    from runner.nodes.sith.deciding import Inputs, edited

    inputs = Inputs(preset, rules, match, task, judgements, decisions, effects, concepts, dictionary, top_n_per_head, max_unscored)  # fmt: skip
    return edited(ctx, clip, directions, inputs, truncate=truncate, keep_means=keep_means, dry_run=dry_run)


@step("sith.attribute_effect", version="3")
def attribute_effect(
    ctx: StepContext,
    *,
    clip: ClipModel,
    directions: HeadDirections,
    attribute: Annotated[str, Field(min_length=1, max_length=200)],
    features: ImageFeatures | None = None,
    images: AttributedImages | None = None,
    texts: Annotated[
        dict[str, list[str]] | None, Field(min_length=2, description="prompts by value, instead of pictures")
    ] = None,
    within_classes: Annotated[
        bool, Field(description="compare pictures of the same class, so that the class itself is not counted")
    ] = True,
    splits: Annotated[
        list[Literal["train", "val", "test"]] | None, Field(min_length=1, description="default: all")
    ] = None,
    evidence: Annotated[
        Literal["weights", "activations"],
        Field(description="what directions can write, or what they do write on pictures that differ in the attribute"),
    ] = "weights",
    margin: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=500)]] | None,
        Field(min_length=2, max_length=2, description="texts of two classes: effects on first - second instead of on the attribute's direction"),
    ] = None,
) -> AttributeEffects:  # fmt: skip
    """Which directions carry an attribute (ours): what they write, or do on pictures, along its direction or a margin."""
    from runner.errors import DataError
    from runner.nodes.sith.attributing import effects_by_images, effects_by_texts
    from runner.nodes.sith.editing import check_editable

    check_editable(clip, directions)
    activations = evidence == "activations"
    if texts is not None and features is None and images is None and not activations:
        return effects_by_texts(clip, directions, attribute, texts, margin)
    if texts is None and features is not None and images is not None:
        return effects_by_images(
            ctx, clip, directions, attribute, features, images,
            within_classes=within_classes, splits=splits, activations=activations, margin=margin,
        )  # fmt: skip
    by = "pictures" if activations else "pictures or by prompts"
    hint = "Give features and images." if activations else "Give features and images, or texts."
    raise DataError(f"sith.attribute_effect goes by {by}", hint=hint)


@step("sith.compare", version="2")
def compare(
    ctx: StepContext,
    *,
    clip: ClipModel,
    other: ClipModel,
    layers: Layers = LAST_FOUR,
    heads: Heads = "all",
    fold_ln: FoldLn = True,
    rank: Rank = None,
    concepts: HeadConcepts | None = None,
    other_concepts: HeadConcepts | None = None,
) -> HeadComparisons:
    """Compare the heads of two models: which directions stayed, which were re-weighted, how much is new (our measures)."""
    from results.tables import arrow_table
    from runner.errors import DataError
    from runner.nodes.sith.comparing import check_comparable, compare_rows, concept_sets
    from runner.nodes.sith.decomposing import reading_of

    check_comparable(clip, other)
    if (concepts is None) != (other_concepts is None):
        raise DataError(
            "concepts of one model alone cannot be compared", hint="Give concepts and other_concepts, or none."
        )
    sets = None
    if concepts is not None and other_concepts is not None:
        sets = (concept_sets(concepts, clip), concept_sets(other_concepts, other))
    reading = reading_of(clip.network.visual, layers, heads, fold_ln, rank, "right", "full", False)
    rows = [
        row for at in ctx.track(reading.layers, unit="layers") for row in compare_rows(clip, other, at, reading, sets)
    ]
    return HeadComparisons(arrow_table("sith_compare", rows))


@step("sith.merge_adapter", version="1")
def merge_adapter(
    ctx: StepContext,
    *,
    clip: ClipModel,
    adapter: Annotated[InputPath, Field(description="folder with adapter_config.json and adapter_model.safetensors")],
) -> EditedClip:
    """Merge a LoRA adapter of the attention into the weights, to decompose or compare the fine-tuned model."""
    from pathlib import Path

    from results.tables import arrow_table
    from runner.nodes.sith.checkpoint import write_state
    from runner.nodes.sith.lora import merged_state

    folder, source = ctx.folder("checkpoint"), Path(adapter)
    summary = {"rule": f"LoRA adapter {source.name}", "small": clip.small}
    write_state(folder, clip, merged_state(clip.network, source), {"format": 1, "model": clip.name, "summary": summary})
    return EditedClip(folder, summary, arrow_table("sith_edit", []))


@step("sith.recall", version="1")
def recall(
    ctx: StepContext,
    *,
    clip: ClipModel,
    features: ImageFeatures,
    images: Annotated[AttributedImages, Field(description="pairs with the attributes `safety` and `caption`")],
    split: Literal["train", "val", "test"] = "test",
    ks: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [1, 5, 10],  # noqa: B006
) -> RedirectedRecall:
    """How often safe and unsafe queries find the safe partner, in the six settings of ViSU."""
    from results.tables import arrow_table
    from runner.nodes.sith.recalling import recall_rows

    return RedirectedRecall(arrow_table("sith_recall", recall_rows(ctx, clip, features, images, split, ks)))

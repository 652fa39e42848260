"""Steps that check an audit: ``c2b.ground_truth``, ``c2b.evaluate``, ``c2b.agreement``, ``c2b.b2t``. Light.

These need labelled pictures, which an audit never does. Signs: phi, true scores and the labeller's scores are positive
where the classifier *favours* a value; a score of Bias-to-Text is positive for a bias *against* its keyword.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from runner.artifacts import Captions, Verdicts
from runner.context import StepContext
from runner.data.sources.specs import Corpus
from runner.errors import StepError
from runner.models.base import ChatModel, Classifier, ImageTextEncoder, SentenceEncoder
from runner.nodes.bias.datasets.specs import CelebaFolder, DatasetSpec, ImagenetXFolder
from runner.steps import Artifact, Cost, Rows, Table, step

if TYPE_CHECKING:
    from runner.nodes.bias.b2t_audit import LabelledClasses
    from runner.nodes.bias.datasets.base import LabelledImages
    from runner.nodes.bias.evaluation_matches import Found

LabelMapping = Annotated[dict[str, str], Field(description="label -> class of the task; several may mean one class")]
Names = Annotated[list[str], Field(min_length=1, description="classes or attributes to take; default: all")]
Confidence = Annotated[float, Field(gt=0.5, lt=1)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True)
class GroundTruth(Artifact):
    """True bias scores of one classifier on one labelled data set, and what it said of every picture of its targets.

    ``corpus``: the pictures, as ``runner.data.sources.open_sources`` takes them.
    """

    dataset: str
    targets: list[str]
    corpus: list[dict[str, Any]]
    biases: Annotated[Table, Rows("c2b_ground_truth")]
    predictions: Annotated[Table, Rows("c2b_prediction")]


@dataclass(frozen=True)
class KeywordBiases(Artifact):
    """Keywords of Bias-to-Text per class. A positive score is a bias *against* the keyword: the opposite sign of phi."""

    targets: list[str]
    keywords: Annotated[Table, Rows("c2b_b2t")]


@dataclass(frozen=True)
class Evaluated(Artifact):
    """Which found biases match true ones, and the hit rates in both directions."""

    matches: Annotated[Table, Rows("c2b_match")]
    rates: Annotated[Table, Rows("c2b_eval")]


@dataclass(frozen=True)
class Agreement(Artifact):
    """How far an audit agrees with a labeller that looked at real labelled pictures."""

    agreements: Annotated[Table, Rows("c2b_agreement")]


def _pictures_cost(params: Mapping[str, Any]) -> Cost:
    """How many pictures there are stands in files that are read later."""
    return Cost(images=None, bytes=None)


def _looking_cost(params: Mapping[str, Any]) -> Cost:
    """How many questions there are depends on the pictures."""
    return Cost(llm_calls=None, images=None, bytes=None)


def open_dataset(spec: CelebaFolder | ImagenetXFolder) -> LabelledImages:
    """Read the labels of a data set. Raises ``DataError`` naming file and line where they are malformed."""
    from pathlib import Path

    from runner.nodes.bias.datasets.celeba import open_celeba
    from runner.nodes.bias.datasets.imagenet_x import open_imagenet_x

    if isinstance(spec, CelebaFolder):
        return open_celeba(Path(spec.celeba), split=spec.split, limit=spec.limit)
    return open_imagenet_x(Path(spec.imagenet_x), Path(spec.images), limit=spec.limit)


@step("c2b.ground_truth", version="1", estimate=_pictures_cost)
def ground_truth(
    ctx: StepContext,
    *,
    classifier: Classifier,
    dataset: DatasetSpec,
    targets: Names | None = None,
    label_map: LabelMapping = {},  # noqa: B006
    caption: Annotated[
        str, Field(pattern=r"\{bias\}", description="sentence for a true bias, with {target} and {bias}")
    ] = "a photo of {target} with {bias}",
    captions: Annotated[
        dict[str, str], Field(description="sentences of their own for some biases: darker: a dark photo of {target}")
    ] = {},  # noqa: B006
    confidence: Confidence = 0.95,
    batch_size: BatchSize = 64,
) -> GroundTruth:
    """Measure the true biases of a classifier on CelebA or ImageNet-X: its accuracy with each attribute minus without.

    The classifier runs once on each picture; the counting is matrix products (19,867 pictures x 40 x 40: milliseconds).
    """
    from results.tables import arrow_table
    from runner.nodes.bias.evaluation_truth import CaptionWording, corpus_of, measure, truth_rows

    images = open_dataset(dataset)
    measured = measure(ctx, classifier, images, targets=targets, label_map=label_map, batch_size=batch_size)
    rows = truth_rows(
        measured, images.biases, CaptionWording(caption, captions),
        dataset=images.name, classifier=classifier.name, confidence=confidence,
    )  # fmt: skip
    if not rows:
        ctx.warn("no true bias is defined: too few pictures show the targets on both sides of any attribute")
    return GroundTruth(
        images.name, measured.targets, corpus_of(images), arrow_table("c2b_ground_truth", rows), measured.predictions
    )


@step("c2b.evaluate", version="1")
def evaluate(
    ctx: StepContext,
    *,
    verdicts: Verdicts | KeywordBiases,
    truth: GroundTruth,
    sentences: SentenceEncoder,
    captions: Captions | None = None,
    caption: Annotated[
        str, Field(description="sentence for a group without captions, with {target}, {attribute} and {value}")
    ] = "a photo of {target} with {value}",
    rule: Annotated[
        Literal["point", "verdict"],
        Field(description="detected is |score| > threshold (point: the paper), or a finding of the audit (verdict)"),
    ] = "point",
    threshold: Annotated[float, Field(ge=0, description="a score counts from strictly above this size")] = 0.05,
    match_above: Annotated[
        float, Field(ge=-1, le=1, description="captions match from strictly above this cosine")
    ] = 0.9,
    confidence: Confidence = 0.95,
) -> Evaluated:
    """Match what was found with the true biases and rate it in both directions: hits, false hits, misses.

    The paper embeds with all-mpnet-base-v2. Keywords of Bias-to-Text are taken with their sign turned.
    """
    from results.tables import arrow_table
    from runner.nodes.bias.evaluation_matches import EvaluationRules, common_targets
    from runner.nodes.bias.evaluation_matches import evaluate as match_and_rate

    found = _found(verdicts, captions, caption, rule, threshold)
    targets = common_targets(truth.targets, verdicts.targets)
    left_out = sorted(set(verdicts.targets) - set(targets))
    if left_out:
        ctx.warn(f"{len(left_out)} audited classes are no targets of the ground truth", item=left_out[0])
    done = match_and_rate(
        truth.biases.to_pylist(), found, targets, sentences.encode, EvaluationRules(threshold, match_above, confidence)
    )
    return Evaluated(arrow_table("c2b_match", done.matches), arrow_table("c2b_eval", done.rates))


def _found(
    verdicts: Verdicts | KeywordBiases,
    captions: Captions | None,
    template: str,
    rule: Literal["point", "verdict"],
    threshold: float,
) -> list[Found]:
    from runner.nodes.bias.evaluation_matches import found_groups, found_keywords

    if isinstance(verdicts, KeywordBiases):
        return found_keywords(verdicts.keywords.to_pylist(), threshold)
    written = captions.captions.to_pylist() if captions is not None else []
    return found_groups(verdicts.groups.to_pylist(), written, template, threshold=threshold, rule=rule)


@step("c2b.agreement", version="1", estimate=_looking_cost, tags=frozenset({"llm"}))
async def agreement(
    ctx: StepContext,
    *,
    llm: ChatModel,
    verdicts: Verdicts,
    truth: GroundTruth,
    sentences: SentenceEncoder,
    question: Annotated[
        str, Field(pattern=r"\{choices\}", description="asked of every picture, with {attribute} and {choices}")
    ] = "Which {attribute} does this picture show: {choices}? Answer with one of these and nothing else.",
    pictures_per_target: Annotated[int, Field(ge=1, description="drawn at random; null = all, as the paper does")]
    | None = 100,
    t: Annotated[float, Field(ge=0, lt=1, description="a score is large from this size on")] = 0.05,
    side: Annotated[int, Field(ge=16, le=4096, description="longest side of the picture shown, pixels")] = 336,
    max_tokens: Annotated[int, Field(ge=1, le=1024, description="of a free answer")] = 32,
) -> Agreement:
    """Check an audit with a vision-language model that labels real pictures by multiple choice.

    Only pictures that truly show a target are asked about, with the true labels of the data set.
    """
    import asyncio

    from results.tables import arrow_table
    from runner.data.places import read_pictures
    from runner.data.sources import open_sources
    from runner.nodes.bias import evaluation_labeller as labeller
    from runner.nodes.bias.evaluation_matches import common_targets

    targets = common_targets(truth.targets, verdicts.targets)
    right = _right_by_target(truth)
    correct = {audited: right.get(name, {}) for audited, name in targets.items()}
    shown = {
        target: labeller.sampled(list(places), pictures_per_target, ctx.seed, "agreement", target)
        for target, places in correct.items()
    }
    audited = [a for a in labeller.audited_attributes(verdicts.groups.to_pylist()) if a.target in targets]
    questions = labeller.questions_by_place(audited, shown, question)
    looking = labeller.Looking("c2b.agreement", side, max_tokens)
    pictures = read_pictures(open_sources(truth.corpus), questions)
    answers = await labeller.ask_about_pictures(llm, pictures, questions, ctx, looking)
    rows = await asyncio.to_thread(
        labeller.agreement_rows, audited, correct, shown, answers, question, sentences.encode, t
    )
    return Agreement(arrow_table("c2b_agreement", rows))


def _right_by_target(truth: GroundTruth) -> dict[str, dict[Any, bool]]:
    """{target: {picture: right}} over the pictures that truly show the target."""
    from runner.data.places import Place

    columns = (truth.predictions[name].to_pylist() for name in ("target", "source_id", "uri", "correct"))
    right: dict[str, dict[Any, bool]] = {}
    for target, source_id, uri, correct in zip(*columns, strict=True):
        right.setdefault(target, {})[Place(source_id, uri)] = correct
    return right


@step("c2b.b2t", version="1", estimate=_looking_cost, tags=frozenset({"llm"}))
async def b2t(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    images: GroundTruth | Corpus,
    classifier: Classifier | None = None,
    llm: ChatModel | None = None,
    targets: Names | None = None,
    label_map: LabelMapping = {},  # noqa: B006
    top: Annotated[int, Field(ge=1, le=1000, description="keywords of a class")] = 20,
    template: Annotated[
        str, Field(pattern=r"\{keyword\}", description="what the encoder compares pictures with")
    ] = "a photo of a {keyword}",
    question: Annotated[
        str, Field(min_length=1, description="how llm is asked for a caption")
    ] = "Describe this picture in one short sentence.",
    side: Annotated[int, Field(ge=16, le=4096, description="longest side of the picture shown, pixels")] = 336,
    max_tokens: Annotated[int, Field(ge=1, le=1024, description="of a caption")] = 64,
    confidence: Confidence = 0.95,
    batch_size: BatchSize = 64,
) -> KeywordBiases:
    """Bias-to-Text, the baseline that needs labels: keywords in the captions of a class's wrongly classified pictures.

    Captions come with the pictures or are written by ``llm``. A *positive* score is a bias against the keyword, the
    opposite sign of phi. ``images``: a c2b.ground_truth, or labelled sources together with ``classifier``.
    """
    import asyncio

    from results.tables import arrow_table
    from runner.data.places import read_pictures
    from runner.data.sources import open_sources
    from runner.nodes.bias.b2t import keyword_extractor
    from runner.nodes.bias.b2t_audit import KeywordRules, keyword_rows
    from runner.nodes.bias.evaluation_labeller import Looking, ask_about_pictures
    from runner.nodes.embedding import ImageTower, embed

    keyword_extractor()  # where it is missing, before anything is spent
    sources = open_sources(images.corpus if isinstance(images, GroundTruth) else images)
    classes = await asyncio.to_thread(_classes, ctx, images, sources, classifier, label_map, targets, batch_size)
    if llm is None and isinstance(images, GroundTruth):
        await asyncio.to_thread(_read_captions, ctx, sources, classes)
    if llm is not None:
        questions = {place: [question] for place in classes.places}
        looking = Looking("c2b.b2t", side, max_tokens)
        told = await ask_about_pictures(llm, read_pictures(sources, questions), questions, ctx, looking)
        classes.captions = {place: text for (place, _), text in told.items()}
    _require_captions(ctx, classes)
    embedded = await asyncio.to_thread(embed, ctx, ImageTower(encoder), sources, classes.places, batch_size)
    rules = KeywordRules(top, template, confidence)
    rows = await asyncio.to_thread(keyword_rows, ctx, classes, embedded.vectors, encoder, rules)
    return KeywordBiases(list(classes.correct), arrow_table("c2b_b2t", rows))


def _classes(
    ctx: StepContext,
    images: Any,
    sources: Any,
    classifier: Classifier | None,
    label_map: Mapping[str, str],
    targets: list[str] | None,
    batch_size: int,
) -> LabelledClasses:
    """Which pictures show which class, and whether they were classified right."""
    from runner.nodes.bias.b2t_audit import LabelledClasses, judged_classes

    if not isinstance(images, GroundTruth):
        if classifier is None:
            raise StepError("labelled sources need a classifier", step=ctx.step, hint="Write `classifier: $name`.")
        return judged_classes(ctx, classifier, sources, label_map, targets, batch_size)
    right = _right_by_target(images)
    unknown = [name for name in targets or () if name not in right]
    if unknown:
        hint = f"Those with pictures: {', '.join(right)}."
        raise StepError(f"targets: the ground truth has no pictures of {unknown[0]!r}", step=ctx.step, hint=hint)
    return LabelledClasses({name: right[name] for name in targets or right})


def _read_captions(ctx: StepContext, sources: Any, classes: LabelledClasses) -> None:
    """Note the captions that came with the pictures."""
    from runner.nodes.bias.b2t_audit import captioned_pictures

    for _ in captioned_pictures(sources, set(classes.places), classes.captions):
        ctx.check()


def _require_captions(ctx: StepContext, classes: LabelledClasses) -> None:
    without = [place for place in classes.places if place not in classes.captions]
    if without and len(without) == len(classes.places):
        raise StepError(
            "no labelled picture has a caption",
            step=ctx.step,
            hint="Put NAME.txt beside NAME.jpg, or give a vision-language model: `llm: $name`.",
        )
    if without:
        ctx.warn(f"{len(without)} pictures have no caption: no keyword can come from them", item=without[0].uri)

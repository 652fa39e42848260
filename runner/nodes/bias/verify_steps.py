"""Step ``c2b.verify``: does each retrieved picture show its target? Light: imported to validate a spec."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from runner.artifacts import CheckedTargets, RetrievedImages
from runner.context import StepContext
from runner.data.sources.specs import Corpus
from runner.models.base import ChatModel, Classifier
from runner.steps import Cost, step

if TYPE_CHECKING:
    from runner.nodes.bias.members import Member
    from runner.nodes.bias.verification import Answers
    from runner.nodes.bias.verify import Calibration, Checked, VerifyOptions

Row = dict[str, Any]


def _verify_cost(params: Mapping[str, Any]) -> Cost:
    """How many pictures there will be depends on the retrieval."""
    return Cost(llm_calls=None, images=None, bytes=None)


@step("c2b.verify", version="2", estimate=_verify_cost)
async def verify(
    ctx: StepContext,
    *,
    images: RetrievedImages,
    verifier: Classifier | ChatModel,
    calibration: Annotated[
        Corpus | None,
        Field(description="labelled pictures that the audit does not use; tells how good the verifier is"),
    ] = None,
    calibration_label_map: Annotated[
        dict[str, str], Field(description="label of the calibration pictures -> class of the task")
    ] = {},  # noqa: B006
    label_map: Annotated[dict[str, str], Field(description="label of the verifier -> class of the task")] = {},  # noqa: B006
    reject: Annotated[
        bool, Field(description="leave out of the assessment what the verifier does not recognise")
    ] = True,
    min_probability: Annotated[
        float, Field(gt=0, lt=1, description="least probability of a yes, for classifiers without calibration")
    ] = 0.5,
    per_class: Annotated[int, Field(ge=10, le=10_000, description="calibration pictures of each class, at most")] = 100,
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 64,
) -> CheckedTargets:
    """Let a model that is neither the retriever nor the audited one check what the retrieved pictures show.

    A classifier recognises a target by all its labels that are kinds of it (WordNet); a vision-language model is asked about
    each picture, and for the value it shows. How often it errs, and a classifier on which classes, is measured on
    ``calibration``. Without that no share of wrong pictures is estimated. Use no verifier of the audited model's own family: what the two misread alike would be left out.
    """
    from runner.data.sources import open_sources
    from runner.nodes.bias.verify import ClassifierVerifier, VerifyOptions
    from runner.nodes.bias.vlm import ChatVerifier

    options = VerifyOptions(reject, min_probability, label_map, calibration_label_map, per_class, batch_size)
    sources = open_sources(images.corpus)
    known = None if calibration is None else _calibration(ctx, images, calibration, options)
    _warn_of_dependence(ctx, verifier, images, calibrated=known is not None)
    if isinstance(verifier, ChatModel):
        checked = await ChatVerifier(ctx, verifier, images, options).check(sources, known)
    else:
        judge = await asyncio.to_thread(ClassifierVerifier, ctx, verifier, images, options)
        checked = await asyncio.to_thread(judge.check, sources, known)
    _warn_of_unusable(ctx, checked)
    return _artifact(images, checked, options)


def _calibration(ctx: StepContext, images: RetrievedImages, corpus: Any, options: VerifyOptions) -> Calibration:
    from runner.data.sources import open_sources
    from runner.nodes.bias.verify import calibration_sample, retrieved_places, task_classes

    return calibration_sample(
        open_sources(corpus), task_classes(images.task), options.calibration_label_map,
        per_class=options.per_class, seed=ctx.seed,
        audited=(place for places in retrieved_places(images).values() for place in places),
    )  # fmt: skip


def _warn_of_dependence(
    ctx: StepContext, verifier: Classifier | ChatModel, images: RetrievedImages, *, calibrated: bool
) -> None:
    family = getattr(verifier, "encoder_family", None)
    if family and family == images.encoder.get("family"):
        ctx.warn(
            f"the verifier and the retriever are both {family}: it will find on the pictures what they were retrieved for"
        )
    if not calibrated:
        ctx.warn(
            "the verifier was not tried on labelled pictures (calibration): what it does not recognise is left out, but how "
            "many wrong pictures remain is not known"
        )


def _warn_of_unusable(ctx: StepContext, checked: Checked) -> None:
    for row in checked.verifier:
        if not row["usable"]:
            ctx.warn(f"pictures of {row['target']!r} are not checked: {row['reason']}", item=row["target"])


def _artifact(images: RetrievedImages, checked: Checked, options: VerifyOptions) -> CheckedTargets:
    from results.tables import arrow_table
    from runner.nodes.bias.verification import precision_rows, quality_of

    qualities = {row["target"]: quality_of(row) for row in checked.verifier}
    checks = [
        {**place._asdict(), "target": target, "shows": shows, "score": checked.scores.get((target, place))}
        for (target, place), shows in sorted(checked.shows.items())
    ]
    values = [
        {**place._asdict(), "target": target, "attribute": attribute, "value": value}
        for (target, place, attribute), value in sorted(checked.values.items(), key=lambda item: item[0])
    ]
    precisions = precision_rows(
        answers_by_group(images, checked, reject=options.reject), qualities, reject=options.reject
    )
    return CheckedTargets(
        rejects=options.reject,
        verifier=arrow_table("c2b_verifier", checked.verifier),
        checks=arrow_table("c2b_target_check", checks),
        value_checks=arrow_table("c2b_value_check", values),
        precisions=arrow_table("c2b_precision", precisions),
    )


def answers_by_group(images: RetrievedImages, checked: Checked, *, reject: bool) -> list[Answers]:
    """What the verifier said about each caption group of the first draw of proposals, neutral pictures included.

    Values are counted among the pictures that stay in the assessment.
    """
    from runner.nodes.bias.audit import kept_rows
    from runner.nodes.bias.members import members_of

    captions = [c for c in images.captions.to_pylist() if c["resample"] == 0]
    ids = {c["caption_id"] for c in captions}
    groups: dict[tuple[str, str | None, str | None], list[Member]] = {
        (c["target"], c["attribute"], c["value"]): [] for c in captions
    }
    for member in members_of(captions, (row for row in kept_rows(images) if row["caption_id"] in ids)):
        groups[member.target, member.attribute, member.value].append(member)
    order = sorted(groups, key=lambda name: tuple(part or "" for part in name))
    return [_group_answers(name, groups[name], checked, reject=reject) for name in order]


def _group_answers(
    name: tuple[str, str | None, str | None], members: Sequence[Member], checked: Checked, *, reject: bool
) -> Answers:
    from runner.nodes.bias.verification import Answers

    target, attribute, value = name
    said = [checked.shows.get((target, m.place)) for m in members]
    staying = [m for m, shows in zip(members, said, strict=True) if not (reject and shows is False)]
    keys = [(target, m.place, attribute) for m in staying] if attribute is not None else []
    seen = [checked.values[key] for key in keys if key in checked.values]
    counts = said.count(True), said.count(False), said.count(None)
    right = sum(one == value for one in seen)
    scores = tuple(checked.scores[target, m.place] for m in members if (target, m.place) in checked.scores)
    return Answers(target, attribute, value, "caption", *counts, len(seen), right, scores)

"""The assessment from retrieved pictures to rows: predict, judge, count, gate, assess. Where files are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow.compute as pc

from results.tables import arrow_table
from runner.artifacts import RetrievedImages, Verdicts
from runner.context import StepContext
from runner.data.images import UnreadableImage, decode, thumbnail
from runner.data.places import Place, read_pictures
from runner.data.sources import Source, open_sources
from runner.errors import StepError
from runner.models.base import Classifier
from runner.nodes.bias.assess import Rules, TargetCheck, Trials, assess_groups
from runner.nodes.bias.evidence import Evidence
from runner.nodes.bias.grid import CheckedShares, GroupName
from runner.nodes.bias.labels import Compete, LabelMap, judge_images, map_labels
from runner.nodes.bias.members import (
    Doubt,
    Member,
    count_groups,
    gate_rows,
    group_names,
    member_order,
    members_of,
    pick_examples,
)
from runner.nodes.bias.sampling import Sampler, shuffled
from runner.nodes.predicting import Outputs, predict

Row = dict[str, Any]
Predictions: TypeAlias = dict[tuple[str, Place], Row]

THUMBNAIL_SIDE = 160
_GATE_HINT = (
    "The most common causes: another order of classes or channels, missing normalisation, another input size. "
    "Check the model's preprocessing and label_map; gate: warn goes on in spite of it."
)


@dataclass(frozen=True)
class AuditOptions:
    """What the step's parameters say beside the statistical rules."""

    prediction: str = "top1"
    compete: Compete = "all"
    label_map: Mapping[str, str] | None = None
    examples_per_group: int = 12
    batch_size: int = 64
    stop_at_gate: bool = True
    checked: Mapping[GroupName, CheckedShares] | None = None


def audit(
    ctx: StepContext,
    classifier: Classifier,
    images: RetrievedImages,
    rules: Rules,
    options: AuditOptions,
    evidence: Evidence | None = None,
) -> Verdicts:
    """Run the whole assessment, neutral pictures first.

    Raises ``StepError`` where the classifier is not above chance on these, before the others are run.
    """
    evidence = evidence or Evidence()
    for note in dict.fromkeys(classifier.notes):
        ctx.warn(note)
    warn_of_kinship(ctx, classifier, images.encoder)
    captions = images.captions.to_pylist()
    members = evidence.accepted(members_of(captions, kept_rows(images)))
    members = sorted([*members, *evidence.measured_members()], key=member_order)
    judging = Judging(ctx, classifier, images, options, open_sources(images.corpus))
    main = [m for m in members if m.resample == 0]
    neutral = [m for m in main if m.attribute is None]
    predictions = judging.judged(neutral)
    gate = gate_rows(neutral, right_in(predictions), images.targets, chance_of(images.task), rules.confidence)
    _stop_at_gate(ctx, gate[0], stop=options.stop_at_gate and not rules.paper_mode)
    names = group_names(c for c in captions if c["resample"] == 0) + evidence.measured_names()
    shares, doubts, trials = evidence.shares() | dict(options.checked or {}), evidence.doubts(), None
    if rules.sampling == "adaptive":
        hopeless = hopeless_groups(shares, doubts, rules)
        main, found, trials = sampled(judging, names, main, rules, hopeless)
        predictions |= found
        members = [m for m in members if m.resample > 0]  # further draws are compared as a whole
    predictions |= judging.judged([m for m in members if m.attribute is not None])
    _warn_of_unreadable(ctx, judging.outputs)
    counts = count_groups(names, main, right_in(predictions), shares, doubts)
    done = assess_groups(counts, rules, trials)
    picked = pick_examples(main, right_in(predictions), options.examples_per_group)
    return Verdicts(
        task=images.task,
        targets=images.targets,
        settings={**asdict(rules), "prediction": options.prediction, "compete": options.compete},
        groups=arrow_table("c2b_group", done.groups),
        tests=arrow_table("c2b_attribute_test", done.tests),
        pooled=arrow_table("c2b_pooled_test", done.pooled),
        gate=arrow_table("c2b_gate", gate),
        predictions=arrow_table("c2b_prediction", [predictions[key] for key in sorted(predictions)]),
        members=arrow_table("c2b_member", member_rows(main, predictions)),
        examples=arrow_table("c2b_example", example_rows(picked, judging.sources, predictions)),
    )


def kept_rows(images: RetrievedImages) -> list[Row]:
    """The kept rows of ``c2b_retrieval``, with what membership needs of them."""
    columns = ["caption_id", "source_id", "uri", "similarity"]
    return images.retrieval.filter(pc.field("kept")).select(columns).to_pylist()


def hopeless_groups(
    shares: Mapping[GroupName, CheckedShares], doubts: Mapping[GroupName, Doubt], rules: Rules
) -> set[GroupName]:
    """Groups that can have no verdict, whatever is counted: values that look alike, pictures without the target."""
    alike = {name for name, doubt in doubts.items() if doubt.separable is False}
    return alike | {name for name, share in shares.items() if share.target < rules.min_precision}


def sampled(
    judging: Judging, names: Iterable[GroupName], members: Sequence[Member], rules: Rules, hopeless: Iterable[GroupName]
) -> tuple[list[Member], Predictions, Trials]:
    """Look at the groups' pictures by rounds, as far as they are needed (``sampling``).

    Returns the neutral members and those whose answers counted, predictions of all that were looked at, and how each group
    ended.
    """
    by_place: dict[GroupName, dict[Place, Member]] = {name: {} for name in names}
    for m in members:
        if m.group is not None:
            by_place[m.group][m.place] = m
    queues = {name: shuffled(found, rules.seed) for name, found in by_place.items()}
    sampler, predictions, taken = Sampler(queues, rules.policy(), hopeless), Predictions(), set[Member]()
    while wanted := sampler.requests():
        asked = [by_place[name][place] for name, places in wanted.items() for place in places]
        predictions |= judging.judged(asked)
        taken.update(asked)
        sampler.record(right_in(predictions))
    return [m for m in members if m.group is None or m in taken], predictions, sampler.trials()


class Judging:
    """Predictions for members, as asked for; no picture is run twice."""

    def __init__(
        self,
        ctx: StepContext,
        classifier: Classifier,
        images: RetrievedImages,
        options: AuditOptions,
        sources: Sequence[Source],
    ) -> None:
        self.ctx, self.classifier, self.options, self.sources = ctx, classifier, options, sources
        self.labels = label_maps(classifier, images.task, images.targets, options.label_map or {})
        self.outputs = Outputs()
        self.binary = {v for o in images.task["outputs"] if o["type"] == "binary" for v in o["values"]}

    def judged(self, members: Sequence[Member]) -> Predictions:
        """Rows of ``c2b_prediction``, one for each unique picture and target it was retrieved for."""
        self._run({m.place for m in members})
        wanted: dict[str, set[Place]] = {}
        for m in members:
            if m.place in self.outputs.logits:
                wanted.setdefault(m.target, set()).add(m.place)
        found: Predictions = {}
        for target, places in wanted.items():
            found |= self._rows(target, sorted(places))
        return found

    def _run(self, places: set[Place]) -> None:
        new = places - self.outputs.logits.keys() - self.outputs.unreadable.keys()
        pictures = read_pictures(self.sources, new)
        done = predict(self.classifier, pictures, self.ctx, total=self._total(new), batch_size=self.options.batch_size)
        self.outputs.logits |= done.logits
        self.outputs.unreadable |= done.unreadable

    def _total(self, new: set[Place]) -> int:
        return len(self.outputs.logits) + len(self.outputs.unreadable) + len(new)

    def _rows(self, target: str, places: Sequence[Place]) -> Predictions:
        yes_no = target in self.binary
        said = judge_images(
            np.stack([self.outputs.logits[p] for p in places]), self.labels[target], target,
            prediction=self.options.prediction, yes_no=yes_no and self.classifier.head == "multilabel",
            # A yes/no output has one value: alone it would always win.
            compete="all" if yes_no else self.options.compete,
        )  # fmt: skip
        rows = zip(places, *(column.tolist() for column in said), strict=True)
        return {
            (target, place): {
                **place._asdict(), "target": target, "pred": pred, "correct": correct, "score": score,
                "rank_of_target": rank,
            }
            for place, pred, correct, score, rank in rows
        }  # fmt: skip


def label_maps(
    classifier: Classifier, task: Mapping[str, Any], targets: Sequence[str], given: Mapping[str, str]
) -> dict[str, LabelMap]:
    """For each target, how the model's labels read as values of the target's output."""
    values = [value for output in task["outputs"] for value in output["values"]]
    whole = map_labels(classifier.labels, values, given)
    by_value: dict[str, LabelMap] = {}
    for output in task["outputs"]:
        own = set(output["values"])
        meaning = tuple(m if m in own else None for m in whole.meaning)
        # Yes/no outputs of one softmax head stand against each other.
        by_value |= dict.fromkeys(own, LabelMap(meaning, tuple(output["values"])))
    return {target: by_value[target] for target in targets}


def right_in(predictions: Mapping[tuple[str, Place], Row]) -> Any:
    """``(target, place) -> right`` for counting; None where there is no prediction."""

    def is_right(target: str, place: Place) -> bool | None:
        row = predictions.get((target, place))
        return None if row is None else row["correct"]

    return is_right


def member_rows(members: Iterable[Member], predictions: Mapping[tuple[str, Place], Row]) -> list[Row]:
    """Rows of ``c2b_member`` for the members that have a prediction."""
    return [
        {
            "target": m.target, "attribute": m.attribute, "value": m.value, "value_source": m.value_source,
            "caption_id": m.caption_id,
            **m.place._asdict(), "correct": predictions[m.target, m.place]["correct"], "similarity": m.similarity,
        }
        for m in members
        if (m.target, m.place) in predictions
    ]  # fmt: skip


def example_rows(
    picked: Sequence[Member], sources: Sequence[Source], predictions: Mapping[tuple[str, Place], Row]
) -> list[Row]:
    """Rows of ``c2b_example`` with thumbnails; each picture is read and scaled once."""
    small: dict[Place, bytes] = {}
    for place, data in read_pictures(sources, {m.place for m in picked}):
        try:
            small[place] = thumbnail(decode(data), THUMBNAIL_SIDE)
        except UnreadableImage:  # changed since it was classified
            continue
    return [
        {
            "target": m.target, "attribute": m.attribute, "value": m.value, "value_source": m.value_source,
            **m.place._asdict(), "correct": predictions[m.target, m.place]["correct"],
            "pred": predictions[m.target, m.place]["pred"], "similarity": m.similarity, "thumbnail": small[m.place],
        }
        for m in picked
        if m.place in small
    ]  # fmt: skip


def chance_of(task: Mapping[str, Any]) -> float:
    """Accuracy of guessing: one of the classes, or heads and tails for yes/no outputs."""
    output = task["outputs"][0]
    return 0.5 if output["type"] == "binary" else 1 / len(output["values"])


def target_check_of(images: RetrievedImages) -> TargetCheck:
    """``contrast`` where retrieval compared pictures with captions of other targets (some were rejected for it)."""
    reasons = set(images.retrieval["reject_reason"].unique().to_pylist())
    return "contrast" if reasons & {"irrelevant", "other_target"} else "none"


def warn_of_kinship(ctx: StepContext, classifier: Classifier, encoder: Mapping[str, Any]) -> None:
    """A classifier of the retriever's own family finds the retrieved pictures easy: errors stay hidden."""
    family = classifier.encoder_family
    if family and family == encoder.get("family"):
        ctx.warn(
            f"the classifier and the retriever are both {family}: pictures were chosen that this classifier finds easy, "
            "so errors may be hidden"
        )


def _warn_of_unreadable(ctx: StepContext, outputs: Outputs) -> None:
    if outputs.unreadable:
        place, reason = min(outputs.unreadable.items())
        ctx.warn(f"{len(outputs.unreadable)} pictures count nowhere, first: {reason}", item=place.uri)


def _stop_at_gate(ctx: StepContext, gate: Row, *, stop: bool) -> None:
    if gate["passed"] is None:
        ctx.warn("no neutral pictures: whether the classifier works at all was not checked")
    elif not gate["passed"]:
        message = (
            f"the classifier is right on {gate['k']} of {gate['n']} pictures without any special circumstance, "
            f"which is not above guessing ({gate['chance']:.0%})"
        )
        if stop:
            raise StepError(message, step=ctx.step, hint=_GATE_HINT)
        ctx.warn(f"{message}. {_GATE_HINT}")

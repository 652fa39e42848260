"""Steps of the bias audit: ``c2b.assess``, ``c2b.truth``, ``c2b.stability``. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runner.artifacts import CheckedTargets, MeasuredGroups, RetrievedImages, Separability, Verdicts
from runner.context import StepContext
from runner.data.sources.specs import Corpus
from runner.errors import DataError, StepError
from runner.models.base import Classifier, SentenceEncoder
from runner.steps import Artifact, Cost, Rows, Table, step

if TYPE_CHECKING:
    from runner.nodes.bias.grid import CheckedShares, GroupName

LabelMapping = Annotated[dict[str, str], Field(description="label -> class of the task; several may mean one class")]


@dataclass(frozen=True)
class Truth(Artifact):
    """What true labels say about each verdict."""

    groups: Annotated[Table, Rows("c2b_truth")]


@dataclass(frozen=True)
class Stability(Artifact):
    """How findings fared when the proposals were drawn again."""

    groups: Annotated[Table, Rows("c2b_stability")]


class HandCheck(BaseModel):
    """A sample of one group that somebody (or a vision-language model) looked at.

    Of ``images`` pictures, ``target`` were said to show the target and ``value`` the value. ``sensitivity`` and
    ``specificity`` are those of whoever looked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: tuple[str, str, str] = Field(description="target, attribute, value")
    images: int = Field(ge=1)
    target: int | None = Field(None, ge=0)
    value: int | None = Field(None, ge=0)
    sensitivity: float = Field(1.0, gt=0, le=1)
    specificity: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _possible(self) -> HandCheck:
        if max(self.target or 0, self.value or 0) > self.images:
            raise ValueError(f"more pictures said to fit than the {self.images} looked at")
        if self.sensitivity + self.specificity <= 1:
            raise ValueError("a checker with sensitivity + specificity <= 1 says nothing")
        return self


def _assess_cost(params: Mapping[str, Any]) -> Cost:
    """How many pictures there will be depends on the retrieval."""
    return Cost(images=None, bytes=None)


@step("c2b.assess", version="5", estimate=_assess_cost)
def assess(
    ctx: StepContext,
    *,
    classifier: Classifier,
    images: RetrievedImages,
    checked_targets: CheckedTargets | None = None,
    measured: MeasuredGroups | None = None,
    separability: Separability | None = None,
    threshold: Annotated[float, Field(ge=0, lt=1, description="smallest |phi| that matters")] = 0.05,
    alpha: Annotated[float, Field(gt=0, lt=1, description="largest adjusted p of a finding")] = 0.05,
    min_group_size: Annotated[int, Field(ge=1, description="fewer images give no verdict")] = 10,
    fdr: Annotated[Literal["bh", "by", "holm", "none"], Field(description="adjustment for many tests")] = "bh",
    fdr_scope: Annotated[
        Literal["audit", "target", "attribute"], Field(description="tests adjusted together")
    ] = "audit",
    prediction: Annotated[
        str, Field(pattern=r"^(top1|topk:[1-9]\d*|logit>=0)$", description="top1, topk:5, or logit>=0")
    ] = "top1",
    compete: Annotated[
        Literal["all", "task"],
        Field(description="all: answers outside the task are wrong; task: only classes of the task compete"),
    ] = "all",
    min_precision: Annotated[
        float,
        Field(ge=0, le=1, description="smaller estimated shares of pictures that show the target give no verdict"),
    ] = 0.7,
    permutation: Annotated[int, Field(ge=0, le=1_000_000, description="shuffles; 9999 to switch on")] = 0,
    sampling: Annotated[
        Literal["fixed", "adaptive"],
        Field(description="fixed: run every picture; adaptive: by rounds, until a value is found or a gap is excluded"),
    ] = "fixed",
    smallest_gap: Annotated[float, Field(gt=0, lt=1, description="adaptive: the |phi| that must not be missed")] = 0.3,
    power: Annotated[
        float, Field(gt=0, lt=1, description="adaptive: least chance that such a gap is not given up too early")
    ] = 0.8,
    round_size: Annotated[int, Field(ge=1, le=1000, description="adaptive: pictures a group and round, at first")] = 5,
    label_map: LabelMapping = {},  # noqa: B006
    paper_mode: Annotated[bool, Field(description="the published rule alone: |phi| > threshold")] = False,
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95,
    gate: Annotated[Literal["stop", "warn"], Field(description="when the classifier is not above chance")] = "stop",
    checked: Annotated[list[HandCheck], Field(description="groups whose pictures were looked at")] = [],  # noqa: B006
    examples_per_group: Annotated[int, Field(ge=0, le=200)] = 12,
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 64,
) -> Verdicts:
    """Run the classifier on the retrieved pictures and say for which circumstances it is better or worse."""
    from runner.nodes.bias.assess import Rules
    from runner.nodes.bias.audit import AuditOptions, audit, target_check_of
    from runner.nodes.bias.evidence import Evidence

    if sampling == "adaptive" and (paper_mode or permutation):
        other = "paper_mode" if paper_mode else "permutation"
        raise StepError(
            f"sampling: adaptive cannot go with {other}, which holds for a number of pictures fixed beforehand",
            step=ctx.step, hint=f"Use sampling: fixed, or switch {other} off.",
        )  # fmt: skip
    rules = Rules(
        threshold=threshold, alpha=alpha, min_group_size=min_group_size, fdr=fdr, fdr_scope=fdr_scope,
        confidence=confidence, permutation=permutation, paper_mode=paper_mode, seed=ctx.seed,
        target_check=target_check_of(images), min_precision=min_precision,
        sampling=sampling, smallest_gap=smallest_gap, power=power, round_size=round_size,
    )  # fmt: skip
    options = AuditOptions(
        prediction=prediction, compete="task" if paper_mode else compete, label_map=label_map,
        examples_per_group=examples_per_group, batch_size=batch_size, stop_at_gate=gate == "stop",
        checked=dict(_checked(check) for check in checked),
    )  # fmt: skip
    return audit(ctx, classifier, images, rules, options, Evidence(checked_targets, measured, separability))


def _checked(check: HandCheck) -> tuple[GroupName, CheckedShares]:
    from runner.nodes.bias.grid import CheckedShares, GroupName
    from runner.nodes.bias.statistics import precision_from_verifier

    def share(yes: int | None) -> float:
        if yes is None:
            return float("nan")
        return float(precision_from_verifier(yes / check.images, check.sensitivity, check.specificity))

    return GroupName(*check.group), CheckedShares(share(check.target), share(check.value))


@step("c2b.truth", version="2")
def truth(
    ctx: StepContext,
    *,
    verdicts: Verdicts,
    labels: Annotated[Corpus, Field(description="the sources that have true labels")],
    label_map: LabelMapping = {},  # noqa: B006
) -> Truth:
    """Compare the audit with true labels that it never saw: target precision, true accuracy, agreement of each verdict."""
    from results.tables import arrow_table
    from runner.data.places import Place
    from runner.data.sources import open_sources
    from runner.nodes.bias.truth import truth_rows

    known: dict[Place, str] = {}
    for source in open_sources(labels):
        found = source.labels()
        if found is None:
            raise DataError(f"the source {source.source_id!r} has no labels")
        known |= {Place(source.source_id, uri): label for uri, label in found.items()}
    members = verdicts.members.to_pylist()
    if members and not any(Place(m["source_id"], m["uri"]) in known for m in members):
        hint = f"The audit's sources: {', '.join(sorted({m['source_id'] for m in members}))}. Names must agree."
        raise DataError("none of the audited pictures has a label in these sources", hint=hint)
    settings = verdicts.settings
    rows = truth_rows(
        verdicts.groups.to_pylist(), members, known, label_map,
        threshold=settings["threshold"], confidence=settings["confidence"], min_group_size=settings["min_group_size"],
    )  # fmt: skip
    return Truth(arrow_table("c2b_truth", rows))


@step("c2b.stability", version="1")
def stability(
    ctx: StepContext, *, images: RetrievedImages, verdicts: Verdicts, sentences: SentenceEncoder | None = None
) -> Stability:
    """Say how findings fared in the further draws of the proposals (``resamples`` of c2b.propose); no new predictions.

    ``sentences`` matches values that mean the same in other words (cosine above 0.9); without it names must be equal.
    """
    from results.tables import arrow_table
    from runner.nodes.bias.resamples import assess_draws, cosines_of
    from runner.nodes.bias.stability import stability_rows

    draws = assess_draws(images, verdicts)
    if len(draws) < 2:
        ctx.warn("the proposals were drawn once, so nothing can be said about stability: set resamples of c2b.propose")
    elif verdicts.settings["sampling"] == "adaptive":
        ctx.warn(
            "the audit took its pictures by rounds and judged them by e-values; the further draws are judged by the fixed "
            "rule on all of theirs, so a verdict may change with the rule as well as with the draw"
        )
    return Stability(arrow_table("c2b_stability", stability_rows(draws, cosines_of(sentences))))

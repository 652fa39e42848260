"""Steps of the agents: ``c2b.propose``, ``c2b.caption`` and ``c2b.bind``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from agents.inputs import ClassNames, ShortName, TargetNames, TaskDescription, UserAttribute, check_names
from runner.artifacts import Biases, Bindings, Captions
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel, SentenceEncoder
from runner.steps import Cost, step

if TYPE_CHECKING:
    from agents.proposals import Similar

SAME_MEANING = 0.9
"""Attributes whose names are closer than this (cosine of sentence embeddings) are one attribute."""


def _proposal_cost(params: Mapping[str, Any]) -> Cost:
    """Questions without repairs: one a target, resample and draw."""
    targets = params.get("targets") or params.get("classes") or []
    branches = 1 if params.get("shared_across_targets") else len(targets)
    return Cost(llm_calls=branches * params.get("resamples", 1) * params.get("best_of", 1))


def _caption_cost(params: Mapping[str, Any]) -> Cost:
    """One question an attribute; how many attributes there will be is not known beforehand."""
    return Cost(llm_calls=None)


@step("c2b.propose", version="2", estimate=_proposal_cost, tags=frozenset({"llm"}))
async def propose(
    ctx: StepContext,
    *,
    llm: ChatModel,
    task: TaskDescription,
    outputs: Annotated[
        Literal["multi", "binary"], Field(description="multi: one class of many; binary: each class is a yes/no output")
    ] = "multi",
    caption_names: Annotated[
        dict[str, ShortName], Field(description="how captions call a class, where its name is an id or an absence")
    ] = {},  # noqa: B006
    classes: ClassNames,
    targets: TargetNames = None,
    task_name: Annotated[ShortName, Field(description="name of the output, such as animal")] = "content",
    max_attributes: Annotated[int, Field(ge=0, le=50, description="proposed attributes kept per target")] = 8,
    min_values: Annotated[int, Field(ge=2, le=20, description="values an attribute must have")] = 2,
    max_values: Annotated[int, Field(ge=2, le=20, description="values of an attribute that are kept")] = 6,
    include: Annotated[list[UserAttribute], Field(description="attributes to test in any case")] = [],  # noqa: B006
    exclude: Annotated[list[ShortName], Field(description="attributes never to test")] = [],  # noqa: B006
    dimensions: Annotated[
        list[ShortName] | None, Field(description="hints for the model: names of dimensions; [] for none")
    ] = None,
    shared_across_targets: Annotated[bool, Field(description="one list of attributes for all targets")] = False,
    resamples: Annotated[int, Field(ge=1, le=20, description="repeats for c2b.stability; 1 = none")] = 1,
    best_of: Annotated[int, Field(ge=1, le=20, description="draws merged per target; helps small models")] = 1,
    repair_rounds: Annotated[int, Field(ge=0, le=5, description="further questions when too few proposals hold")] = 1,
    review: Annotated[bool, Field(description="wait for a person to approve or edit the proposals")] = False,
    sentences: SentenceEncoder | None = None,
) -> Biases:
    """Propose bias attributes with values for each class, with a language model.

    ``resamples`` is 1 because each further one costs the whole stage again on a small local model; stability is measured
    where the spec asks for it. ``sentences`` also finds attributes that mean the same in other words.
    """
    from agents.bias import ProposalPlan
    from agents.bias import propose as run_agent
    from agents.brief import Brief
    from agents.proposals import Proposal
    from results.tables import arrow_table

    if max_values < min_values:
        raise StepError(f"max_values ({max_values}) is below min_values ({min_values})", step=ctx.step)
    try:
        check_names(classes, caption_names)
    except ValueError as error:
        raise StepError(str(error), step=ctx.step) from None
    brief = Brief(task, task_name, outputs, tuple(classes), tuple(targets or classes), dict(caption_names))
    plan = ProposalPlan(
        max_attributes=max_attributes, min_values=min_values, max_values=max_values,
        include=tuple(Proposal(a.attribute, tuple(a.values), "include") for a in include), exclude=tuple(exclude),
        dimensions=None if dimensions is None else tuple(dimensions), shared=shared_across_targets,
        resamples=resamples, best_of=best_of, repair_rounds=repair_rounds, review=review,
    )  # fmt: skip
    rows = await run_agent(llm, brief, plan, ctx, _similarity(sentences))
    _require_kept(rows, ctx, "no proposed attribute can be tested")
    measures = {entry.attribute: entry.measure for entry in include if entry.measure is not None}
    understood = brief.task() | ({"measures": measures} if measures else {})
    return Biases(understood, list(brief.targets), arrow_table("c2b_attribute", rows))


@step("c2b.caption", version="2", estimate=_caption_cost, tags=frozenset({"llm"}))
async def caption(
    ctx: StepContext,
    *,
    llm: ChatModel,
    biases: Biases,
    captions_per_value: Annotated[int, Field(ge=1, le=20, description="more than 1 enables the caption bootstrap")] = 1,
    neutral_per_target: Annotated[int, Field(ge=0, le=20, description="captions without circumstance per target")] = 1,
    wording: Annotated[
        Literal["free", "template", "fill"],
        Field(description="free; template: captions follow a template of the model (the paper); fill: it is filled in"),
    ] = "free",
    repair_rounds: Annotated[int, Field(ge=0, le=5, description="further questions for captions that are unfit")] = 1,
) -> Captions:
    """Write captions that show each target under each circumstance, and neutral ones, with a language model."""
    from agents.bias_captions import CaptionPlan, write_captions
    from agents.brief import brief_of
    from results.tables import arrow_table

    brief = brief_of(biases.task, biases.targets)
    kept = [row for row in biases.attributes.to_pylist() if row["status"] == "kept"]
    plan = CaptionPlan(captions_per_value, neutral_per_target, wording, repair_rounds)
    rows = await write_captions(llm, brief, kept, plan, ctx)
    _require_kept(rows, ctx, "no caption can be used")
    return Captions(biases.task, biases.targets, arrow_table("c2b_caption", rows))


@step("c2b.bind", version="3", estimate=_caption_cost, tags=frozenset({"llm"}))
async def bind(
    ctx: StepContext,
    *,
    llm: ChatModel | None = None,
    biases: Biases,
    offered: Annotated[
        Literal["words", "all"],
        Field(description="words: the model chooses among measurements whose words the values use; all: among all"),
    ] = "words",
    repair_rounds: Annotated[int, Field(ge=0, le=5, description="further questions where values contradict")] = 1,
) -> Bindings:
    """Find for each attribute the measurement of the picture that stands for it, with its values from low to high.

    The user's choice (``measure`` of an ``include`` of c2b.propose) comes first, then words that leave no doubt, then the model,
    which is asked once for each distinct attribute. Without ``llm`` the first two decide alone.
    """
    from agents.binding import bind as run_agent
    from results.tables import arrow_table

    rows = await run_agent(
        llm, biases.attributes.to_pylist(), biases.task.get("measures", {}), ctx, offered=offered, repair_rounds=repair_rounds
    )  # fmt: skip
    return Bindings(arrow_table("c2b_binding", rows))


def _require_kept(rows: list[dict[str, Any]], ctx: StepContext, what: str) -> None:
    """Stop where nothing is left to go on with; the reasons stand in the message."""
    if any(row["status"] == "kept" for row in rows):
        return
    reasons = list(dict.fromkeys(str(row["drop_reason"]) for row in rows if row["drop_reason"]))[:3]
    raise StepError(
        f"{what}: {'; '.join(reasons) or 'the model proposed nothing'}",
        step=ctx.step,
        hint="use a larger model, raise best_of or repair_rounds, or give attributes yourself with include",
    )


def _similarity(sentences: SentenceEncoder | None) -> Similar | None:
    """Whether two names mean the same, by cosine of their embeddings."""
    if sentences is None:
        return None

    def similar(a: str, b: str) -> bool:
        first, second = sentences.encode([a, b])
        return float(first @ second) > SAME_MEANING

    return similar

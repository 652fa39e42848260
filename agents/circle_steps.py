"""Steps of in-context open-world classification: ``circle.classify`` and ``circle.stream``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from agents.openworld_steps import Label, Limit, Probe, Sent, Split, System
from runner.artifacts import CircleAnswers, Datasets
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel
from runner.references import AssetRef, InputPath
from runner.steps import Cost, step

if TYPE_CHECKING:
    from agents.circle_prompts import Prompts

WRAP = "The main object of the photo is one of the following: {}."

Rounds = Annotated[int, Field(ge=0, le=20, description="T, passes of refinement (0: pseudo-labels alone)")]


def _each_once(seeds: list[int]) -> list[int]:
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    return seeds


Seeds = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**31)]],
    Field(min_length=1, max_length=100, description="one run each, with a draw of its own"), AfterValidator(_each_once),
]  # fmt: skip
ContextSide = Annotated[
    int | None,
    Field(ge=16, le=8192, description="longer side of context pictures in pixels at most (null: as they are)"),
]
QuerySide = Annotated[
    int | None, Field(ge=16, le=8192, description="longer side of queries in pixels at most (null: as they are)")
]
Tokens = Annotated[int, Field(ge=1, le=8192, description="most new tokens of a reply")]
Order = Annotated[
    Literal["fixed", "prefix_tree"],
    Field(
        description="of the examples of a refinement. fixed: as drawn (published); prefix_tree: so that a server that "
        "keeps equal beginnings reads less (m log2 m + m pairs a round instead of about m^2 / 2)"
    ),
]
EarlyStop = Annotated[bool, Field(description="stop refining when a round changed no label")]
Dedup = Annotated[
    Literal["sane", "official"], Field(description="official: repeats in answers are told as published runs did")
]
SplitTurns = Annotated[bool, Field(description="the task of a refinement as a user message of its own, as published")]
Templates = Annotated[
    InputPath | None, Field(description="folder of templates (circle_query.jinja, ...) instead of the packaged ones")
]
Wrap = Annotated[
    str,
    Field(
        pattern=r"^[^{}]*\{\}[^{}]*$",
        max_length=300,
        description="sentence in which a judge reads the list; {} = the list",
    ),
]
Logprobs = Annotated[bool, Field(description="ask for the log-likelihood of replies")]


def _cost(params: Mapping[str, Any]) -> Cost:
    """How many datasets and pictures there will be is not known beforehand; see ``agents.circle_runs``."""
    return Cost(llm_calls=None, images=None)


@step("circle.classify", version="2", estimate=_cost, tags=frozenset({"llm"}))
async def classify(
    ctx: StepContext,
    *,
    lmm: ChatModel,
    images: Datasets,
    method: Annotated[
        Literal["random_labels", "pseudo", "circle"],
        Field(
            description="labels of the context. circle: broad categories, refined; pseudo: the model's own answers to the "
            "plain question; random_labels: the true classes"
        ),
    ] = "circle",
    shots: Annotated[int, Field(ge=1, le=512, description="m, pictures of the context")] = 16,
    rounds: Rounds = 3,
    seeds: Seeds = [0],  # noqa: B006
    context_split: Annotated[
        str, Field(min_length=1, max_length=40, description="split the context is drawn from")
    ] = "train",
    query_split: Split = "test",
    limit: Limit = None,
    max_side: ContextSide = 224,
    query_max_side: QuerySide = 224,
    transport: Sent = "jpeg75",
    context_order: Order = "fixed",
    max_tokens: Tokens = 64,
    early_stop: EarlyStop = False,
    compat: Dedup = "sane",
    split_turns: SplitTurns = False,
    prompts: Templates = None,
    judge_wrap: Wrap = WRAP,
    system: System = None,
    probe: Probe = True,
    logprobs: Logprobs = False,
    label: Label = None,
) -> CircleAnswers:
    """Name pictures without a list of classes, shown a context of other pictures that the model labelled itself (CIRCLE).

    A run makes m(1 + T) calls for the context and one a query. Answers of ``circle`` are comma lists, cleaned, and judged in a
    sentence; the other two methods ask the plain question after the pairs and are scored untouched.
    """
    from agents.circle import CirclePlan
    from agents.circle_queries import Answering
    from agents.circle_runs import Asked, Run

    settings = _settings(locals())
    said = _prompts(prompts, system, split_turns, ctx)
    answering = Answering(label or method, method == "circle", compat, judge_wrap)
    run = Run(
        lmm, ctx, said, CirclePlan(method, rounds, context_order, early_stop), answering, Asked(images, query_split, limit, seeds),
        max_side, query_max_side, transport, max_tokens, logprobs, probe,
    )  # fmt: skip
    gathered, runs = await run.classify(shots, context_split)
    settings |= {"model": lmm.name, "runs": runs, "templates": said.texts(shots)}
    return CircleAnswers(images.datasets, answering.method, settings, *gathered.tables())


@step("circle.stream", version="2", estimate=_cost, tags=frozenset({"llm"}))
async def stream(
    ctx: StepContext,
    *,
    lmm: ChatModel,
    images: Datasets,
    method: Annotated[
        Literal["pseudo", "circle"], Field(description="labels of the context: as in circle.classify")
    ] = "circle",
    memory: Annotated[int, Field(ge=1, le=512, description="m, earlier pictures shown")] = 16,
    rounds: Rounds = 3,
    rebuild_every: Annotated[int, Field(ge=1, description="pictures that share one context")] = 1,
    reservoir: Annotated[
        bool,
        Field(
            description="keep m pictures with the labels they once got: T + 2 calls a picture (ours); with rebuild_every: 1"
        ),
    ] = False,
    seeds: Seeds = [0],  # noqa: B006
    query_split: Split = "test",
    limit: Limit = None,
    max_side: ContextSide = 224,
    query_max_side: QuerySide = 224,
    transport: Sent = "jpeg75",
    context_order: Order = "fixed",
    max_tokens: Tokens = 32,
    early_stop: EarlyStop = False,
    compat: Dedup = "sane",
    split_turns: SplitTurns = False,
    prompts: Templates = None,
    judge_wrap: Wrap = WRAP,
    system: System = None,
    probe: Probe = True,
    logprobs: Logprobs = False,
    label: Label = None,
) -> CircleAnswers:
    """Name pictures that come one after the other; the context is made of those that came before (CIRCLE, streaming).

    A picture costs up to (m + 1)(T + 1) + 1 calls; pseudo-labels of pictures seen before come from the reply cache.
    """
    from agents.circle import CirclePlan
    from agents.circle_queries import Answering
    from agents.circle_runs import Asked, Run
    from agents.circle_stream import StreamPlan

    settings = _settings(locals())
    said = _prompts(prompts, system, split_turns, ctx)
    _check_reservoir(reservoir, rebuild_every, ctx)
    name = label or ("streaming" if method == "circle" else "streaming_pseudo")
    answering = Answering(name, method == "circle", compat, judge_wrap)
    run = Run(
        lmm, ctx, said, CirclePlan(method, rounds, context_order, early_stop), answering, Asked(images, query_split, limit, seeds),
        max_side, query_max_side, transport, max_tokens, logprobs, probe,
    )  # fmt: skip
    gathered = await run.stream(StreamPlan(memory, rebuild_every, reservoir))
    settings |= {"model": lmm.name, "templates": said.texts(memory)}
    return CircleAnswers(images.datasets, answering.method, settings, *gathered.tables())


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain parameters of a step, as it was called."""
    return {
        name: list(value) if isinstance(value, list) else value
        for name, value in values.items()
        if isinstance(value, (str, int, float, list, type(None))) and name not in ("label", "probe", "prompts")
    }


def _check_reservoir(reservoir: bool, rebuild_every: int, ctx: StepContext) -> None:
    """Every picture has to be labelled before it may be kept, so that none can share the context of another."""
    if reservoir and rebuild_every > 1:
        raise StepError(
            f"reservoir: pictures are kept one by one, but rebuild_every is {rebuild_every}", step=ctx.step,
            hint="write rebuild_every: 1 (a picture then costs T + 2 calls), or leave reservoir out",
        )  # fmt: skip


def _prompts(folder: str | None, system: str | None, split_turns: bool, ctx: StepContext) -> Prompts:
    from pathlib import Path

    from agents.circle_prompts import Prompts, load_templates

    try:
        if isinstance(folder, AssetRef):
            raise ValueError("templates come from a folder, not from an asset")
        own = {} if folder is None else load_templates(Path(folder))
    except ValueError as error:
        raise StepError(f"prompts: {error}", step=ctx.step, hint="correct the folder, or leave prompts out") from None
    return Prompts(own, system, split_turns)

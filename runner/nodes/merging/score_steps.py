"""Steps `dmo.score`, `dmo.score_trained`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.artifacts import Conversations, Experts, Mixtures, MixtureScores, TrainedScores, VqaItems
from runner.context import StepContext
from runner.models.base import ChatModel, VisionLanguageModel
from runner.nodes.merging.specs import MergeSpec
from runner.steps import step

Execution = Literal["auto", "batched_lora", "resident", "stream", "checkpoint", "served_lora"]
BatchSize = Annotated[int, Field(ge=1, le=65536, description="samples of one forward, over the mixtures that share it")]
NewTokens = Annotated[int, Field(ge=1, le=4096, description="of a reply")]
Length = Annotated[int | None, Field(ge=2, description="tokens of a conversation that are kept; none: all")]
Items = Annotated[VqaItems | None, Field(description="questions: a task is a benchmark")]
Data = Annotated[Conversations | None, Field(description="a task is the loss on the held-out split of a domain")]

Server = Annotated[
    ChatModel | None, Field(description="served_lora: a server of the base that takes LoRA adapters, provider openai")
]
Load = Annotated[
    bool, Field(description="served_lora: load and unload adapters at run time; else the server was started with them")
]


@step("dmo.score", version="1")
def score(
    ctx: StepContext,
    *,
    base: VisionLanguageModel,
    experts: Experts,
    mixtures: Mixtures,
    items: Items = None,
    data: Data = None,
    merge: MergeSpec = MergeSpec(),  # noqa: B008 - frozen
    execution: Annotated[
        Execution,
        Field(
            description="how merges are made at hand; all give the same logits; served_lora asks a server, questions only"
        ),
    ] = "auto",
    batch_size: BatchSize = 64,
    max_new_tokens: NewTokens = 16,
    max_length: Length = None,
    split: Literal["train", "eval"] = "eval",
    server: Server = None,
    load: Load = True,
) -> MixtureScores:
    """Score the merge of the experts for every mixture, as a stand-in for a model trained on it ("Linear Model Merging ...", 2602.04937).

    Results are kept item by item. A mixture that fails is a row with the status failed; the others go on.
    """
    from runner.nodes.merging.running import Job, score_merged

    job = Job(
        base=base, experts=experts, mixtures=mixtures, items=items, data=data, spec=merge, execution=execution,
        batch_size=batch_size, max_new_tokens=max_new_tokens, max_length=max_length, split=split, server=server, load=load,
    )  # fmt: skip
    return score_merged(ctx, job)


@step("dmo.score_trained", version="2")
def score_trained(
    ctx: StepContext,
    *,
    base: VisionLanguageModel,
    models: Annotated[Experts, Field(description="a model for each mixture, named by its id")],
    mixtures: Mixtures,
    items: Items = None,
    data: Data = None,
    execution: Annotated[Execution, Field(description="as in dmo.score")] = "auto",
    batch_size: BatchSize = 64,
    max_new_tokens: NewTokens = 16,
    max_length: Length = None,
    split: Literal["train", "eval"] = "eval",
    server: Server = None,
    load: Load = True,
    experts: Annotated[
        Experts | None, Field(description="of the domains: say how the models lie to their span")
    ] = None,
) -> TrainedScores:
    """Score models that were really trained on mixtures, on the same items: what stand-ins are held against."""
    from runner.nodes.merging.running import Job, score_each

    job = Job(
        base=base, experts=models, mixtures=mixtures, items=items, data=data, spec=MergeSpec(), execution=execution,
        batch_size=batch_size, max_new_tokens=max_new_tokens, max_length=max_length, split=split, server=server, load=load,
    )  # fmt: skip
    return score_each(ctx, job, experts)

"""Step `dmo.search`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.artifacts import Experts, Mixtures, MixtureSearch
from runner.context import StepContext
from runner.models.base import VisionLanguageModel
from runner.nodes.merging.mixture_specs import Anchor, GeneratorSpec, Objective
from runner.nodes.merging.score_steps import BatchSize, Data, Execution, Items, Length, NewTokens, Server
from runner.nodes.merging.search_specs import StrategySpec
from runner.nodes.merging.specs import MergeSpec
from runner.steps import step


@step("dmo.search", version="1")
def search(
    ctx: StepContext,
    *,
    base: VisionLanguageModel,
    experts: Experts,
    strategy: StrategySpec,
    start: Annotated[GeneratorSpec, Field(description="mixtures of the first round")],
    add: Annotated[list[Anchor], Field(description="anchors beside the start")] = ["uniform"],  # noqa: B006
    max_mixtures: Annotated[
        int, Field(ge=1, le=100_000, description="more than this to start with are refused")
    ] = 1000,
    items: Items = None,
    data: Data = None,
    merge: MergeSpec = MergeSpec(),  # noqa: B008 - frozen
    objective: Objective = Objective(),  # noqa: B008 - frozen
    execution: Annotated[Execution, Field(description="as in dmo.score")] = "auto",
    server: Server = None,
    batch_size: BatchSize = 64,
    max_new_tokens: NewTokens = 16,
    max_length: Length = None,
    split: Literal["train", "eval"] = "eval",
    seed: Annotated[int | None, Field(ge=0, description="none = the run's seed")] = None,
) -> MixtureSearch:
    """Look for the mixture whose merge of the experts is best, round by round; only tasks of the objective are run.

    Results are kept item by item, as in dmo.score. A mixture that fails is a row with the status failed; the search goes on.
    """
    from results.tables import arrow_table
    from runner.nodes.merging.running import Job
    from runner.nodes.merging.searching import Plan, search_merged

    nothing = Mixtures(experts.domains, arrow_table("dmo_mixture", []))
    job = Job(
        base=base, experts=experts, mixtures=nothing, items=items, data=data, spec=merge, execution=execution,
        batch_size=batch_size, max_new_tokens=max_new_tokens, max_length=max_length, split=split, server=server,
    )  # fmt: skip
    return search_merged(
        ctx, job, Plan(strategy, start, add, max_mixtures, objective, ctx.seed if seed is None else seed)
    )

"""Step `prune.score`. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from runner.artifacts.lvlm import Conversations, PruneScores
from runner.context import StepContext
from runner.models.base import VisionLanguageModel
from runner.nodes.pruning.names import Aggregate, Criterion, LastState, Modality, Reduction
from runner.steps import Cost, step


class Gradients(BaseModel):
    """What Taylor criteria take gradients of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(default=10, ge=1, le=100_000, description="the first so many of the calibration records")
    batch_size: int = Field(
        default=10, ge=1, le=4096,
        description="records of one backward pass; with several passes a float32 sum of gradients is kept",
    )  # fmt: skip
    checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass: slower, less memory"
    )


def once(criteria: list[Criterion]) -> list[Criterion]:
    """Refuse a criterion that stands twice."""
    if len(set(criteria)) != len(criteria):
        raise ValueError("a criterion is named twice")
    return criteria


def _estimate(params: Mapping[str, Any]) -> Cost:
    return Cost(images=params.get("n"))


@step("prune.score", version="1", estimate=_estimate)
def score(
    ctx: StepContext,
    *,
    model: VisionLanguageModel,
    data: Conversations,
    criteria: Annotated[
        list[Criterion],
        Field(min_length=1, description="of blocks and of units; one pass serves all that need no gradient"),
        AfterValidator(once),
    ],
    n: Annotated[int, Field(ge=1, le=1_000_000, description="calibration records, drawn without replacement")] = 50,
    max_text_tokens: Annotated[int | None, Field(ge=1, description="records of more text are not drawn")] = 128,
    max_length: Annotated[
        int | None, Field(ge=8, description="tokens kept of a record, image tokens included; default: all")
    ] = None,
    modality: Annotated[Modality, Field(description="which records are drawn from")] = "image_text",
    batch_size: Annotated[int, Field(ge=1, le=4096, description="records of one forward pass")] = 1,
    gradients: Gradients = Gradients(),  # noqa: B008 - frozen
    last_state: Annotated[
        LastState,
        Field(description="what block_influence compares the last block's input with; post_norm: as published"),
    ] = "pre_norm",
    aggregate: Annotated[
        Aggregate,
        Field(description="what ranks blocks; sample_mean also weighs samples alike in the loss of Taylor kinds"),
    ] = "token_sum",
    reduction: Annotated[
        Reduction, Field(description="over the members of a coupled group; l1, l2: always mean")
    ] = "sum",
    greedy_depth: Annotated[
        int | None, Field(ge=1, description="blocks that perplexity removes one by one; default: all but one")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, Field(description="of the weights here; default: the model's")
    ] = None,
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="default: the run's")] = None,
) -> PruneScores:
    """Score decoder blocks, attention groups and neurons of a model by how little it would lose without them.

    Definitions after "Structural Pruning of Large Vision Language Models" (2604.24380); `perplexity`, `activation`, `wanda_sp` and `flap`
    after the methods of those names. What is to be removed is said in `prune.cut`, so that many ratios share one pass.
    """
    from runner.nodes.pruning.calibration import Draw
    from runner.nodes.pruning.score_run import run
    from runner.nodes.pruning.scoring import Settings

    seed = ctx.seed if seed is None else seed
    draw = Draw(n, seed, modality, max_text_tokens, batch_size, gradients.n, gradients.batch_size, max_length)
    settings = Settings(last_state, aggregate, reduction, seed, gradients.checkpointing, greedy_depth)
    return run(ctx, model, data, criteria, draw, settings, dtype)

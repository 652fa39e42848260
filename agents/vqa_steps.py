"""Step `evaluate.vqa`. Light: imported to validate a spec."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from runner.artifacts import VqaItems, VqaScores
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel, VisionLanguageModel
from runner.steps import Cost, step

if TYPE_CHECKING:
    from runner.nodes.vqa.answering import Answers


def _cost(params: Mapping[str, Any]) -> Cost:
    """A question an item, through a chat model; how many items there are shows when they are read."""
    return Cost(llm_calls=None, images=None)


@step("evaluate.vqa", version="1", estimate=_cost, tags=frozenset({"llm"}))
async def vqa(
    ctx: StepContext,
    *,
    model: VisionLanguageModel | ChatModel,
    items: VqaItems,
    label: Annotated[
        str | None, Field(min_length=1, max_length=80, description="name in results; default: the model's own")
    ] = None,
    batch_size: Annotated[int, Field(ge=1, le=4096, description="questions generated together, in this process")] = 8,
    max_new_tokens: Annotated[int, Field(ge=1, le=8192, description="tokens of a reply at most")] = 16,
    multiple_choice: Annotated[
        Literal["reply", "likelihood"],
        Field(
            description="what counts where there are options: the reply, or the likeliest letter (open weights only)"
        ),
    ] = "reply",
) -> VqaScores:
    """Ask a model the questions of benchmarks, greedily, and score its answers item by item."""
    from runner.nodes.vqa.answering import scored

    settings = {"max_new_tokens": max_new_tokens, "multiple_choice": multiple_choice, "batch_size": batch_size}
    if isinstance(model, ChatModel):
        if multiple_choice == "likelihood":
            raise StepError(
                "multiple_choice: the likelihood of letters needs open weights", step=ctx.step,
                hint="name a model of the provider lvlm, or take multiple_choice: reply",
            )  # fmt: skip
        from agents.vqa import chat_answers

        answers = await chat_answers(ctx, model, items, max_new_tokens=max_new_tokens)
        about = {"name": model.name, "identity": model.name, "kind": "chat", "small": False, "notes": []}
    else:
        answers = await asyncio.to_thread(_answered, ctx, model, items, settings)
        about = {
            "name": model.name, "identity": model.identity, "kind": "lvlm", "small": model.small, "notes": list(model.notes),
        }  # fmt: skip
    return scored(items, answers, model=about, label=label or model.name[:80], settings=settings)


def _answered(ctx: StepContext, model: VisionLanguageModel, items: VqaItems, settings: Mapping[str, Any]) -> Answers:
    from runner.nodes.vqa.answering import answer_items

    loaded = model.load()
    try:
        return answer_items(
            ctx, loaded, items.benchmarks, items.items.to_pylist(), items.corpus, identity=model.identity, **settings
        )
    finally:
        loaded.close()

"""Step `proactive.open`. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from agents.openworld_steps import Probe, Sent, Side
from agents.proactive_open_specs import Judging
from agents.proactive_steps import Hint, Label, Scenarios, Seed, Split, own_texts
from runner.artifacts.proactive import ProactiveEpisodes, ProactiveSamples
from runner.context import StepContext
from runner.models.base import ChatModel
from runner.steps import Cost, step


def _cost(params: Mapping[str, Any]) -> Cost:
    """An answer a turn and, with a model as judge, a judgement an answer; how many there are shows when the samples are read."""
    return Cost(llm_calls=None, images=None)


@step("proactive.open", version="1", estimate=_cost, tags=frozenset({"llm"}))
async def open_ended(
    ctx: StepContext,
    *,
    model: ChatModel,
    samples: ProactiveSamples,
    judge: Annotated[ChatModel | None, Field(description="model that judges the answers (default: rules)")] = None,
    second: Annotated[
        ChatModel | None, Field(description="judge whose agreement with the first is measured (default: rules)")
    ] = None,
    mode: Annotated[
        Literal["oeg", "oeg_multiturn"],
        Field(
            description="oeg: first turn only; oeg_multiturn: what an answer asks for is done, and the model asked again"
        ),
    ] = "oeg",
    scenarios: Scenarios = None,
    split: Split = "test",
    per_scenario: Annotated[
        int | None,
        Field(
            ge=1,
            description="samples of each scenario at most; null: all. 100 is published; the draw, by seed and sample, is ours",
        ),
    ] = 100,
    hint: Hint = False,
    temperature: Annotated[
        float, Field(ge=0, le=2, description="of the answers; 0.7 is ours, the paper samples as each checkpoint says")
    ] = 0.7,
    draws: Annotated[int, Field(ge=1, le=1000, description="answers, or episodes, of each sample")] = 1,
    max_new_tokens: Annotated[int, Field(ge=1, le=32_768, description="tokens of an answer at most")] = 1024,
    judging: Judging = Judging(),  # noqa: B008 - immutable
    max_side: Side = None,
    transport: Sent = "png",
    probe: Probe = True,
    pictures: Annotated[
        int, Field(ge=0, le=1000, description="episodes of each scenario of which small pictures are kept")
    ] = 4,
    label: Label = None,
    seed: Seed = None,
) -> ProactiveEpisodes:
    """Ask a model about pictures that may not be enough, without options, and judge whether its answers ask for help or name the category.

    The judge looks for the requests and the right category, the latter (ours) with blanks in place of underscores. A judge's reply that cannot be
    read twice makes an error of the episode, not an answer without ideas. Where a model judges, its
    agreement with the rules (or with ``second``) stands in the settings.
    """
    given = {n: v for n, v in locals().items() if n not in ("ctx", "model", "samples", "judge", "second", "label")}
    from agents.proactive_open_runs import OpenSettings, answered

    given |= {"seed": ctx.seed if seed is None else seed, "hint": bool(hint), "texts": own_texts(hint, ctx)}
    return await answered(ctx, model, samples, (judge, second), OpenSettings(**given), label or model.name[:80])

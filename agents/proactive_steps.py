"""Step `proactive.evaluate`. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, ValidationInfo

from agents.openworld_steps import Probe, Sent, Side
from runner.artifacts.proactive import ProactiveEpisodes, ProactiveSamples
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel, VisionLanguageModel
from runner.nodes.proactive.records import Scenario
from runner.references import AssetRef, InputPath
from runner.steps import Cost, step

SHOTS_IN = ("ROD", "MVP-N")

Mode = Literal["mcqa", "reference", "frames"]


def _known(info: ValidationInfo, field: str) -> Any:
    """A parameter that stands before this one; None where it is not known."""
    data = info.data or {}
    return data.get(f"param_{field}", data.get(field))


def _history(wanted: bool, info: ValidationInfo) -> bool:
    if wanted and _known(info, "mode") in ("reference", "frames"):
        raise ValueError(f"mode {_known(info, 'mode')} asks about single frames: no turn comes before another")
    return wanted


def _shots(wanted: int, info: ValidationInfo) -> int:
    if not wanted:
        return wanted
    if _known(info, "mode") == "reference":
        raise ValueError("mode reference shows categories only: there is nothing that solved episodes could show")
    others = [scenario for scenario in _known(info, "scenarios") or () if scenario not in SHOTS_IN]
    if others:
        raise ValueError(f"there are solved episodes of {' and '.join(SHOTS_IN)} only, not of {', '.join(others)}")
    return wanted


def _draws(wanted: int, info: ValidationInfo) -> int:
    if wanted > 1 and _known(info, "mode") == "frames":
        raise ValueError("mode frames asks about each frame once")
    return wanted


Scenarios = Annotated[list[Scenario] | None, Field(min_length=1, description="scenarios asked about (default: all)")]
Split = Annotated[str, Field(min_length=1, max_length=40, description="split that is asked about")]
Limit = Annotated[int | None, Field(ge=1, description="samples of each scenario, drawn with the seed (default: all)")]
Hint = Annotated[
    StrictBool | InputPath,
    Field(description="a sentence after the question that says what help there could be; or a YAML file of texts of your own"),
]  # fmt: skip
Label = Annotated[
    str | None, Field(min_length=1, max_length=80, description="name in results; default: the model's own")
]
Seed = Annotated[
    int | None, Field(ge=0, lt=2**31, description="of draws, limits and demonstrations (default: the run's)")
]

Matching = Annotated[
    Literal["strict", "robust", "constrained"],
    Field(
        description="which option a reply names. strict: by the published rules; robust: as a person would read it; constrained: "
        "the reply is held to the options (open weights: the likeliest option)"
    ),
]

Asked = Annotated[
    Mode,
    Field(
        description="mcqa: episodes; reference: the most telling frame, categories alone; frames: every frame on the way to "
        "it by itself, with all options and with the categories alone"
    ),
]


def _cost(params: Mapping[str, Any]) -> Cost:
    """A question a turn at most; how many there will be shows when the samples are read and the answers come."""
    return Cost(llm_calls=None, images=None)


@step("proactive.evaluate", version="1", estimate=_cost, tags=frozenset({"llm"}))
async def evaluate(
    ctx: StepContext,
    *,
    model: ChatModel | VisionLanguageModel,
    samples: ProactiveSamples,
    mode: Asked = "mcqa",
    match: Matching = "robust",
    form: Annotated[
        Literal["letter", "text"], Field(description="what a constrained reply is: the option's letter, or its text")
    ] = "letter",
    scenarios: Scenarios = None,
    split: Split = "test",
    limit: Limit = None,
    hint: Hint = False,
    options: Annotated[
        Literal["native", "foreign"],
        Field(description="foreign: requests that belong to other scenarios stand in the place of those that help"),
    ] = "native",
    short_answer: Annotated[bool, Field(description="say that only one of the options is to be returned")] = True,
    history: Annotated[
        bool, Field(description="show earlier turns of the episode before each question"), AfterValidator(_history)
    ] = False,
    history_turns: Annotated[
        int,
        Field(
            ge=1,
            le=256,
            description="earlier turns shown at most, the latest ones; the bound is ours, published are all",
        ),
    ] = 31,
    shots: Annotated[
        Literal[0, 1, 3],
        Field(description="solved episodes of other samples shown first (ROD and MVP-N only)"),
        AfterValidator(_shots),
    ] = 0,
    shots_split: Annotated[
        str | None, Field(min_length=1, max_length=40, description="split of the solved episodes (default: `split`)")
    ] = None,
    shots_shortened: Annotated[bool, Field(description="first and last step of solved episodes alone")] = False,
    shots_resized: Annotated[
        bool,
        Field(description="short edge of pictures with solved episodes: ROD 512, MVP-N 112 pixels (else as they are)"),
    ] = True,
    temperature: Annotated[float, Field(ge=0, le=2, description="0: greedy, and no state is asked about twice")] = 0.0,
    draws: Annotated[
        int,
        Field(ge=1, le=1000, description="episodes of each sample (at a temperature above 0)"),
        AfterValidator(_draws),
    ] = 1,
    max_new_tokens: Annotated[int, Field(ge=1, le=32768, description="tokens of a reply at most")] = 50,
    max_side: Side = None,
    transport: Sent = "png",
    batch_size: Annotated[int, Field(ge=1, le=4096, description="questions scored together (open weights only)")] = 8,
    logprobs: Annotated[bool, Field(description="ask for the log-likelihood of replies")] = False,
    probe: Probe = True,
    pictures: Annotated[
        int, Field(ge=0, le=1000, description="episodes of each scenario of which small pictures are kept")
    ] = 4,
    label: Label = None,
    seed: Seed = None,
) -> ProactiveEpisodes:
    """Play episodes with a model: it is asked about a picture that may not be enough, and may ask for a better one.

    All episodes move in lock-step, a turn of all at once. Each turn is a question of its own unless earlier turns or solved episodes are
    shown. Episodes whose question fails or whose picture cannot be read have the status `error` and count nowhere.
    """
    given = {name: value for name, value in locals().items() if name not in ("ctx", "model", "samples", "label")}
    from agents.proactive_runs import Settings, played

    given |= {"seed": ctx.seed if seed is None else seed, "hint": bool(hint), "texts": own_texts(hint, ctx)}
    return await played(ctx, model, samples, Settings(**given), label or model.name[:80])


def own_texts(hint: bool | str, ctx: StepContext) -> Path | None:
    """File of the user's own texts that ``hint`` names. Raises ``StepError`` for an asset."""
    if isinstance(hint, AssetRef):
        raise StepError("hint: texts come from a file, not from an asset", step=ctx.step, hint="name a YAML file")
    return None if isinstance(hint, bool) else Path(hint)

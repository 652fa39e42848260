"""Step `proactive.play`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool

from runner.artifacts.proactive import ProactiveEpisodes, ProactiveSamples
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel
from runner.nodes.proactive.records import Scenario
from runner.steps import step


@step("proactive.play", version="1", tags=frozenset({"llm"}))
async def play(
    ctx: StepContext,
    *,
    samples: ProactiveSamples,
    role: Annotated[
        Literal["model", "user"],
        Field(
            description="whose place the person has. model: answers; user: a model asks openly, and the person does it or ends"
        ),
    ] = "model",
    model: Annotated[ChatModel | None, Field(description="that asks, where the person is the user")] = None,
    scenarios: Annotated[list[Scenario] | None, Field(min_length=1, description="default: all that there are")] = None,
    split: Annotated[str, Field(min_length=1, max_length=40, description="samples that are played")] = "test",
    limit: Annotated[int, Field(ge=1, le=1000, description="episodes of each scenario, drawn by the seed")] = 2,
    hint: Annotated[StrictBool, Field(description="a sentence that says what help there could be")] = False,
    temperature: Annotated[float, Field(ge=0, le=2, description="of the model's answers")] = 0.0,
    max_new_tokens: Annotated[int, Field(ge=1, le=32768, description="tokens of its answer at most")] = 256,
    label: Annotated[str | None, Field(min_length=1, max_length=80, description="name in results")] = None,
    seed: Annotated[int | None, Field(ge=0, lt=2**31, description="of the limit (default: the run's)")] = None,
) -> ProactiveEpisodes:
    """Let a person play episodes: the run waits for each answer (`runner play SPEC`, or `runner resume`)."""
    from agents.proactive_asking import ChatAsker
    from agents.proactive_play import Table
    from agents.proactive_played import artifact
    from runner.nodes.proactive.pictures import FramePictures
    from runner.nodes.proactive.samples import cases_of

    if (role == "user") != (model is not None):
        raise StepError(
            "a person who is the user needs a model that asks"
            if role == "user"
            else "the person is the model: no other one can be",
            step=ctx.step, hint="give `model` together with role: user",
        )  # fmt: skip
    seed = ctx.seed if seed is None else seed
    mode = "mcqa" if role == "model" else "oeg"  # a model that a person helps is asked openly, and hinted at as such
    cases = cases_of(samples, scenarios=scenarios, split=split, limit=limit, seed=seed, mode=mode, hint=hint or None)
    pictures = FramePictures(samples.corpus)
    asker = None
    if model is not None:
        await model.check_images(1, ctx)
        told: dict[str, Any] = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
        asker = ChatAsker(ctx, pictures, model, purpose="proactive.play", **told)
    ctx.advance("episodes", 0, len(cases))
    episodes = await Table(ctx, cases, pictures, asker).play()
    settings = {"role": role, "hint": hint, "limit": limit, "split": split, "seed": seed}
    return artifact(episodes, model, label, settings)

"""Steps `proactive.conversations`, `proactive.train`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.artifacts import Conversations
from runner.artifacts.proactive import GrpoLvlm, ProactiveSamples
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import VisionLanguageModel
from runner.nodes.finetuning.specs import Lora
from runner.nodes.proactive.grpo_specs import PAPER_LORA, GrpoSpec, RewardSpec
from runner.nodes.proactive.records import Scenario
from runner.steps import step

Scenarios = Annotated[list[Scenario] | None, Field(min_length=1, description="none = all of the samples")]
Split = Annotated[Literal["train", "test"], Field(description="of the samples")]
Limit = Annotated[int | None, Field(ge=1, description="samples of a scenario, drawn by the seed; none = all")]
Form = Annotated[
    Literal["letter", "text"], Field(description="of a reply: the option's letter, or its text")
]  # fmt: skip
Seed = Annotated[int | None, Field(ge=0, le=2**31 - 1, description="none = the run's")]
Label = Annotated[str, Field(min_length=1, max_length=200, description="what results call the model")]
HiddenReply = Literal["abstain", "guess", "ask"]
MIXTURE: dict[HiddenReply, float] = {"abstain": 0.75, "guess": 0.2, "ask": 0.05}


@step("proactive.conversations", version="1")
def conversations(
    ctx: StepContext,
    *,
    samples: ProactiveSamples,
    scenarios: Scenarios = None,
    split: Split = "train",
    limit: Limit = None,
    frames: Annotated[
        Literal["all", "ends", "first"],
        Field(description="on the way to the most telling frame: all, both ends, first"),
    ] = "all",
    form: Form = "letter",
    hidden: Annotated[
        HiddenReply | dict[HiddenReply, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        Field(description="answer where the object is not seen: abstain, guess, ask, or shares of them"),
    ] = MIXTURE,
    visible_from: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of the object from which it counts as seen; place along the way where that is not known",
        ),
    ] = 0.5,
    eval_fraction: Annotated[float, Field(ge=0, lt=1, description="samples held out, drawn by the seed")] = 0.1,
    seed: Seed = None,
) -> Conversations:
    """Single turns with the reply that a warm-up wants: the truth where the object is seen, else abstaining, guessing or asking.

    The prompt is the one of the evaluation. Reinforcement learning needs a model that can read the pictures and sometimes asks.
    """  # fmt: skip
    from runner.nodes.proactive.warming import Warmth, warm_up

    seed = ctx.seed if seed is None else seed
    shares = {hidden: 1.0} if isinstance(hidden, str) else hidden
    if not sum(shares.values()) > 0:
        raise StepError("hidden: no share is above 0", hint="Give shares of abstain, guess and ask.")
    warmth = Warmth(frames, form, shares, visible_from, eval_fraction, seed)
    return warm_up(ctx, samples, warmth, scenarios=scenarios, split=split, limit=limit)


@step("proactive.train", version="1")
def train(
    ctx: StepContext,
    *,
    model: VisionLanguageModel,
    samples: ProactiveSamples,
    label: Label,
    scenarios: Scenarios = None,
    split: Split = "train",
    limit: Limit = None,
    form: Form = "letter",
    reward: RewardSpec = RewardSpec(),  # noqa: B008 - frozen
    grpo: GrpoSpec = GrpoSpec(),  # noqa: B008 - frozen
    lora: Lora = PAPER_LORA,
    backend: Annotated[
        Literal["native", "trl"], Field(description="trl: Hugging Face's trainer (extra `trl`), single turns only")
    ] = "native",
    merge: Annotated[bool, Field(description="also write the whole model with the adapter in its weights")] = False,
    seed: Seed = None,
) -> GrpoLvlm:
    """Train a vision-language model to ask where it cannot see, by group-relative policy optimisation (ProactiveBench, 2603.19466).

    Reductions of the token losses: ``grpo`` mean over answers of the mean over tokens, ``bnpo`` over tokens of a part, ``dr_grpo`` over
    answers times the longest length, ``dapo`` over the tokens of the step.
    """
    from runner.nodes.proactive.policy_job import PolicyJob
    from runner.nodes.proactive.policy_run import learn

    seed = ctx.seed if seed is None else seed
    if reward.ask > reward.correct:
        ctx.warn(f"reward.ask {reward.ask:g} is above reward.correct {reward.correct:g}: asking always pays best")
    job = PolicyJob(model, samples, label, form, reward, grpo, lora, seed, scenarios, split, limit)
    return learn(ctx, job, backend=backend, merge=merge)

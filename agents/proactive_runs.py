"""A whole evaluation of one model: what is refused before anything is asked, the samples, the asking, the rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agents.proactive import LockStep, Plan
from agents.proactive_asking import Asker, ChatAsker, Form, LikelihoodAsker
from agents.proactive_context import SHOT_EDGES, Demonstrations, Wording, by_scenario
from agents.proactive_frames import sweep
from results.tables import arrow_table
from runner.artifacts.proactive import ProactiveEpisodes, ProactiveSamples
from runner.context import StepContext
from runner.errors import DataError, StepError
from runner.models.base import ChatModel, VisionLanguageModel
from runner.models.pictures import Transport
from runner.nodes.proactive.matching import MatchMode
from runner.nodes.proactive.pictures import FramePictures
from runner.nodes.proactive.rows import episode_rows
from runner.nodes.proactive.samples import cases_of
from runner.nodes.proactive.texts import load_texts

if TYPE_CHECKING:
    from runner.nodes.proactive.episodes import Case, Episode

Model = ChatModel | VisionLanguageModel
_UNREADABLE = 0.5


@dataclass(frozen=True)
class Settings:
    """Parameters of `proactive.evaluate`; ``texts``: file of the user's own texts."""

    mode: Literal["mcqa", "reference", "frames"] = "mcqa"
    match: MatchMode = "robust"
    form: Form = "letter"
    scenarios: Sequence[str] | None = None
    split: str = "test"
    limit: int | None = None
    hint: bool = False
    texts: Path | None = None
    options: Literal["native", "foreign"] = "native"
    short_answer: bool = True
    history: bool = False
    history_turns: int = 31
    shots: int = 0
    shots_split: str | None = None
    shots_shortened: bool = False
    shots_resized: bool = True
    temperature: float = 0.0
    draws: int = 1
    max_new_tokens: int = 50
    max_side: int | None = None
    transport: Transport = "png"
    batch_size: int = 8
    logprobs: bool = False
    probe: bool = True
    pictures: int = 4
    seed: int = 0

    def cases(self, samples: ProactiveSamples, *, split: str, limit: int | None) -> list[Case]:
        """Samples of a split as they are played."""
        return cases_of(
            samples, scenarios=self.scenarios, split=split, limit=limit, seed=self.seed,
            mode="reference" if self.mode == "reference" else "mcqa", match=self.match, options=self.options,
            hint=self.hint or None, texts=load_texts(self.texts),
        )  # fmt: skip


async def played(
    ctx: StepContext, model: Model, samples: ProactiveSamples, settings: Settings, label: str
) -> ProactiveEpisodes:
    """Episodes of ``model``. Raises ``StepError`` and ``DataError`` for settings that do not fit the model or the samples, before anything
    is asked."""
    temperature = temperature_of(model, settings.temperature)
    _refuse(ctx, model, settings, temperature)
    cases = settings.cases(samples, split=settings.split, limit=settings.limit)
    plan = _plan(ctx, samples, settings, cases, fresh=temperature > 0)
    if isinstance(model, ChatModel) and settings.probe:
        await model.check_images(_most_pictures(plan, cases), ctx)
    pictures = FramePictures(samples.corpus, max_side=settings.max_side, transport=settings.transport)
    async with _asking(ctx, model, pictures, settings) as asker:
        if settings.mode == "frames":
            episodes = await sweep(ctx, asker, plan, cases)
        else:
            episodes = await LockStep(ctx, asker, plan).play(cases, settings.draws)
    _warn_of_unreadable(ctx, episodes)
    return _artifact(model, label, settings, episodes)


def temperature_of(model: Model, asked: float) -> float:
    """What replies are drawn at: the provider's own temperature goes before the step's."""
    own = getattr(getattr(model, "settings", None), "temperature", None)
    return asked if own is None else float(own)


# --- before anything is asked ----------------------------------------------------------------------------------------


def _refuse(ctx: StepContext, model: Model, settings: Settings, temperature: float) -> None:
    if settings.draws > 1 and temperature == 0:
        raise StepError("draws: at temperature 0 every draw is the same", step=ctx.step, hint="set a temperature, or draws: 1")  # fmt: skip
    if isinstance(model, ChatModel):
        return
    if settings.match != "constrained":
        raise StepError(
            f"match: {settings.match} reads replies, but the model {model.name} is open to the steps and only scores the options",
            step=ctx.step, hint="set match: constrained, or name its folder as a chat model (provider transformers)",
        )  # fmt: skip
    for name in ("history", "shots"):
        if getattr(settings, name):
            raise StepError(
                f"{name}: options are scored with one picture", step=ctx.step,
                hint="name the model's folder as a chat model (provider transformers)",
            )  # fmt: skip


def _plan(
    ctx: StepContext, samples: ProactiveSamples, settings: Settings, cases: Sequence[Case], *, fresh: bool
) -> Plan:
    wording = Wording(settings.short_answer, load_texts(settings.texts))
    shots = _shots(ctx, samples, settings, cases, wording) if settings.shots else None
    longest = max(case.env.max_turns for case in cases) - 1
    if settings.history and longest > settings.history_turns:
        ctx.warn(f"episodes take up to {longest + 1} turns, but only the last {settings.history_turns} earlier ones are shown (history_turns)")  # fmt: skip
    return Plan(wording, settings.history_turns * settings.history, shots, fresh, settings.pictures)


def _shots(
    ctx: StepContext, samples: ProactiveSamples, settings: Settings, cases: Sequence[Case], wording: Wording
) -> Demonstrations:
    others = sorted({case.env.scenario for case in cases} - {*SHOT_EDGES})
    if others:
        raise StepError(
            f"shots: there are solved episodes of {' and '.join(SHOT_EDGES)} only, but the samples hold {', '.join(others)}",
            step=ctx.step, hint=f"set scenarios: [{', '.join(SHOT_EDGES)}]",
        )  # fmt: skip
    pool = by_scenario(settings.cases(samples, split=settings.shots_split or settings.split, limit=None))
    shots = Demonstrations(
        pool, settings.shots, wording, settings.shots_shortened, SHOT_EDGES if settings.shots_resized else {}, settings.seed
    )  # fmt: skip
    try:
        for case in cases:
            shots.of(case)
    except DataError as error:
        raise StepError(f"shots: {error.message}", step=ctx.step, hint=error.hint) from None
    return shots


def _most_pictures(plan: Plan, cases: Sequence[Case]) -> int:
    """Pictures of the longest conversation that there can be."""
    before = max((plan.shots.pictures_of(case) for case in cases), default=0) if plan.shots else 0
    return 1 + before + min(plan.history, max(case.env.max_turns for case in cases) - 1)


# --- asking and afterwards -------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _asking(ctx: StepContext, model: Model, pictures: FramePictures, settings: Settings) -> AsyncIterator[Asker]:
    if isinstance(model, ChatModel):
        yield ChatAsker(
            ctx, pictures, model, purpose="proactive.evaluate", temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens, seed=settings.seed, logprobs=settings.logprobs,
            constrained=settings.form if settings.match == "constrained" else None,
        )  # fmt: skip
        return
    loaded = await asyncio.to_thread(model.load)
    try:
        yield LikelihoodAsker(
            ctx, pictures, loaded, identity=model.identity, form=settings.form, temperature=settings.temperature,
            batch_size=settings.batch_size, seed=settings.seed,
        )  # fmt: skip
    finally:
        loaded.close()


def _warn_of_unreadable(ctx: StepContext, episodes: Sequence[Episode]) -> None:
    turns = [turn.outcome for episode in episodes for turn in episode.turns if turn.outcome is not None]
    lost = sum(outcome.match.index is None for outcome in turns)
    if turns and lost > _UNREADABLE * len(turns):
        ctx.warn(
            f"{lost:,} of {len(turns):,} answers name none of the options, or several: scores say little of such a model; see answers in "
            "pb_turns, raise max_new_tokens, or hold the replies to the options (match: constrained)"
        )  # fmt: skip


def described(model: Model) -> dict[str, Any]:
    """``model`` of its episodes."""
    return {
        "name": model.name, "identity": getattr(model, "identity", model.name), "kind": "chat" if isinstance(model, ChatModel) else "lvlm",
        "small": bool(getattr(model, "small", False)), "notes": list(getattr(model, "notes", ())),
    }  # fmt: skip


def _artifact(model: Model, label: str, settings: Settings, episodes: Sequence[Episode]) -> ProactiveEpisodes:
    told = asdict(settings) | {"texts": None if settings.texts is None else load_texts(settings.texts).model_dump()}
    rows = episode_rows(label, settings.mode, told, episodes, several=settings.draws > 1)
    tables = {name: arrow_table(name, rows.get(name, [])) for name in ("pb_episodes", "pb_turns", "pb_judgements")}
    return ProactiveEpisodes(described(model), label, told, *tables.values())

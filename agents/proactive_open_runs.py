"""A whole open-ended evaluation of one chat model: samples, asking, judging, how far the judge agrees with another, rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.proactive import Plan
from agents.proactive_asking import ChatAsker
from agents.proactive_context import Wording
from agents.proactive_judging import ModelJudge, OpenJudge, RuleJudge, judge_agreement
from agents.proactive_open import OpenMode, OpenPlay, Verdict, open_rows
from agents.proactive_open_specs import Judging
from agents.proactive_runs import described, temperature_of
from results.tables import arrow_table
from runner.artifacts.proactive import ProactiveEpisodes, ProactiveSamples
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel
from runner.models.pictures import Transport
from runner.nodes.proactive.pictures import FramePictures
from runner.nodes.proactive.samples import cases_of
from runner.nodes.proactive.texts import load_texts


@dataclass(frozen=True)
class OpenSettings:
    """Parameters of `proactive.open`; ``texts``: file of the user's own texts."""

    judging: Judging
    mode: OpenMode = "oeg"
    scenarios: Sequence[str] | None = None
    split: str = "test"
    per_scenario: int | None = 100
    hint: bool = False
    texts: Path | None = None
    temperature: float = 0.7
    draws: int = 1
    max_new_tokens: int = 1024
    max_side: int | None = None
    transport: Transport = "png"
    probe: bool = True
    pictures: int = 4
    seed: int = 0

    def told(self) -> dict[str, Any]:
        """All of them, as results keep them."""
        texts = None if self.texts is None else load_texts(self.texts).model_dump()
        return asdict(self) | {"texts": texts, "judging": self.judging.model_dump(), "match": "judge"}


async def answered(
    ctx: StepContext,
    model: ChatModel,
    samples: ProactiveSamples,
    judges: tuple[ChatModel | None, ChatModel | None],
    settings: OpenSettings,
    label: str,
) -> ProactiveEpisodes:
    """Open-ended episodes of ``model``. ``judges``: the one that decides (None: rules), and one whose agreement with it is measured (None:
    rules, where a model decides). Raises ``StepError`` and ``DataError`` for what does not fit, before anything is asked."""
    temperature = temperature_of(model, settings.temperature)
    if settings.draws > 1 and temperature == 0:
        raise StepError("draws: at temperature 0 every draw is the same", step=ctx.step, hint="set a temperature, or draws: 1")  # fmt: skip
    texts = load_texts(settings.texts)
    cases = cases_of(
        samples, scenarios=settings.scenarios, split=settings.split, limit=settings.per_scenario, seed=settings.seed,
        mode="oeg", hint=settings.hint or None, texts=texts,
    )  # fmt: skip
    if settings.probe:
        await model.check_images(1, ctx)
    asker = ChatAsker(
        ctx, FramePictures(samples.corpus, max_side=settings.max_side, transport=settings.transport), model,
        purpose="proactive.open", temperature=settings.temperature, max_new_tokens=settings.max_new_tokens, seed=settings.seed,
    )  # fmt: skip
    plan = Plan(Wording(False, texts), fresh=temperature > 0, keep=settings.pictures)
    judge, other = (_judge(ctx, llm, settings) for llm in judges)
    play = OpenPlay(ctx, asker, plan, judge, settings.mode)
    episodes = await play.play(cases, settings.draws)
    told = settings.told() | {"judge": judge.name, "agreement": await _agreement(play.verdicts, judge, other)}
    rows = open_rows(label, settings.mode, told, episodes, play.verdicts, several=settings.draws > 1)
    return ProactiveEpisodes(described(model), label, told, *(arrow_table(name, rows[name]) for name in _TABLES))


_TABLES = ("pb_episodes", "pb_turns", "pb_judgements")


def _judge(ctx: StepContext, llm: ChatModel | None, settings: OpenSettings) -> OpenJudge:
    return RuleJudge() if llm is None else ModelJudge(ctx, llm, settings.judging, seed=settings.seed)


async def _agreement(verdicts: Sequence[Verdict], judge: OpenJudge, other: OpenJudge) -> Mapping[str, Any] | None:
    """Of the judge with another one on the same answers; None where both are the rules."""
    if isinstance(judge, RuleJudge) and isinstance(other, RuleJudge):
        return None
    second = await other.judged([verdict.asked for verdict in verdicts])
    return {"with": other.name} | judge_agreement([verdict.judgement for verdict in verdicts], second)

"""What happened in episodes, and playing many of them side by side. Pure: no picture is opened."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from runner.nodes.proactive.env import Frame, Option, Outcome, ProactiveEnv, State
from runner.nodes.proactive.rendering import option_line

if TYPE_CHECKING:
    from runner.nodes.proactive.exact import Value
    from runner.nodes.proactive.records import Record


class Case(NamedTuple):
    """A sample that is played. ``drawn_with``: samples of one drawing share it; None: alone."""

    source_id: str
    record: Record
    env: ProactiveEnv
    drawn_with: str | None
    split: str


@dataclass(frozen=True)
class Turn:
    """One answer. ``state``, ``options``: as they were shown; ``outcome`` None: nothing was answered; ``forced``: categories only.

    ``probabilities``: of the options; ``logprob``: of the reply, nats; ``thumbnail``: small JPEG of what was shown.
    """

    state: State
    frame: Frame
    options: tuple[Option, ...]
    answer: str | None
    outcome: Outcome | None
    prompt: str = ""
    image_sha1: str | None = None
    prompt_sha1: str | None = None
    forced: bool = False
    place: float | None = None
    probabilities: tuple[float, ...] | None = None
    logprob: float | None = None
    thumbnail: bytes | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Episode:
    """Turns of one sample. ``draw``: from 0; ``failure``: why there is none (``status`` error); ``expected``: of exact evaluations, which
    have values in place of turns that happened."""

    case: Case
    draw: int
    turns: tuple[Turn, ...]
    stop_reason: str | None
    success: bool
    status: Literal["ok", "error"]
    failure: str | None = None
    expected: Value | None = None


class Policy(Protocol):
    """Answers, one for each: texts that are matched, or indices of shown options."""

    def __call__(self, batch: Sequence[tuple[Case, State, tuple[Option, ...]]]) -> Sequence[int | str]:
        """What to answer in each of these states."""


class Stochastic(Protocol):
    """A policy that says how likely each option is: ``play`` draws for it, so that an episode does not hang on who plays beside it."""

    def probabilities(self, env: ProactiveEnv, state: State, options: tuple[Option, ...]) -> Sequence[float]:
        """One for each option, summing to 1."""


class _Seat:
    """One running episode."""

    def __init__(self, case: Case, draw: int, seed: int) -> None:
        self.case, self.draw, self.state = case, draw, case.env.initial()
        self.turns: list[Turn] = []
        record = case.record
        self.rng = random.Random(f"{seed}\0{record.scenario}\0{record.sample_id}\0{draw}")  # noqa: S311 - not for secrets

    def take(self, options: tuple[Option, ...], answer: int | str | None) -> Outcome:
        env = self.case.env
        outcome = env.advance(self.state, answer)
        said = option_line(answer, options[answer].text) if isinstance(answer, int) else answer
        self.turns.append(Turn(self.state, env.frame(self.state), options, said, outcome, place=env.place(self.state)))
        if outcome.next_state is not None:
            self.state = outcome.next_state
        return outcome

    def episode(self) -> Episode:
        last = self.turns[-1].outcome
        assert last is not None
        return Episode(self.case, self.draw, tuple(self.turns), last.stop_reason, last.success, "ok")


class VectorProactiveEnv:
    """Many episodes in lock-step: each call answers all that still run, in the order of ``running``."""

    def __init__(self, cases: Sequence[Case], *, draws: int = 1, seed: int = 0) -> None:
        self._seats = [_Seat(case, draw, seed) for case in cases for draw in range(draws)]
        self.running = list(range(len(self._seats)))

    def batch(self) -> list[tuple[Case, State, tuple[Option, ...]]]:
        """What the running episodes show."""
        seats = (self._seats[i] for i in self.running)
        return [(seat.case, seat.state, seat.case.env.shown(seat.state)) for seat in seats]

    def generators(self) -> list[random.Random]:
        """A source of chance for each running episode, by seed, sample and draw."""
        return [self._seats[i].rng for i in self.running]

    def step(self, answers: Sequence[int | str | None]) -> list[Outcome]:
        """Advance the running episodes by one answer each; those that end leave ``running``."""
        shown = self.batch()
        outcomes = [
            self._seats[i].take(options, answer)
            for i, (_, _, options), answer in zip(self.running, shown, answers, strict=True)
        ]
        self.running = [i for i, outcome in zip(self.running, outcomes, strict=True) if outcome.next_state is not None]
        return outcomes

    def episodes(self) -> list[Episode]:
        """What happened, in order of cases and draws. Raises RuntimeError while some still run."""
        if self.running:
            raise RuntimeError(f"{len(self.running)} episodes still run")
        return [seat.episode() for seat in self._seats]


def play(
    cases: Sequence[Case],
    policy: Policy | Stochastic,
    *,
    draws: int = 1,
    seed: int = 0,
    spoken: bool = False,
) -> list[Episode]:
    """Play every case ``draws`` times. ``spoken``: indices are said as a line of the list and matched again, as a model's answer would be."""
    table = VectorProactiveEnv(cases, draws=draws, seed=seed)
    while table.running:
        batch = table.batch()
        answers = _answers(policy, batch, table.generators())
        if spoken:
            answers = [option_line(a, shown[a].text) if isinstance(a, int) else a for a, (_, _, shown) in zip(answers, batch, strict=True)]  # fmt: skip
        table.step(answers)
    return table.episodes()


def _answers(
    policy: Policy | Stochastic,
    batch: Sequence[tuple[Case, State, tuple[Option, ...]]],
    generators: Sequence[random.Random],
) -> Sequence[int | str]:
    odds = getattr(policy, "probabilities", None)
    if odds is None:
        return policy(batch)  # type: ignore[operator]
    return [
        drawn(odds(case.env, state, options), rng)
        for (case, state, options), rng in zip(batch, generators, strict=True)
    ]


def drawn(probabilities: Sequence[float], rng: random.Random) -> int:
    """An index drawn by its probability."""
    return rng.choices(range(len(probabilities)), probabilities)[0]

"""What answers are worth when a model learns to ask, and the states it learns in.

Reward of one answer (ProactiveBench, 2603.19466, section on post-training): r_c for the right category, r_p for a request that helps,
else 0. Returns of episodes, the cost of a turn and what a request is worth at the most telling frame are ours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from runner.nodes.proactive.env import option_kind

if TYPE_CHECKING:
    from runner.nodes.proactive.env import Option, ProactiveEnv, State
    from runner.nodes.proactive.episodes import Case
    from runner.nodes.proactive.grpo_specs import RewardSpec

Frames = Literal["all", "ends", "first"]
Choices = Mapping[int, Sequence[int]]
"""Options (by number) whose reply may begin with a token, by token."""
UNREADABLE = "unreadable"


class Situation(NamedTuple):
    """One turn that can be asked for by itself: a state of a sample."""

    case: Case
    state: State

    @property
    def prompt_id(self) -> str:
        """SCENARIO/SAMPLE/frame."""
        return f"{self.case.record.scenario}/{self.case.record.sample_id}/{self.case.env.frame(self.state).index}"


class Worth(NamedTuple):
    """What an answer in one state is: its option's kind (``unreadable`` where it names none), and its reward."""

    kind: str
    reward: float


def states_of(env: ProactiveEnv, frames: Frames) -> tuple[State, ...]:
    """States along the shortest way to the most telling frame: all, the two ends, or the first; each once."""
    path = env.ask_path()
    chosen = path if frames == "all" else (path[0], path[-1]) if frames == "ends" else path[:1]
    return tuple(dict.fromkeys(chosen))


def worth(env: ProactiveEnv, state: State, shown: Sequence[Option], option: int | None, spec: RewardSpec) -> Worth:
    """Of the option with this number among those ``shown`` in ``state``; None: nothing that is shown."""
    if option is None:
        return Worth(UNREADABLE, spec.wrong)
    kind = option_kind(shown[option])
    if kind == "category_true":
        return Worth(kind, spec.correct)
    if kind != "ask_valid" and not _asks_at_end(env, state, shown[option]):
        return Worth(kind, spec.wrong)
    at_end = spec.ask_at_reference
    return Worth(kind, spec.ask if at_end == "same" or env.place(state) < 1 else at_end)


def _asks_at_end(env: ProactiveEnv, state: State, option: Option) -> bool:
    """Whether this request helped before the most telling frame was reached, where none helps any more."""
    if option.kind != "ask" or env.place(state) < 1:
        return False
    return any(o.text == option.text and o.valid and o.kind == "ask" for o in env.shown(env.initial()))


def episode_return(last: float, turns: int, spec: RewardSpec) -> float:
    """Reward of the last turn - turn_cost (T - 1): the return of every turn of the episode."""
    return last - spec.turn_cost * (turns - 1)


def choices(tokens: Sequence[int]) -> Choices:
    """Options by the token with which each one's reply begins."""
    found: dict[int, list[int]] = {}
    for option, token in enumerate(tokens):
        found.setdefault(token, []).append(option)
    return found


def option_of(token: int, known: Choices, *seed: object) -> int | None:
    """The option that a reply beginning with ``token`` stands for; one of them by the seed where several do, None where none does."""
    options = known.get(token, ())
    if len(options) < 2:
        return options[0] if options else None
    return random.Random("/".join(map(str, seed))).choice(options)  # noqa: S311 - no secret

"""Every frame on the way to the most telling one is asked about twice: with all options, and with the categories alone.

What a model does where it would be right anyway, and where it would be wrong, tells asking out of need from asking out of habit (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agents.openworld_chunks import Losses
from agents.proactive import Plan, turn_of
from agents.proactive_asking import Asker, Question, Said
from runner.context import StepContext
from runner.nodes.proactive.env import Outcome
from runner.nodes.proactive.episodes import Case, Episode, Turn
from runner.nodes.proactive.matching import Match, match, verdicts_of
from runner.nodes.proactive.pictures import place_of

if TYPE_CHECKING:
    from runner.nodes.proactive.env import Option, State


@dataclass(frozen=True)
class Asked:
    """One question about one frame."""

    case: Case
    state: State
    options: tuple[Option, ...]
    forced: bool
    question: Question


async def sweep(ctx: StepContext, asker: Asker, plan: Plan, cases: Sequence[Case]) -> list[Episode]:
    """An episode a case, whose turns are its frames in order, each as it stands and forced. Success: that of the last frame, as it stands."""
    asked = [(case, _asked(plan, case, number < plan.keep)) for number, case in _numbered(cases)]
    await asker.answers([one.question for _, all_ in asked for one in all_])
    losses = Losses(ctx, "episodes")
    episodes = [_episode(asker, case, all_, losses) for case, all_ in asked]
    losses.close()
    return episodes


def _numbered(cases: Sequence[Case]) -> list[tuple[int, Case]]:
    """Cases with their number in their scenario."""
    seen: dict[str, int] = {}
    numbered = []
    for case in cases:
        number = seen.get(case.env.scenario, 0)
        seen[case.env.scenario] = number + 1
        numbered.append((number, case))
    return numbered


def _asked(plan: Plan, case: Case, keep: bool) -> list[Asked]:
    before = plan.shots.of(case) if plan.shots else ()
    asked = []
    for state in case.env.ask_path():
        for forced in (False, True):
            options = case.env.shown(state, forced=forced)
            said = (place_of(case, state, plan.edge(case)), plan.wording.of(case, state, forced=forced))
            item = f"{case.env.scenario}/{case.record.sample_id}, turn {state.turn + 1}{', forced' * forced}"
            texts = tuple(option.text for option in options)
            asked.append(
                Asked(case, state, options, forced, Question(item, (*before, ("user", said)), texts, keep=keep))
            )
    return asked


def _episode(asker: Asker, case: Case, asked: Sequence[Asked], losses: Losses) -> Episode:
    told = [(one, _known(asker, one)) for one in asked]
    failed = next((said.failure for _, said in told if said.failure is not None), None)
    if failed is not None:
        losses.add(f"{case.env.scenario}/{case.record.sample_id}", failed)
    turns = tuple(_turn(asker, one, said) for one, said in told if said.failure is None)
    last = None if failed is not None else turns[-2].outcome  # as it stands, before the forced one
    return Episode(
        case, 0, turns, "error" if last is None else last.stop_reason, last is not None and last.success,
        "ok" if failed is None else "error", failed,
    )  # fmt: skip


def _known(asker: Asker, asked: Asked) -> Said:
    said = asker.known(asked.question)
    assert said is not None  # all were asked
    return said


def _turn(asker: Asker, asked: Asked, said: Said) -> Turn:
    outcome = _forced_outcome(asked, said) if asked.forced else asked.case.env.advance(asked.state, said.choice)
    thumbnail = asker.thumbnails.get(asked.question.shown) if asked.question.keep and not asked.forced else None
    turn = turn_of(
        asked.case, asked.state, asked.question, said, outcome=outcome, thumbnail=thumbnail, options=asked.options
    )
    return replace(turn, forced=asked.forced)


def _forced_outcome(asked: Asked, said: Said) -> Outcome:
    """What the answer says among the categories; it leads nowhere."""
    index = said.index
    found = Match(index, "constrained") if index is not None else match(said.text, asked.options, asked.case.env.match)
    told = verdicts_of(found, asked.options)
    right = told.category == "correct"
    return Outcome(found, told.action, told.category, None, None, None, right, True, False)

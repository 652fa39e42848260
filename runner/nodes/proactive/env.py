"""The environment: what is shown in a state, what an answer means there, and where it leads. Pure in record, answers and seed.

Source: ProactiveBench (arXiv 2603.19466). The pure methods (``initial``, ``shown``, ``observation``, ``advance``) take a state and return
values; ``reset`` and ``step`` keep the state for those who want the shape of gymnasium. No picture is opened here.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from runner.errors import UsageError
from runner.nodes.proactive.dynamics import Dynamics, Frame, State, corrupt_position, dynamics_of
from runner.nodes.proactive.matching import Match, MatchMode, Verdict, Verdicts, normal_form, verdicts, verdicts_of
from runner.nodes.proactive.options import Kind, Option, option_kind
from runner.nodes.proactive.records import SCENARIOS, Record, actions_named, is_abstention
from runner.nodes.proactive.texts import Texts, load_texts

__all__ = [
    "Frame", "Kind", "Mode", "Observation", "Option", "Outcome", "ProactiveEnv", "Rewards", "State", "make_env", "option_kind",
    "shown_options",
]  # fmt: skip

Mode = Literal["mcqa", "reference", "oeg"]
OptionsMode = Literal["native", "foreign"]


@dataclass(frozen=True)
class Observation:
    """What a policy sees in a turn (from 1); ``options`` in the order of their letters, none where the answer is open."""

    frame: Frame
    preface: str
    question: str
    hint: str
    options: tuple[str, ...]
    turn: int


@dataclass(frozen=True)
class Outcome:
    """What an answer led to. ``action``: what was done, None where the episode ended; ``next_state``: None, it is over.

    ``stop_reason``: ``success``, ``wrong_category``, ``abstain``, ``invalid_ask``, ``unreadable``, or ``exhausted``: a request on the last
    turn, which is not met any more (``truncated``; else the end is ``terminated``).
    """

    match: Match
    action_verdict: Verdict
    category_verdict: Verdict
    action: str | None
    next_state: State | None
    stop_reason: str | None
    success: bool
    terminated: bool
    truncated: bool


class Rewards(NamedTuple):
    """Rewards of a turn. ``ask_at_reference``: of a request at the most telling view (None: as of any); ``turn_cost``: off each request."""

    correct: float = 1.0
    ask: float = 0.0
    wrong: float = 0.0
    ask_at_reference: float | None = None
    turn_cost: float = 0.0


_FAMILY: Mapping[str, str] = {
    "ROD": "moving", "MVP-N": "moving", "COCO": "moving", "VSOD": "video", "CIT": "video", "IN-C": "quality", "QD": "drawing",
}  # fmt: skip
"""Scenarios whose requests would help in one another: none is foreign to its own family [ours]."""


@dataclass(frozen=True)
class Settings:
    """How a record is played, beside the record."""

    mode: Mode
    match: MatchMode
    options: OptionsMode
    hint: str
    seed: int
    rewards: Rewards


class ProactiveEnv:
    """One record as a Markov decision process over ``State``. Picklable; the record is never changed.

    ``mode``: ``mcqa`` (options are shown), ``reference`` (the most telling view, categories only, one turn), ``oeg`` (as ``mcqa``, but
    the observation has no options: who judges the open answer passes the index of the option of ``shown`` that it comes down to).
    """

    def __init__(self, record: Record, settings: Settings, texts: Texts) -> None:
        self.record, self.texts = record, texts
        self.scenario = record.scenario
        self.dynamics: Dynamics = dynamics_of(record)
        self._asks = {option: _request(record, option) for option in record.options if not is_abstention(option)}
        self._corrupt = corrupt_position(record)
        self._state: State | None = None
        self.max_turns = 1 if settings.mode == "reference" else self.dynamics.max_turns
        self._play_by(settings)

    def _play_by(self, settings: Settings) -> None:
        self.settings = settings
        self.mode, self.match, self.options_mode = settings.mode, settings.match, settings.options
        self._foreign = _foreign_texts(self.record, self.texts, settings.seed) if settings.options == "foreign" else {}
        self._shown: dict[Hashable, tuple[Option, ...]] = {}

    # --- pure ------------------------------------------------------------------------------------------------------

    def initial(self) -> State:
        """The state before the first turn."""
        return self.dynamics.start()

    def shown(self, state: State, *, forced: bool = False) -> tuple[Option, ...]:
        """Options in the order of their letters: requests and abstentions, then categories. ``forced``: categories only, the right one
        valid whatever the turn."""
        if forced or self.mode == "reference":
            return self._categories(True)
        key = self.view_key(state)
        found = self._shown.get(key)
        if found is None:
            # In ROD nothing can be told on the first turn: a category there is wrong, whichever it is.
            counts = self.scenario != "ROD" or state.turn > 0
            found = self._shown[key] = (*self._others(state), *self._categories(counts))
        return found

    def _categories(self, counts: bool) -> tuple[Option, ...]:
        answer = self.record.answer
        return tuple(Option(text, "category", counts and text == answer, None) for text in self.record.categories)

    def _others(self, state: State) -> tuple[Option, ...]:
        possible = self.dynamics.possible(state)
        foreign = self.options_mode == "foreign"
        found = []
        for text in self.record.options:
            action = self._asks.get(text)
            if is_abstention(text):
                found.append(Option(text, "abstain", False, None))
            elif foreign and text in self._foreign:
                found.append(Option(self._foreign[text], "ask", bool(possible), None))
            elif action in possible or not self.dynamics.withdraws:
                found.append(Option(text, "ask", action in possible, action))
        return tuple(found)

    def frame(self, state: State) -> Frame:
        """What picture is shown."""
        return self.dynamics.reference() if self.mode == "reference" else self.dynamics.frame(state)

    def observation(self, state: State, *, forced: bool = False) -> Observation:
        """What a policy sees. ``forced``: categories only."""
        reference = self.mode == "reference"
        plain = reference and self.scenario == "ROD"
        question = self.texts.plain_question if plain else self.record.prompt
        options = () if self.mode == "oeg" and not forced else self.shown(state, forced=forced)
        return Observation(self.frame(state), self.texts.prefaces.get(self.scenario, ""), question, self.settings.hint,
                           tuple(option.text for option in options), state.turn + 1)  # fmt: skip

    def advance(self, state: State, answer: str | int | None) -> Outcome:
        """What ``answer`` (a text that is matched, the index of a shown option, None: nothing readable) leads to.

        The category is judged before the request, so an answer that is both counts as the category. A request on the last turn is
        judged but not met. Raises IndexError for an index that is not shown.
        """
        options = self.shown(state)
        judged = self._judged(answer, options)
        if judged.category == "correct":
            return _over(judged, "success")
        if judged.action != "correct":
            return _over(judged, _reason(judged.match, options))
        if state.turn + 1 >= self.max_turns:
            return _over(judged, "exhausted")
        action = self._executed(state, options, judged.match)
        following = self.dynamics.move(state, action)
        return Outcome(judged.match, "correct", judged.category, action, following, None, False, False, False)

    def _judged(self, answer: str | int | None, options: tuple[Option, ...]) -> Verdicts:
        if isinstance(answer, str):
            return verdicts(answer, options, self.match)
        if answer is None:
            return Verdicts(Match(None, "mismatch"), "mismatch", "mismatch")
        if not 0 <= answer < len(options):
            raise IndexError(f"{len(options)} options are shown: no option {answer}")
        return verdicts_of(Match(int(answer), "constrained"), options)

    def _executed(self, state: State, options: tuple[Option, ...], match: Match) -> str:
        """The action of the matched request; of a foreign one any that is possible, drawn by seed, sample and turn."""
        asked = options[match.index].action if match.index is not None else None
        return asked or self.drawn_action(state)

    def drawn_action(self, state: State) -> str:
        """One of the possible actions, by seed, sample and turn: where a request is met that names none of them."""
        possible = self.dynamics.possible(state)
        r = self.record
        return _random(self.settings.seed, "action", r.scenario, r.sample_id, state.turn).choice(possible)

    def view_key(self, state: State) -> Hashable:
        """What decides what is shown and where each option leads, whatever the turn (foreign requests draw their action by turn)."""
        started = state.turn > 0 and self.scenario == "ROD"
        from_right = state.position == self._corrupt and state.last == "left"
        turn = state.turn if self.options_mode == "foreign" else None
        return state.position, state.across, state.down, started, from_right, turn

    def state_key(self, state: State) -> Hashable:
        """What decides all that follows, and what is shown."""
        return state.turn, self.view_key(state)

    def place(self, state: State) -> float:
        """How far along the way to the most telling view, 0 (first) to 1; farther off than the first view is 0."""
        whole = self.dynamics.remaining(self.initial())
        return 1.0 if not whole else max(0.0, 1 - self.dynamics.remaining(state) / whole)

    def ask_path(self) -> tuple[State, ...]:
        """States on the shortest way by valid requests from the first view to the most telling one, as far as the turns reach.

        Foreign requests do something at random; the way is that of the record's own all the same.
        """
        path = [self.initial()]
        while len(path) < self.max_turns:
            here = path[-1]
            ahead = [self.dynamics.move(here, action) for action in self._actions(here)]
            ahead = [state for state in ahead if self.dynamics.remaining(state) < self.dynamics.remaining(here)]
            if not ahead:
                break
            path.append(ahead[0])
        return tuple(path)

    def _actions(self, state: State) -> tuple[str, ...]:
        """Actions of the record's own requests that help now, in their order."""
        possible = self.dynamics.possible(state)
        return tuple(action for action in dict.fromkeys(self._asks.values()) if action in possible)

    def reward(self, state: State, outcome: Outcome) -> float:
        """Of one answer. A request counts by its verdict, met or not; each costs ``turn_cost``."""
        r = self.settings.rewards
        if outcome.success:
            return r.correct
        if outcome.action_verdict != "correct":
            return r.wrong
        there = r.ask_at_reference is not None and self.dynamics.remaining(state) == 0
        return (r.ask_at_reference if there and r.ask_at_reference is not None else r.ask) - r.turn_cost

    # --- with a state of its own, in the shape of gymnasium -----------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Back to the first turn. ``seed``: of what foreign requests do, from here on. ``options`` may hold a ``state`` to start from."""
        if seed is not None and seed != self.settings.seed:
            self._play_by(replace(self.settings, seed=seed))
        state = (options or {}).get("state") or self.initial()
        self._state = state
        return self.observation(state), self._info(state)

    def step(self, action: str | int) -> tuple[Observation | None, float, bool, bool, dict[str, Any]]:
        """Observation (None when over), reward, terminated, truncated, info. Raises ``UsageError`` before ``reset`` and after the end."""
        if self._state is None:
            raise UsageError("the episode has not begun or is over", hint="call reset() first")
        state, outcome = self._state, self.advance(self._state, action)
        self._state = following = outcome.next_state
        info = self._info(following) if following else {}
        info |= {
            "verdicts": (outcome.action_verdict, outcome.category_verdict), "match_kind": outcome.match.kind, "action": outcome.action,
            "frame_from": self.frame(state), "frame_to": self.frame(following) if following else None,
            "stop_reason": outcome.stop_reason, "success": outcome.success,
        }  # fmt: skip
        seen = self.observation(following) if following else None
        return seen, self.reward(state, outcome), outcome.terminated, outcome.truncated, info

    def _info(self, state: State) -> dict[str, Any]:
        return {"option_kinds": tuple(map(option_kind, self.shown(state))), "state": state}

    def clone(self) -> ProactiveEnv:
        """Another environment in the same state."""
        twin = type(self)(self.record, self.settings, self.texts)
        twin._state = self._state
        return twin

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values; empty before ``reset`` and after the end."""
        return self._state._asdict() if self._state else {}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Put a state of ``state_dict`` back."""
        self._state = State(**values) if values else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shown": {}}


def _over(judged: Verdicts, reason: str) -> Outcome:
    success, exhausted = reason == "success", reason == "exhausted"
    return Outcome(judged.match, judged.action, judged.category, None, None, reason, success, not exhausted, exhausted)


def _reason(match: Match, options: tuple[Option, ...]) -> str:
    if match.index is None:
        return "unreadable"
    return {"ask": "invalid_ask", "abstain": "abstain", "category": "wrong_category"}[options[match.index].kind]


def _request(record: Record, option: str) -> str:
    """The action that a request of the record names; in IN-C only the right suggestion leads on."""
    if record.quality_answer is not None:
        return "next" if option == record.quality_answer else "none"
    return actions_named(record.scenario, option)[0]


def _random(*parts: object) -> random.Random:
    """A generator of its own for a purpose; the same in every process."""
    return random.Random("\0".join(map(str, parts)))  # noqa: S311 - not for secrets


def _foreign_texts(record: Record, texts: Texts, seed: int) -> dict[str, str]:
    """What stands in place of each request that helps: one of a scenario of another family, no text twice."""
    helping = [o for o in record.options if not is_abstention(o) and record.quality_answer in (None, o)]
    taken = {normal_form(text) for text in (*record.options, *record.categories)}
    pool = {
        normal_form(text): text
        for scenario in SCENARIOS if _FAMILY[scenario] != _FAMILY[record.scenario]
        for text in texts.foreign.get(scenario, ()) if not is_abstention(text)
    }  # fmt: skip
    left = [text for form, text in pool.items() if form not in taken]
    if len(left) < len(helping):
        raise UsageError(f"{record.scenario}: {len(helping)} foreign requests are needed, {len(left)} are known",
                         hint="name more of other scenarios under `foreign` in the file of texts")  # fmt: skip
    return dict(zip(helping, _random(seed, "foreign", record.scenario, record.sample_id).sample(left, len(helping)), strict=True))  # fmt: skip


def make_env(
    record: Record,
    scenario: str | None = None,
    *,
    mode: Mode = "mcqa",
    match: MatchMode = "robust",
    options: OptionsMode = "native",
    hint: bool | str | None = None,
    texts: Texts | None = None,
    seed: int = 0,
    rewards: Rewards = Rewards(),  # noqa: B008 - immutable
) -> ProactiveEnv:
    """The environment of one record. ``hint``: True for the texts' own (open answers: the general one), or a sentence.

    ``options="foreign"``: each request that helps is replaced by one of another scenario, drawn by ``seed`` and sample; it counts as
    asking, and a random possible action is what is done. Requests are not withdrawn then. Raises ``UsageError``.
    """
    if scenario not in (None, record.scenario):
        raise UsageError(f"sample {record.sample_id} belongs to {record.scenario}, not to {scenario}")
    texts = texts or load_texts()
    said = (
        hint
        if isinstance(hint, str)
        else ""
        if not hint
        else texts.open_hint
        if mode == "oeg"
        else texts.hint_of(record)
    )
    return ProactiveEnv(record, Settings(mode, match, options, said, seed, rewards), texts)


def shown_options(env: ProactiveEnv, state: State | None = None) -> tuple[Option, ...]:
    """Options of a state, by default of the first."""
    return env.shown(env.initial() if state is None else state)

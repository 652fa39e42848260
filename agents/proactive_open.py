"""Open-ended answers: no options are shown, and a judge says which ideas an answer expresses.

    START -> ask -> judge -> ask ... -> close -> END

``oeg``: the first turn only [paper]. ``oeg_multiturn``: where an answer asks for something that helps, it is done, and the model is asked again; the
paper reports such a mode without its code, so its rules are ours: the right category ends the episode; else a request is done as the answer
words it, or, where it names none of the scenario's actions, one that is possible is drawn; anything else ends the episode.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from agents.asking import asking_loop
from agents.proactive import LockStep, Plan, Playing, Walk, turn_of
from agents.proactive_asking import Asker, Question, Said
from agents.proactive_judging import Asked, Judgement, OpenJudge
from runner.context import StepContext
from runner.nodes.proactive.env import Option, Outcome, ProactiveEnv, State, option_kind
from runner.nodes.proactive.episodes import Episode, Turn
from runner.nodes.proactive.judge import Aggregate, References, references
from runner.nodes.proactive.judge_words import abstains, ideas_in, mentions, named_action
from runner.nodes.proactive.matching import without_reasoning
from runner.nodes.proactive.rows import episode_rows

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from runner.nodes.proactive.texts import Texts

OpenMode = Literal["oeg", "oeg_multiturn"]
Row = dict[str, Any]


# --- what an answer comes down to --------------------------------------------------------------------------------------


def chosen_option(env: ProactiveEnv, state: State, answer: str, told: Aggregate) -> int | None:
    """The option of ``env.shown(state)`` that a judged answer comes down to, or None.

    The right category where it counts; else a request that helps, as the answer words it; then the right category where it does
    not count yet (ROD, turn 1). What the judge did not look for is read by rules: a request that does not help, abstention, another category.
    """
    options = env.shown(state)
    truth = next(i for i, o in enumerate(options) if o.kind == "category" and o.text == env.record.answer)
    if told.cc and options[truth].valid:
        return truth
    helping = [i for i, option in enumerate(options) if option.kind == "ask" and option.valid]
    if told.ps and helping:
        return _worded(env, state, answer, helping)
    if told.cc:
        return truth
    return _by_rules(answer, options, told)


def _worded(env: ProactiveEnv, state: State, answer: str, helping: Sequence[int]) -> int:
    """The request whose action the answer names first; where it names none, one that does what the environment draws."""
    options = env.shown(state)
    actions = {options[i].action or "": i for i in reversed(helping)}
    named = named_action(answer, list(actions))
    return actions[named] if named else actions.get(env.drawn_action(state), helping[0])


def _by_rules(answer: str, options: Sequence[Option], told: Aggregate) -> int | None:
    said = ideas_in(answer)
    asks = (
        i for i, o in enumerate(options) if o.kind == "ask" and not o.valid and (told.ps or said & ideas_in(o.text))
    )
    others = (i for i, o in enumerate(options) if o.kind == "category" and not o.valid and mentions(answer, o.text))
    abstentions = (i for i, o in enumerate(options) if o.kind == "abstain" and abstains(answer))
    return next(itertools.chain(asks, others, abstentions), None)


def outcome_of(env: ProactiveEnv, state: State, answer: str, told: Aggregate, mode: OpenMode) -> Outcome:
    """What a judged answer leads to. In mode ``oeg`` a request that helps is not met: the only turn is used up."""
    outcome = env.advance(state, chosen_option(env, state, answer, told))
    if mode == "oeg" and outcome.next_state is not None:
        return replace(outcome, action=None, next_state=None, stop_reason="exhausted", truncated=True)
    return outcome


# --- episodes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """A judgement and what it is about."""

    playing: Playing
    turn: int
    asked: Asked
    judgement: Judgement


class OpenPlay(LockStep):
    """Plays episodes in lock-step whose answers are judged instead of matched."""

    def __init__(self, ctx: StepContext, asker: Asker, plan: Plan, judge: OpenJudge, mode: OpenMode) -> None:
        super().__init__(ctx, asker, plan)
        self._judge, self._mode = judge, mode
        self.verdicts: list[Verdict] = []

    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """Asking and judging all live episodes, until none lives."""
        return asking_loop(Walk, Walk, ask=self._ask_all, judge=self._judge_all, close=self._close, enough=self._enough)

    async def _ask_all(self, state: Walk) -> Walk:
        return await self._ask(await self._observe(state))

    async def _enough(self, state: Walk) -> str:
        return "again" if state["live"] else "enough"

    async def _judge_all(self, state: Walk) -> Walk:
        """Bits for all answers at once, then every episode moves by its own."""
        said = {number: self._said(number) for number in state["live"]}
        answered = [number for number, one in said.items() if one.failure is None]
        asked = [self._asked(self._playing[number], self._ready[number], said[number]) for number in answered]
        judged = dict(zip(answered, await self._judge.judged(asked), strict=True))
        for number, one in zip(answered, asked, strict=True):
            playing = self._playing[number]
            self.verdicts.append(Verdict(playing, len(playing.turns) + 1, one, judged[number]))
        live = [number for number in state["live"] if self._moves(number, said[number], judged.get(number))]
        return {"live": live}

    def _said(self, number: int) -> Said:
        said = self._asker.known(self._ready[number])
        assert said is not None  # all were asked
        return said

    def _asked(self, playing: Playing, question: Question, said: Said) -> Asked:
        ideas = ideas_for(playing.case.env, self._mode)
        return Asked(question.item, question.text, ideas, said.text or "")

    def _moves(self, number: int, said: Said, judgement: Judgement | None) -> bool:
        """Whether the episode goes on."""
        playing, question = self._playing[number], self._ready[number]
        told = judgement.told if judgement else None
        if judgement is None or told is None:
            self._lose(playing, question, said, judgement)
        else:
            playing.visits[replace(question, sample=0).address] += 1
            playing.turns.append(self._turn(playing, question, said, told))
            outcome = playing.turns[-1].outcome
            playing.state = outcome.next_state if outcome else None
        if playing.state is None:
            self._ctx.advance("episodes", 1)
        return playing.state is not None

    def _lose(self, playing: Playing, question: Question, said: Said, judgement: Judgement | None) -> None:
        """The episode fails; an answer that no judge could be brought to read is kept."""
        if judgement is not None:
            unread = self._turn(playing, question, said, Aggregate(False, False, False))
            playing.turns.append(replace(unread, outcome=None))
            said = replace(said, failure=judgement.failure)
        self._act(playing, question, said)

    def _turn(self, playing: Playing, question: Question, said: Said, told: Aggregate) -> Turn:
        case, state = playing.case, playing.state
        assert state is not None
        outcome = outcome_of(case.env, state, without_reasoning(said.text or ""), told, self._mode)
        thumbnail = self._asker.thumbnails.get(question.shown) if playing.keep else None
        return turn_of(case, state, question, said, outcome=outcome, thumbnail=thumbnail, options=())


def ideas_for(env: ProactiveEnv, mode: OpenMode) -> References:
    """Ideas a judge looks for; over several turns always the category too, without which no episode could succeed."""
    texts: Texts = env.texts
    return references(env.record, texts, labelled=mode == "oeg_multiturn")


# --- rows --------------------------------------------------------------------------------------------------------------


def open_rows(
    label: str,
    mode: OpenMode,
    settings: Mapping[str, Any],
    episodes: Sequence[Episode],
    verdicts: Sequence[Verdict],
    *,
    several: bool | None = None,
) -> dict[str, list[Row]]:
    """Rows of ``pb_episodes``, ``pb_turns`` and ``pb_judgements``."""
    rows = episode_rows(label, mode, settings, episodes, several=several)
    turns = [(episode, turn) for episode in episodes for turn in episode.turns]
    rows["pb_turns"] = [_judged_row(row, *found) for row, found in zip(rows["pb_turns"], turns, strict=True)]
    found: dict[tuple[int, int], list[Verdict]] = {(id(e.case), e.draw): [] for e in episodes}
    for verdict in verdicts:
        found[id(verdict.playing.case), verdict.playing.draw].append(verdict)
    pairs = list(zip(rows["pb_episodes"], found.values(), strict=True))
    rows["pb_judgements"] = [v.judgement.row(label, row["episode_id"], v.turn) for row, own in pairs for v in own]
    rows["pb_episodes"] = [_open_episode(row, mode, own) for row, own in pairs]
    return rows


def _open_episode(row: Row, mode: OpenMode, own: Sequence[Verdict]) -> Row:
    """What the first answer named is the judge's to say; that the only turn of ``oeg`` was used up tells nothing."""
    if row["status"] != "ok":
        return row
    first = own[0].judgement
    looked = len(first.ideas.texts) > first.ideas.n_proactive
    named = {"first_turn_correct": first.told.cc if looked and first.told else None}
    return row | named | ({"p_exhausted": None} if mode == "oeg" else {})


def _judged_row(row: Row, episode: Episode, turn: Turn) -> Row:
    """Nothing was matched; what kind of option the answer came down to is known all the same."""
    index = turn.outcome.match.index if turn.outcome else None
    kind = None if index is None else option_kind(episode.case.env.shown(turn.state)[index])
    return row | {"match_kind": None, "matched_index": None, "matched_kind": kind}

"""An agent plays proactive episodes: it is asked about a picture, may ask for a better one, and is asked again.

    START -> observe -> ask -> settle -> observe ... -> close -> END

All episodes of a batch move in lock-step: one superstep asks every question that is ready, of all scenarios, and no question waits for
another episode's turn. The graph's state holds numbers of episodes; pictures, texts and answers stay outside. It keeps no checkpoints:
answers stand in a cache before they are used, so that a run that goes on after a kill asks only what was not answered.

Source: ProactiveBench (arXiv 2603.19466), multiple-choice evaluation. At temperature 0 a state that was seen before is not asked about
again: an episode that has come back to where it was is played to its end from memory.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

from agents.openworld_chunks import Losses
from agents.proactive_asking import Asker, Conversation, Question, Said
from agents.proactive_context import Demonstrations, Wording, earlier, history_edge
from runner.context import StepContext
from runner.nodes.proactive.episodes import Case, Episode, Turn
from runner.nodes.proactive.pictures import place_of

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from runner.nodes.proactive.env import Option, Outcome, State


@dataclass(frozen=True)
class Plan:
    """What is shown besides the turn. ``history``: earlier turns at most (0: none); ``fresh``: a state met again in one episode is asked
    about again (temperature above 0); ``keep``: episodes of each scenario whose pictures are kept small."""

    wording: Wording
    history: int = 0
    shots: Demonstrations | None = None
    fresh: bool = False
    keep: int = 0

    def edge(self, case: Case) -> int | None:
        """Short edge of all pictures of a conversation."""
        edges = [self.shots.edge(case) if self.shots else None, history_edge(case) if self.history else None]
        return min((edge for edge in edges if edge is not None), default=None)


@dataclass
class Playing:
    """An episode under way. ``visits``: how often each question was asked in it."""

    case: Case
    draw: int
    keep: bool
    before: Conversation
    state: State | None
    turns: list[Turn] = field(default_factory=list)
    visits: Counter[bytes] = field(default_factory=Counter)
    failure: str | None = None

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.case.env.scenario}/{self.case.record.sample_id}" + (f"/{self.draw}" if self.draw else "")


class Walk(TypedDict):
    """``live``: numbers of the episodes that go on, ascending."""

    live: list[int]


class LockStep:
    """Plays ``draws`` episodes of each case with one model."""

    def __init__(self, ctx: StepContext, asker: Asker, plan: Plan) -> None:
        self._ctx, self._asker, self._plan = ctx, asker, plan
        self._playing: list[Playing] = []
        self._ready: dict[int, Question] = {}
        self._losses = Losses(ctx, "episodes")

    async def play(self, cases: Sequence[Case], draws: int = 1) -> list[Episode]:
        """Episodes case by case, then by draw. One that fails costs itself alone; errors of the run are raised."""
        self._playing = [self._begun(case, draw, keep) for case, keep in self._kept(cases) for draw in range(draws)]
        self._ctx.advance("episodes", 0, len(self._playing))
        most = max((case.env.max_turns for case in cases), default=0)
        start: Walk = {"live": list(range(len(self._playing)))}
        going = self.graph().ainvoke(start, {"recursion_limit": 3 * most + 10})
        # In a context of its own: a graph without a saver fails where it inherits a run's durability (langgraph 1.2).
        await asyncio.create_task(going, context=contextvars.Context())
        return [_episode(playing) for playing in self._playing]

    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """One superstep a turn of all live episodes."""
        from langgraph.graph import END, START, StateGraph

        builder = StateGraph(Walk)
        builder.add_node("observe", self._observe)
        builder.add_node("ask", self._ask)
        builder.add_node("settle", self._settle)
        builder.add_node("close", self._close)
        builder.add_conditional_edges(START, self._next, ["observe", "close"])
        builder.add_edge("observe", "ask")
        builder.add_edge("ask", "settle")
        builder.add_conditional_edges("settle", self._next, ["observe", "close"])
        builder.add_edge("close", END)
        return builder.compile(checkpointer=False)

    def _kept(self, cases: Sequence[Case]) -> list[tuple[Case, bool]]:
        """Each case, and whether it is among the first of its scenario."""
        seen: Counter[str] = Counter()
        kept = []
        for case in cases:
            kept.append((case, seen[case.env.scenario] < self._plan.keep))
            seen[case.env.scenario] += 1
        return kept

    def _begun(self, case: Case, draw: int, keep: bool) -> Playing:
        before = self._plan.shots.of(case) if self._plan.shots else ()
        return Playing(case, draw, keep and draw == 0, before, case.env.initial())

    # --- nodes --------------------------------------------------------------------------------------------------------

    async def _next(self, state: Walk) -> str:
        return "observe" if state["live"] else "close"

    async def _observe(self, state: Walk) -> Walk:
        """The question of each live episode."""
        self._ready = {number: self._question(self._playing[number]) for number in state["live"]}
        return state

    async def _ask(self, state: Walk) -> Walk:
        """All of them at once."""
        await self._asker.answers(list(self._ready.values()))
        return state

    async def _settle(self, state: Walk) -> Walk:
        """Answers are matched and acted on; an episode goes on as far as answers are known."""
        live = [number for number in state["live"] if self._goes_on(self._playing[number], self._ready[number])]
        return {"live": live}

    async def _close(self, state: Walk) -> Walk:
        self._losses.close()
        return state

    # --- one episode --------------------------------------------------------------------------------------------------

    def _question(self, playing: Playing) -> Question:
        case, state = playing.case, playing.state
        assert state is not None
        before = playing.before
        if self._plan.history:
            before = (*before, *earlier(case, playing.turns, self._plan.history))
        shown = place_of(case, state, self._plan.edge(case))
        options = tuple(option.text for option in case.env.shown(state))
        item = f"{playing.name}, turn {len(playing.turns) + 1}"
        asked = Question(
            item, (*before, ("user", (shown, self._plan.wording.of(case, state)))), options, keep=playing.keep
        )
        return self._sampled(playing, asked)

    def _sampled(self, playing: Playing, asked: Question) -> Question:
        """At temperature 0 a question has one answer. Else each episode draws its own, anew when it comes back to a state: one index for
        all would give every episode the same luck."""
        if not self._plan.fresh:
            return asked
        record, visit = playing.case.record, playing.visits[asked.address]
        drawn = f"{record.scenario}/{record.sample_id}\0{playing.draw}\0{visit}"
        return replace(asked, sample=int.from_bytes(hashlib.sha256(drawn.encode()).digest()[:4], "big"))

    def _goes_on(self, playing: Playing, question: Question) -> bool:
        """Act on the answer, and on those to the questions that follow while they are known."""
        said = self._asker.known(question)
        while said is not None:
            self._act(playing, question, said)
            if playing.state is None:
                self._ctx.advance("episodes", 1)
                return False
            question = self._question(playing)
            said = self._asker.known(question)
        return True

    def _act(self, playing: Playing, question: Question, said: Said) -> None:
        case, state = playing.case, playing.state
        assert state is not None
        if said.failure is not None:
            playing.failure, playing.state = said.failure, None
            self._losses.add(playing.name, said.failure)
            return
        playing.visits[replace(question, sample=0).address] += 1
        outcome = case.env.advance(state, said.choice)
        thumbnail = self._asker.thumbnails.get(question.shown) if playing.keep else None
        playing.turns.append(turn_of(case, state, question, said, outcome=outcome, thumbnail=thumbnail))
        playing.state = outcome.next_state


def turn_of(
    case: Case, state: State, question: Question, said: Said, *, outcome: Outcome, thumbnail: bytes | None = None,
    options: Sequence[Option] | None = None,
) -> Turn:  # fmt: skip
    """A finished turn. ``options``: those shown, where they are not the state's own."""
    return Turn(
        state=state, frame=case.env.frame(state), options=tuple(case.env.shown(state) if options is None else options),
        answer=said.text, outcome=outcome, prompt=question.text, image_sha1=said.image_sha1, prompt_sha1=said.prompt_sha1,
        place=None if case.env.mode == "reference" else case.env.place(state), probabilities=said.probabilities, logprob=said.logprob,
        thumbnail=thumbnail, prompt_tokens=said.prompt_tokens, completion_tokens=said.completion_tokens,
    )  # fmt: skip


def _episode(playing: Playing) -> Episode:
    turns, failed = tuple(playing.turns), playing.failure is not None
    last = turns[-1].outcome if turns and not failed else None
    return Episode(
        playing.case, playing.draw, turns, "error" if last is None else last.stop_reason,
        last is not None and last.success, "error" if failed else "ok", playing.failure,
    )  # fmt: skip

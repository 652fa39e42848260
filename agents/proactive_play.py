"""A person in proactive episodes: in the model's place, answering; or in the user's, doing what a model asks for.

    START -> observe -> person -> settle -> observe ... -> END

``person`` interrupts the graph with a question and goes on with the answer, whenever that comes. The graph's state holds what was said, and an
episode is a function of it, so that a run that waits for days needs nothing else. One turn at a time: a person is not a batch.

The question: ``kind`` ``proactive.turn``, ``role``, where it stands (``scenario``, ``sample``, ``episode`` of ``of``, ``turn`` of at most
``max_turns``), ``picture`` (a file), ``text``, ``choices`` (``key``, ``text``), ``answer`` (what the model said, where the person is the user),
``said`` (earlier turns), ``last`` (how the episode before ended) and ``problem`` (why the answer before could not be used). The answer is a text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from agents.proactive import turn_of
from agents.proactive_asking import ChatAsker, Question, Said
from agents.prompting import one_line
from runner.context import StepContext
from runner.data.images import UnreadableImage, thumbnail
from runner.errors import DataError
from runner.nodes.proactive.episodes import Case, Episode, Turn
from runner.nodes.proactive.pictures import FramePictures, place_of
from runner.nodes.proactive.rendering import LETTERS, render

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from runner.nodes.proactive.env import State

Row = dict[str, Any]
Role = Literal["model", "user"]
Answered = list[Any]
"""Index of the option that an answer came down to (None: nothing readable), and the text of it: ``[index, text]``, in a checkpoint."""

KIND = "proactive.turn"
RIGHT, NOTHING = "R", "N"
"""What a person who is the user may say besides doing something: the model has named it, or it says nothing that helps."""
THUMBNAIL_SIDE = 96
_SAID_CHARACTERS = 300


class Sitting(TypedDict):
    """``said``: answers by episode, in order; ``reply``: the model's to the open turn, with all that rows need; ``answer``: the
    person's, not yet acted on; ``problem``: why the one before could not be."""

    said: list[list[Answered]]
    replies: list[list[Row]]
    reply: Row | None
    answer: str | None
    problem: str | None


@dataclass(frozen=True)
class Table:
    """What one person plays. ``asker``: of the model that asks for help, None where the person is the model; ``hint`` is part of the cases."""

    ctx: StepContext
    cases: Sequence[Case]
    pictures: FramePictures
    asker: ChatAsker | None = None

    @property
    def role(self) -> Role:
        """Whose place the person has."""
        return "user" if self.asker else "model"

    async def play(self) -> list[Episode]:
        """All episodes; comes back with an interrupt for each answer that is wanted."""
        start: Sitting = {"said": [[]], "replies": [[]], "reply": None, "answer": None, "problem": None}
        most = sum(case.env.max_turns for case in self.cases)
        state: Any = await self.graph().ainvoke(start, {"recursion_limit": 4000 + 12 * most})
        return [self._episode(number, state) for number in range(len(self.cases))]

    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """Compiled without a saver of its own: inside a run it uses the run's."""
        from langgraph.graph import END, START, StateGraph

        builder = StateGraph(Sitting)
        builder.add_node("observe", self._observe)
        builder.add_node("person", self._person)
        builder.add_node("settle", self._settle)
        builder.add_edge(START, "observe")
        builder.add_edge("observe", "person")
        builder.add_edge("person", "settle")
        builder.add_conditional_edges("settle", self._next, {"observe": "observe", "person": "person", "end": END})
        return builder.compile()

    # --- nodes -------------------------------------------------------------------------------------------------------

    async def _observe(self, state: Sitting) -> Row:
        """The model's answer, where the person is the user."""
        if self.asker is None:
            return {"reply": None, "problem": None}
        number, place, _ = self._now(state)
        case = self.cases[number]
        asked = self._question(case, place)
        said = (await self.asker.answers([asked]))[0]
        if said.failure is not None:
            raise DataError(f"{_name(case)}: the model does not answer: {said.failure}")
        return {"reply": dataclasses.asdict(said), "problem": None}

    async def _person(self, state: Sitting) -> Row:
        from langgraph.types import interrupt

        return {"answer": str(interrupt(await self._put(state)))}

    async def _settle(self, state: Sitting) -> Row:
        """Note what the answer comes down to; one that names nothing is asked for again."""
        number, place, _ = self._now(state)
        case, answer = self.cases[number], state["answer"] or ""
        index, problem = self._read(case, place, answer)
        if problem:
            return {"problem": problem}
        said, replies = [list(one) for one in state["said"]], [list(one) for one in state["replies"]]
        said[number].append([index, one_line(answer, _SAID_CHARACTERS)])
        replies[number].append(state["reply"] or {})
        if case.env.advance(place, index).next_state is None:
            self.ctx.advance("episodes", 1)
            said, replies = [*said, []], [*replies, []]
        return {"said": said, "replies": replies, "reply": None, "answer": None, "problem": None}

    def _next(self, state: Sitting) -> str:
        if state["problem"]:
            return "person"
        return "end" if len(state["said"]) > len(self.cases) else "observe"

    # --- one turn ----------------------------------------------------------------------------------------------------

    def _now(self, state: Sitting) -> tuple[int, State, list[State]]:
        """Number of the open episode, where it stands, and the states before."""
        number = len(state["said"]) - 1
        env, before = self.cases[number].env, []
        place = env.initial()
        for index, _ in state["said"][number]:
            before.append(place)
            following = env.advance(place, index).next_state
            assert following is not None
            place = following
        return number, place, before

    async def _put(self, state: Sitting) -> Row:
        number, place, before = self._now(state)
        case = self.cases[number]
        return {
            "kind": KIND, "role": self.role, "scenario": case.record.scenario, "sample": case.record.sample_id, "episode": number + 1,
            "of": len(self.cases), "turn": place.turn + 1, "max_turns": case.env.max_turns,
            "picture": str(await self._picture(case, place)), "text": self._text(case, place), "choices": self._choices(case, place),
            "answer": (state["reply"] or {}).get("text"), "said": [self._told(case, at, one) for at, one in zip(before, state["said"][number], strict=True)],
            "last": self._last(state, number - 1), "problem": state["problem"],
        }  # fmt: skip

    def _text(self, case: Case, place: State) -> str:
        """Preface, question and hint; options are among the choices, where there are any."""
        return render(dataclasses.replace(case.env.observation(place), options=()), short_answer=False)

    def _choices(self, case: Case, place: State) -> list[Row]:
        shown = case.env.shown(place)
        if self.asker is None:
            return [{"key": LETTERS[n], "text": option.text} for n, option in enumerate(shown)]
        asks = [option.text for option in shown if option.kind == "ask" and option.valid]
        found = [{"key": str(n), "text": f"I do this: {text}"} for n, text in enumerate(asks, 1)]
        right = {"key": RIGHT, "text": f"It has named it: {case.record.answer}"}
        return [*found, right, {"key": NOTHING, "text": "It neither asks for something that helps nor names it."}]

    def _read(self, case: Case, place: State, answer: str) -> tuple[int | None, str | None]:
        """Index of the option that a person means, and why none is."""
        shown = case.env.shown(place)
        if self.asker is None:
            from runner.nodes.proactive.matching import match

            found = match(answer, shown, "robust")
            return found.index, None if found.index is not None else f"{answer[:60]!r} names none of them"
        wanted = answer.strip().upper()
        if wanted == NOTHING:
            return None, None
        if wanted == RIGHT:
            return next(n for n, option in enumerate(shown) if option.text == case.record.answer), None
        asks = [n for n, option in enumerate(shown) if option.kind == "ask" and option.valid]
        if wanted.isdecimal() and 1 <= int(wanted) <= len(asks):
            return asks[int(wanted) - 1], None
        return None, f"{answer[:60]!r} is none of them"

    async def _picture(self, case: Case, place: State) -> Path:
        """The picture as a file that outlives the wait."""
        shown = place_of(case, place)
        part = (await self.pictures.parts([shown]))[shown]
        if isinstance(part, UnreadableImage):
            raise DataError(f"{_name(case)}: the picture {shown.uri} cannot be read: {part.message}")
        name = "".join(c if c.isalnum() else "-" for c in _name(case))[:80]
        path = self.ctx.scratch / "shown" / f"{name}-{place.turn + 1}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(part.data)
        return path

    def _told(self, case: Case, place: State, said: Answered) -> str:
        outcome = case.env.advance(place, said[0])
        return f"{_option(case, place, said)} -> {outcome.action}"

    def _last(self, state: Sitting, number: int) -> Row | None:
        if number < 0 or (state["said"] and state["said"][-1]):
            return None
        episode = self._episode(number, state)
        return {
            "success": episode.success, "answer": episode.case.record.answer, "stop_reason": episode.stop_reason,
        }  # fmt: skip

    def _question(self, case: Case, place: State) -> Question:
        text = self._text(case, place)
        return Question(
            f"{_name(case)}, turn {place.turn + 1}", (("user", (place_of(case, place), text)),), (), keep=True
        )

    # --- afterwards --------------------------------------------------------------------------------------------------

    def _episode(self, number: int, state: Sitting) -> Episode:
        """One episode again from what was said."""
        case = self.cases[number]
        place, turns = case.env.initial(), list[Turn]()
        for said, reply in zip(state["said"][number], state["replies"][number], strict=True):
            outcome = case.env.advance(place, said[0])
            asked, told = self._question(case, place), Said(**reply) if reply else Said(text=_option(case, place, said))
            turns.append(turn_of(case, place, asked, told, outcome=outcome, thumbnail=self._small(case, place)))
            place = outcome.next_state or place
        last = turns[-1].outcome if turns else None
        return Episode(case, 0, tuple(turns), last.stop_reason if last else "error", bool(last and last.success), "ok")

    def _small(self, case: Case, place: State) -> bytes | None:
        shown = place_of(case, place)
        image = self.pictures.images([shown])[shown]
        return None if isinstance(image, UnreadableImage) else thumbnail(image, THUMBNAIL_SIDE)


def _option(case: Case, place: State, said: Answered) -> str:
    """Text of the option that was chosen, or what was said."""
    return case.env.shown(place)[said[0]].text if said[0] is not None else str(said[1])


def _name(case: Case) -> str:
    return f"{case.record.scenario}/{case.record.sample_id}"

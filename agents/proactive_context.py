"""What a model is shown before a question of an episode: earlier turns of it, or solved episodes of other samples.

Source: ProactiveBench (arXiv 2603.19466), history and few-shot settings; texts are those of the turns themselves.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from agents.proactive_asking import Conversation
from agents.prompting import one_line
from runner.errors import DataError
from runner.nodes.proactive.pictures import place_of
from runner.nodes.proactive.records import frame_uris
from runner.nodes.proactive.rendering import option_line, render

if TYPE_CHECKING:
    from runner.nodes.proactive.env import Option, State
    from runner.nodes.proactive.episodes import Case, Turn
    from runner.nodes.proactive.texts import Texts

HISTORY_EDGE: Final = 224
SHOT_EDGES: Final[Mapping[str, int]] = {"ROD": 512, "MVP-N": 112}
"""Scenarios with solved episodes, and the short edge of their pictures in pixels [paper]."""

_ANSWER_CHARACTERS = 1000


@dataclass(frozen=True)
class Wording:
    """How turns become text."""

    short_answer: bool = True
    texts: Texts | None = None

    def of(self, case: Case, state: State, *, forced: bool = False) -> str:
        """Text of the turn at ``state``."""
        observation = case.env.observation(state, forced=forced)
        return render(observation, short_answer=self.short_answer, texts=self.texts)


def history_edge(case: Case) -> int | None:
    """Short edge of pictures where earlier turns are shown: crops of COCO keep their size [paper]."""
    return None if case.env.scenario == "COCO" else HISTORY_EDGE


def earlier(case: Case, turns: Sequence[Turn], limit: int) -> Conversation:
    """The last ``limit`` finished turns: picture, text, answer."""
    said: list[tuple[str, tuple[object, ...]]] = []
    for turn in turns[max(0, len(turns) - limit) :]:
        said += [
            ("user", (place_of(case, turn.frame, history_edge(case)), turn.prompt)),
            ("assistant", (one_line(turn.answer or "", _ANSWER_CHARACTERS),)),
        ]
    return tuple(said)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Demonstrations:
    """Solved episodes of other samples. ``pool``: by scenario, those of a single view are passed over; ``edges``: short edges by scenario ({}: pictures as they are);
    ``shorten``: first and last step alone."""

    pool: Mapping[str, Sequence[Case]]
    shots: int
    wording: Wording
    shorten: bool = False
    edges: Mapping[str, int] = field(default_factory=lambda: SHOT_EDGES)
    seed: int = 0

    def edge(self, case: Case) -> int | None:
        """Short edge of the pictures of a conversation about ``case``."""
        return self.edges.get(case.env.scenario)

    def of(self, case: Case) -> Conversation:
        """``shots`` solved episodes of samples with other pictures, drawn by the seed and the sample alone. Raises ``DataError``."""
        drawing = _drawing(self.seed, case.env.scenario, case.record.sample_id)
        pool = self.pool.get(case.env.scenario, ())
        others = (pool[i] for i in drawing.permutation(len(pool)) if len(pool[i].env.ask_path()) > 1)
        chosen = list(itertools.islice((other for other in others if not _related(case, other)), self.shots))
        if len(chosen) < self.shots:
            raise DataError(
                f"{case.env.scenario}/{case.record.sample_id}: {self.shots} solved episodes of other samples are to be shown, "
                f"but only {len(chosen)} are there",
                hint="take fewer shots, or more samples",
            )
        return tuple(turn for other in chosen for turn in self._solved(other, drawing))

    def pictures_of(self, case: Case) -> int:
        """Pictures shown before the first question about ``case``."""
        return sum(role == "user" for role, _ in self.of(case))

    def _solved(self, case: Case, drawing: np.random.Generator) -> Conversation:
        """Requests as far as the scenario's demonstrations go, then the truth, each as it would be answered."""
        states = list(case.env.ask_path())
        if case.env.scenario == "ROD":  # one move, of a random direction
            first = _request(case, states[0], drawing)
            moved = case.env.advance(states[0], first[0]).next_state
            assert moved is not None
            steps = [(states[0], first), (moved, _truth(case, moved))]
        else:
            asked = [(state, _request(case, state, drawing)) for state in states[:-1]]
            steps = [*asked, (states[-1], _truth(case, states[-1]))]
        if self.shorten:
            steps = [steps[0], steps[-1]] if len(steps) > 2 else steps
        return tuple(turn for state, answer in steps for turn in self._step(case, state, answer))

    def _step(self, case: Case, state: State, answer: tuple[int, Option]) -> Conversation:
        asked = (place_of(case, state, self.edge(case)), self.wording.of(case, state))
        return ("user", asked), ("assistant", (option_line(answer[0], answer[1].text),))


def by_scenario(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Cases by scenario, in their order."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.env.scenario, []).append(case)
    return found


def _related(case: Case, other: Case) -> bool:
    """Whether showing ``other`` would tell about ``case``: the same sample, drawing or pictures."""
    if (case.record.sample_id, case.split) == (other.record.sample_id, other.split):
        return True
    if case.drawn_with is not None and case.drawn_with == other.drawn_with:
        return True
    return case.source_id == other.source_id and not set(frame_uris(case.record)).isdisjoint(frame_uris(other.record))


def _drawing(seed: int, scenario: str, sample_id: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\0{scenario}\0{sample_id}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _request(case: Case, state: State, drawing: np.random.Generator) -> tuple[int, Option]:
    """One of the requests that help now, with its place among what is shown."""
    helpful = [(i, o) for i, o in enumerate(case.env.shown(state)) if o.kind == "ask" and o.valid]
    return helpful[int(drawing.integers(len(helpful)))]


def _truth(case: Case, state: State) -> tuple[int, Option]:
    shown = case.env.shown(state)
    return next((i, o) for i, o in enumerate(shown) if o.kind == "category" and o.text == case.record.answer)

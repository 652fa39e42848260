"""The agent that judges concept lists of singular vectors: each distinct list once, asked again while its reply has no score.

    START -> ask -> judge -> (open lists left: ask | all done: close) -> END

One pass of ``ask`` takes a window of lists, so that a run may end between windows and a useless judge is noticed early. The
three built-in topics and the meaning of the scores follow SITH (arXiv 2603.24653); wording and examples are ours, and so are
the further questions, ``concept_match`` and ``unscored``.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple, TypedDict

from agents.asking import NotAnswered, asking_loop, reply_to, sample_of
from agents.heads_lists import list_text
from agents.heads_reply import THEME_CHARACTERS, Reading, clean_theme, read_reply
from agents.judging import quoted
from agents.openworld_chunks import CHUNK, Losses, in_chunks
from agents.prompting import one_line, render
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel, ChatReply, ChatRequest, Message

Task = Literal["coherence", "background", "safety", "concept_match"]
ReplyForm = Literal["auto", "constrained", "free"]
Row = dict[str, Any]

TARGET_CHARACTERS = 200


class Verdict(NamedTuple):
    """``score``: 1..5, None where no reply had one; ``asked``: questions, whether or not the cache answered them."""

    score: int | None
    theme: str | None
    asked: int
    cached: bool
    failure: str | None


class Attempt(TypedDict):
    """What one question about a list brought: a score, or why there is none."""

    turn: int
    text: str
    score: int | None
    theme: str | None
    cached: bool
    problem: str
    final: bool


class JudgeState(TypedDict):
    """``window``: places of the lists under way, ``open`` those without a score; ``turn``: questions about them so far;
    ``attempts``: the last one by place; ``verdicts`` of the windows before, in order."""

    window: list[int]
    open: list[int]
    turn: int
    attempts: dict[str, Attempt]
    verdicts: list[list[Any]]


@functools.cache
def worked_examples(task: Task) -> tuple[dict[str, Any], ...]:
    """The examples shown with a task: ``list``, ``score`` and, for coherence, ``theme``."""
    stored = json.loads(resources.files("agents").joinpath("prompts/heads_examples.json").read_text("utf8"))
    return tuple({**e, "list": list_text((text, weight) for text, weight in e["concepts"])} for e in stored[task])


def reply_schema(task: Task) -> dict[str, Any]:
    """``{"theme": str, "score": 1..5}``; a theme for coherence only."""
    score = {"type": "integer", "enum": [1, 2, 3, 4, 5]}
    theme = {"theme": {"type": "string", "maxLength": THEME_CHARACTERS}} if task == "coherence" else {}
    properties = {**theme, "score": score}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


@dataclass(frozen=True)
class ListJudge:
    """A chat model in the role of the judge.

    ``form``: ``constrained`` lets the server allow only JSON of ``reply_schema``; ``free`` reads text; ``auto`` asks
    constrained first and then, where that brought nothing, in free text.
    """

    llm: ChatModel
    ctx: StepContext
    task: Task
    target: str | None = None
    retries: int = 2
    form: ReplyForm = "auto"
    max_tokens: int = 256

    def question(self, concepts: str, *, constrained: bool) -> str:
        """The whole prompt; all before the list is the same for every list."""
        return render(
            f"heads_{self.task}", concepts=concepts, form="json" if constrained else "text",
            themed=self.task == "coherence", examples=worked_examples(self.task),
            target=quoted(self.target or "", TARGET_CHARACTERS),
        )  # fmt: skip

    @property
    def prompt_hash(self) -> str:
        """SHA-256 (hex) of the prompt without a list, in the form that is asked first."""
        return hashlib.sha256(self.question("", constrained=self.form != "free").encode()).hexdigest()

    async def judge(self, lists: Sequence[str], max_unscored: float) -> list[Verdict]:
        """Verdicts in the order of ``lists``. Raises ``StepError`` once more than ``max_unscored`` of all have none."""
        if not lists:
            return []
        agent = _Agent(self, tuple(lists), max_unscored)
        verdicts = await agent.run()
        losses = Losses(self.ctx, "judgements")
        for text, verdict in zip(lists, verdicts, strict=True):
            if verdict.score is None:
                losses.add(one_line(text, 120), f"unscored: {verdict.failure}")
        losses.close()
        return verdicts

    def request(self, concepts: str, turn: int, before: Attempt | None = None) -> ChatRequest:
        """The question of one turn, with what was wrong with the reply before."""
        constrained = self.form == "constrained" or (self.form == "auto" and turn == 0)
        messages = [Message("user", self.question(concepts, constrained=constrained))]
        if before is not None:
            again = render("heads_again", problem=one_line(before["problem"], 200))
            messages += [Message("assistant", one_line(before["text"], 200) or "-"), Message("user", again)]
        return ChatRequest(
            tuple(messages), f"sith.judge.{self.task}", item=one_line(concepts, 120),
            schema=reply_schema(self.task) if constrained else None, schema_name="judgement",
            max_tokens=self.max_tokens, seed=self.ctx.seed, sample=sample_of(0, round_=turn),
            max_repairs=0, allow_cut=not constrained, allow_empty=not constrained,
        )  # fmt: skip

    async def attempt(self, concepts: str, turn: int, before: Attempt | None) -> Attempt:
        """Ask once. A free question that the endpoint does not answer at all is the last one about its list."""
        request = self.request(concepts, turn, before)
        nothing: Attempt = {
            "turn": turn, "text": "", "score": None, "theme": None, "cached": False, "problem": "", "final": False,
        }  # fmt: skip
        try:
            reply = await reply_to(self.llm, request, self.ctx)
        except NotAnswered as error:
            return {**nothing, "problem": str(error), "final": request.schema is None}
        said: Attempt = {**nothing, "text": one_line(reply.text, 200), "cached": reply.cached}
        try:
            found = _reading(reply)
        except ValueError as error:
            return {**said, "problem": str(error)}
        return {**said, "score": found.score, "theme": found.theme if self.task == "coherence" else None}


def _reading(reply: ChatReply) -> Reading:
    """The score and theme of a reply, constrained or free."""
    if reply.data is None:
        return read_reply(reply.text)
    return Reading(int(reply.data["score"]), clean_theme(reply.data.get("theme")))


@dataclass(frozen=True)
class _Agent:
    """The graph around one judge and its lists."""

    judge: ListJudge
    lists: tuple[str, ...]
    max_unscored: float

    async def run(self) -> list[Verdict]:
        graph = asking_loop(
            JudgeState, JudgeState, ask=self._ask, judge=self._read, close=lambda state: {}, enough=self._enough
        )
        windows = len(self.lists) // CHUNK + 1
        self.judge.ctx.advance("lists", 0, len(self.lists))
        going = graph.ainvoke(
            {**self._window(0), "verdicts": []}, {"recursion_limit": 2 * (1 + self.judge.retries) * windows + 10}
        )
        # In a context of its own, without a saver: replies are cached, so that a run that goes on asks nothing again.
        state = await asyncio.create_task(going, context=contextvars.Context())
        return [Verdict(*values) for values in state["verdicts"]]

    def _window(self, start: int) -> Row:
        window = list(range(start, min(start + CHUNK, len(self.lists))))
        return {"window": window, "open": window, "turn": 0, "attempts": {}}

    async def _ask(self, state: JudgeState) -> Row:
        async def work(place: int) -> Attempt:
            return await self.judge.attempt(self.lists[place], state["turn"], state["attempts"].get(str(place)))

        found = await in_chunks(state["open"], work, self.judge.ctx, unit="questions", total=False)
        new = {str(place): attempt for place, attempt in zip(state["open"], found, strict=True)}
        return {"attempts": state["attempts"] | new, "turn": state["turn"] + 1}

    def _read(self, state: JudgeState) -> Row:
        """What is asked next: the lists of the window without a score while questions are left, else the next window."""
        attempts = [state["attempts"][str(place)] for place in state["open"]]
        left = [p for p, a in zip(state["open"], attempts, strict=True) if a["score"] is None and not a["final"]]
        if left and state["turn"] <= self.judge.retries:
            return {"open": left}
        closed = [_verdict(state["attempts"][str(place)]) for place in state["window"]]
        verdicts = state["verdicts"] + [list(verdict) for verdict in closed]
        self._require_useful([Verdict(*values) for values in verdicts])
        self.judge.ctx.advance("lists", len(closed))
        return {**self._window(len(verdicts)), "verdicts": verdicts}

    def _require_useful(self, verdicts: Sequence[Verdict]) -> None:
        unscored = [verdict for verdict in verdicts if verdict.score is None]
        if len(unscored) <= self.max_unscored * len(self.lists):
            return
        reasons = "; ".join(dict.fromkeys(one_line(str(v.failure), 120) for v in unscored[:3]))
        raise StepError(
            f"the judge {self.judge.llm.name} gave no score for {len(unscored):,} of {len(self.lists):,} distinct lists, "
            f"more than {self.max_unscored:.0%}: {reasons}",
            step=self.judge.ctx.step, hint="take a larger judge, use schema: constrained, or raise retries or max_unscored",
        )  # fmt: skip

    def _enough(self, state: JudgeState) -> str:
        return "again" if state["open"] else "enough"


def _verdict(last: Attempt) -> Verdict:
    failure = None if last["score"] is not None else last["problem"]
    return Verdict(last["score"], last["theme"], last["turn"] + 1, last["cached"], failure)

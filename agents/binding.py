"""The agent that finds a measurement for each proposed attribute: the user's word first, then known words, then the model.

    START -> (one branch for each distinct attribute with its values, whatever the number of targets) -> finish -> END
                  ask -> judge -> ask ...

A model's choice counts only where it does not contradict what the values are called.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from agents.asking import NotAnswered, ask, asking_loop, sample_of
from agents.binding_words import Binding, bound_by_words, ends_of, likely_order, misfit, speaks_of, trusted
from agents.prompting import prompt
from runner.context import StepContext
from runner.models.base import ChatModel, ChatRequest
from runner.naming import normalised
from runner.nodes.bias.measures import MEASURES

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

Row = dict[str, Any]
Offered = Literal["words", "all"]

NONE = "none"
_NOT_MEASURABLE = "no measurement speaks of it"
_NO_ENDS = "which of its values lie at the two ends of the measurement is not clear from their words"
_DECLINED = "the model finds no measurement that means it"
_NOT_ASKED = "its words leave the measurement open, and there is no language model to ask"


class QuestionState(TypedDict):
    """One branch: the question, the answer at hand, what was refused, and in ``done`` the binding by question number."""

    number: int
    attribute: str
    values: list[str]
    offered: list[str]
    round: int
    answer: Row
    rejected: list[Row]
    failure: str
    bound: list[Any]
    done: Annotated[list[Row], operator.add]


class BindingState(TypedDict):
    """All branches together."""

    done: Annotated[list[Row], operator.add]


@dataclass(frozen=True)
class Question:
    """An attribute with its values, as they were first proposed."""

    attribute: str
    values: tuple[str, ...]

    @property
    def key(self) -> tuple[str, frozenset[str]]:
        """Equal for the same attribute and values in another order or spelling."""
        return normalised(self.attribute), frozenset(normalised(value) for value in self.values)


async def bind(
    llm: ChatModel | None,
    attributes: Iterable[Row],
    chosen: Mapping[str, str],
    ctx: StepContext,
    *,
    offered: Offered = "words",
    repair_rounds: int = 1,
) -> list[Row]:
    """Rows of ``c2b_binding`` for kept ``attributes`` (rows of ``c2b_attribute``) of the first draw.

    ``chosen``: attribute -> measurement, by the user. ``offered``: the model may choose among the measurements whose words the
    attribute or its values use, or among all.
    """
    rows = [row for row in attributes if row["status"] == "kept" and row["resample"] == 0]
    questions: dict[Any, Question] = {}
    for row in rows:
        question = Question(row["attribute"], tuple(row["bias_values"]))
        questions.setdefault(question.key, question)
    by_user = {normalised(attribute): measure for attribute, measure in chosen.items()}
    bound = {key: _without_asking(q, by_user, offered) for key, q in questions.items()}
    open_ = {key: q for key, q in questions.items() if bound[key] is None}
    bound |= await _ask_all(llm, open_, ctx, offered, repair_rounds)
    return [
        _row(row, found) for row in rows if (found := bound[Question(row["attribute"], tuple(row["bias_values"])).key])
    ]


def _without_asking(question: Question, by_user: Mapping[str, str], offered: Offered) -> Binding | None:
    """What needs no model: the user's choice, words that leave no doubt, or nothing on offer."""
    measure = by_user.get(normalised(question.attribute))
    if measure is not None:
        return Binding(measure, question.values, "user")
    if found := bound_by_words(question.attribute, question.values):
        return found
    return None if _offered(question, offered) else Binding(None, question.values, NONE, _NOT_MEASURABLE)


def _offered(question: Question, offered: Offered) -> list[str]:
    return [m for m in MEASURES if offered == "all" or speaks_of(m, question.attribute, question.values)]


async def _ask_all(
    llm: ChatModel | None, questions: Mapping[Any, Question], ctx: StepContext, offered: Offered, repair_rounds: int
) -> dict[Any, Binding | None]:
    if llm is None or not questions:
        return {key: Binding(None, q.values, NONE, _NOT_ASKED) for key, q in questions.items()}
    agent = BindingAgent(llm, tuple(questions.values()), ctx, offered, repair_rounds)
    state = await agent.graph().ainvoke({"done": []}, {"recursion_limit": 50})
    answers = {
        row["number"]: Binding(row["measure"], tuple(row["values"]), row["source"], row["reason"])
        for row in state["done"]
    }
    return {key: answers[number] for number, key in enumerate(questions)}


def _row(row: Row, found: Binding) -> Row:
    """The binding for one target, in its own spelling of the values."""
    own = {normalised(value): value for value in row["bias_values"]}
    return {
        "target": row["target"], "attribute": row["attribute"], "measure": found.measure,
        "bias_values": [own[normalised(value)] for value in found.values], "source": found.source, "reason": found.reason,
    }  # fmt: skip


@dataclass(frozen=True)
class BindingAgent:
    """The graph around one model; ``graph()`` compiles it."""

    llm: ChatModel
    questions: tuple[Question, ...]
    ctx: StepContext
    offered: Offered = "words"
    repair_rounds: int = 1

    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """Compiled without a saver of its own: inside a run it uses the run's."""
        from langgraph.graph import END, START, StateGraph

        builder = StateGraph(BindingState)
        branch = asking_loop(
            QuestionState, _BranchOutput, ask=self._ask, judge=self._judge, close=self._close, enough=self._enough
        )
        builder.add_node("attribute", branch)
        builder.add_conditional_edges(START, self._fan_out, ["attribute"])
        builder.add_edge("attribute", END)
        return builder.compile()

    def _fan_out(self, state: BindingState) -> list[Any]:
        from langgraph.types import Send

        self.ctx.advance("attributes", 0, len(self.questions))
        start: Row = {"round": 0, "answer": {}, "rejected": [], "failure": "", "bound": [], "done": []}
        return [
            Send("attribute", {
                "number": number, "attribute": q.attribute, "values": list(q.values), "offered": _offered(q, self.offered), **start,
            })
            for number, q in enumerate(self.questions)
        ]  # fmt: skip

    async def _ask(self, state: QuestionState) -> Row:
        try:
            answer = await ask(self.llm, self._request(state), self.ctx)
        except NotAnswered as error:
            return {"answer": {}, "failure": str(error), "round": state["round"] + 1}
        return {"answer": answer, "failure": "", "round": state["round"] + 1}

    def _request(self, state: QuestionState) -> ChatRequest:
        again = bool(state["rejected"])
        data: Row = {
            "attribute": state["attribute"],
            "values": {f"v{i}": value for i, value in enumerate(state["values"])},
            "measurements": {name: _explained(name) for name in state["offered"]},
        }
        if again:
            data["rejected"] = state["rejected"][-4:]
        return ChatRequest(
            messages=prompt("binding", data, again=again),
            purpose="c2b.binding",
            item=state["attribute"],
            schema=binding_schema(state["offered"], len(state["values"])),
            schema_name="binding",
            max_tokens=48 + 8 * len(state["values"]),
            seed=self.ctx.seed,
            sample=sample_of(0, round_=state["round"]),
        )

    def _judge(self, state: QuestionState) -> Row:
        """Accept the answer, or keep it with the reason against it."""
        answer = state["answer"]
        if not answer:
            return {}
        measure = answer["measurement"]
        if measure == NONE:
            return {"bound": [None, state["values"], NONE, _DECLINED]}
        values = [state["values"][int(key[1:])] for key in answer["order"]]
        problem = _problem(state, measure, values)
        if problem is None:
            found = trusted(measure, values, state["attribute"])
            answered = [measure, list(found), "llm", None] if found else [None, state["values"], NONE, _NO_ENDS]
            return {"bound": answered}
        return {"rejected": [*state["rejected"], {**answer, "reason": problem}]}

    def _enough(self, state: QuestionState) -> str:
        spent = state["failure"] or state["round"] > self.repair_rounds
        return "enough" if state["bound"] or spent else "again"

    def _close(self, state: QuestionState) -> Row:
        """Without a usable answer the words decide, where they can for the measurement that the model named."""
        measure, values, source, reason = state["bound"] or _repaired(state)
        if state["failure"] and not state["bound"]:
            self.ctx.failed(state["attribute"], state["failure"])
        self.ctx.advance("attributes", 1)
        done = {"number": state["number"], "measure": measure, "values": values, "source": source, "reason": reason}
        return {"done": [done]}


class _BranchOutput(TypedDict):
    done: Annotated[list[Row], operator.add]


def _problem(state: QuestionState, measure: str, values: Sequence[str]) -> str | None:
    """Why an answer cannot be used; None where it can."""
    if set(values) != set(state["values"]):
        return "list every key once"
    return misfit(measure, values, state["attribute"]) or _unlikely(measure, values, state["attribute"])


def _unlikely(measure: str, values: Sequence[str], attribute: str) -> str | None:
    """Small models often repeat the keys as they came: of two values one known end is enough to tell."""
    order = likely_order(measure, values, attribute)
    if order is None or order == tuple(values):
        return None
    return f"{order[0]!r} has less {measure} than {order[1]!r}, so it must come first"


def _repaired(state: QuestionState) -> Sequence[Any]:
    for refused in reversed(state["rejected"]):
        asked = (refused["measurement"], state["values"], state["attribute"])
        if order := likely_order(*asked) or ends_of(*asked):
            return refused["measurement"], list(order), "words", None
    reason = state["failure"] or f"the model's answer was refused: {state['rejected'][-1]['reason']}"
    return None, state["values"], NONE, reason


def _explained(name: str) -> str:
    """A measurement in one line, as the model reads it."""
    measure = MEASURES[name]
    if measure.is_category:
        return f"{measure.description}: {', '.join(measure.categories)}"
    return f"{measure.description}; low: {', '.join(measure.low_words)}; high: {', '.join(measure.high_words)}"


def binding_schema(measures: Sequence[str], values: int) -> dict[str, Any]:
    """``{"measurement": name or "none", "order": ["v0", ...]}``."""
    keys = [f"v{i}" for i in range(values)]
    return {
        "type": "object",
        "properties": {
            "measurement": {"enum": [*measures, NONE]},
            "order": {"type": "array", "items": {"enum": keys}, "minItems": values, "maxItems": values},
        },
        "required": ["measurement", "order"],
        "additionalProperties": False,
    }

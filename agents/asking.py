"""Asking a chat model inside an agent: one failed question costs its own item, never the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.context import StepContext
from runner.errors import BudgetExceeded, EndpointError
from runner.models.base import ChatModel, ChatReply, ChatRequest

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

LLM_LIMITS = frozenset({"llm_calls", "tokens"})
"""Budgets that end the asking but not the audit: what was answered before can still be assessed."""

DRAW_TEMPERATURE = 0.7


class NotAnswered(Exception):
    """A question was given up; the message says why."""


def temperature_of(resample: int, draw: int = 0) -> float:
    """The first question is asked at temperature 0, every further draw of it with some freedom."""
    return 0.0 if resample == 0 and draw == 0 else DRAW_TEMPERATURE


def sample_of(resample: int, draw: int = 0, round_: int = 0) -> int:
    """Index that keeps the draws of one question apart in the reply cache."""
    return (resample * 1000 + draw) * 100 + round_


async def ask(llm: ChatModel, request: ChatRequest, ctx: StepContext) -> Any:
    """The parsed reply; see ``reply_to``."""
    return (await reply_to(llm, request, ctx)).data


async def reply_to(llm: ChatModel, request: ChatRequest, ctx: StepContext) -> ChatReply:
    """The reply. Raises ``NotAnswered`` where only this question is lost: an invalid reply, or a spent LLM budget.

    Errors that would meet every further question (bad key, unknown model), a time limit and Ctrl-C pass through.
    """
    try:
        return await llm.complete(request, ctx)
    except EndpointError as error:
        if error.scope == "run":
            raise
        raise NotAnswered(error.message) from error
    except BudgetExceeded as error:
        if error.kind not in LLM_LIMITS:
            raise
        raise NotAnswered(f"not asked any more: {error.message}") from error


def asking_loop(
    state: Any, output: Any, *, ask: Any, judge: Any, close: Any, enough: Any
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A graph that asks and judges until ``enough`` says so instead of "again", then closes."""
    from langgraph.graph import END, START, StateGraph

    builder = StateGraph(state, output_schema=output)
    builder.add_node("ask", ask)
    builder.add_node("judge", judge)
    builder.add_node("close", close)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "judge")
    builder.add_conditional_edges("judge", enough, {"again": "ask", "enough": "close"})
    builder.add_edge("close", END)
    return builder.compile()

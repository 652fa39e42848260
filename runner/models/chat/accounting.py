"""One question's ledger: what was sent and spent, and its row in ``llm_calls``."""

from __future__ import annotations

import datetime
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from runner.context import StepContext
from runner.models.base import ChatRequest
from runner.models.chat.prices import Price
from runner.models.chat.sender import Attempts
from runner.models.chat.wire import RawReply, count_images


@dataclass
class Ledger:
    """Counts of one ``complete()``: turns answered from the cache, repairs, requests sent, tokens, outcome."""

    request: ChatRequest
    ctx: StepContext
    price: Price | None
    cache_key: str = ""
    cached_turns: int = 0
    repairs: int = 0
    turns: list[Attempts] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cost: float | None = None
    outcome: str = "run"
    finish_reason: str | None = None
    error: str | None = None
    started: float = field(default_factory=time.monotonic)
    created: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    @property
    def sent(self) -> int:
        """Requests sent so far, retries and repairs included."""
        return sum(turn.sent for turn in self.turns)

    @property
    def cached(self) -> bool:
        """Whether everything so far came from the reply cache."""
        return self.sent == 0 and self.cached_turns > 0

    def turn(self) -> Attempts:
        """Begin one more turn that is not cached."""
        self.turns.append(Attempts(self.ctx, self.request.item))
        return self.turns[-1]

    def hit(self, reply: RawReply) -> None:
        """A turn was answered from the cache."""
        self.cached_turns += 1
        self._count(reply)

    def paid(self, reply: RawReply) -> None:
        """A turn was answered by the model. Spends the run's token budget, so it may raise ``BudgetExceeded``."""
        self._count(reply)
        prompt, completion = reply.prompt_tokens or 0, reply.completion_tokens or 0
        cost = self.price.cost(prompt, completion) if self.price else None
        self.cost = None if cost is None else (self.cost or 0.0) + cost
        self.ctx.sink.usage(self.ctx.step, 1, 0, prompt, completion, cost)
        self.ctx.budget.spend("tokens", prompt + completion)

    def _count(self, reply: RawReply) -> None:
        self.finish_reason = reply.finish_reason
        if reply.prompt_tokens is not None:
            self.prompt_tokens = (self.prompt_tokens or 0) + reply.prompt_tokens
        if reply.completion_tokens is not None:
            self.completion_tokens = (self.completion_tokens or 0) + reply.completion_tokens
        if reply.cached_tokens is not None:
            self.cached_tokens = (self.cached_tokens or 0) + reply.cached_tokens

    def close(self, provider: str, model: str) -> None:
        """Write the row; count a question that cost nothing."""
        if self.cached:
            self.ctx.sink.usage(self.ctx.step, 0, 1, 0, 0, None)
        self.ctx.journal.llm_call(self.row(provider, model))

    def row(self, provider: str, model: str) -> dict[str, Any]:
        """The row of ``llm_calls``; tokens are those of all turns, the cost that of the paid ones."""
        errors = [turn.last_error for turn in self.turns if turn.last_error]
        return {
            "call_id": uuid.uuid4().hex,
            "purpose": self.request.purpose,
            "item": self.request.item or None,
            "provider": provider,
            "model": model,
            "cache_key": self.cache_key,
            "cached": self.cached,
            "attempts": self.sent,
            "outcome": self.outcome,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": self.cost,
            "ms": (time.monotonic() - self.started) * 1000,
            "error": self.error or (errors[-1] if errors else None),
            "created": self.created.replace(tzinfo=None).isoformat(),
            "n_images": count_images(self.request.messages),
            "cached_tokens": self.cached_tokens,
        }

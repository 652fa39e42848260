"""One question of an in-context run, with its row of ``circle_call``."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.asking import NotAnswered, reply_to
from agents.openworld import measured
from runner.context import StepContext
from runner.models.base import ChatModel, ChatReply, ChatRequest, ImagePart, Message

Row = dict[str, Any]


def prompt_hash(messages: Sequence[Message]) -> str:
    """SHA-256 (hex) of messages: roles, texts and the SHA-256 of the bytes of each picture."""
    said = [[m.role, [m.content] if isinstance(m.content, str) else [_hashed(p) for p in m.content]] for m in messages]
    return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()


def _hashed(part: str | ImagePart) -> Any:
    return part if isinstance(part, str) else {"image": _sha256(part.data)}


@functools.lru_cache(maxsize=128)  # context pictures come with every query
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def count_pictures(messages: Sequence[Message]) -> int:
    """Pictures in messages."""
    return sum(isinstance(part, ImagePart) for m in messages if not isinstance(m.content, str) for part in m.content)


@dataclass(frozen=True)
class Said:
    """What came of a question: the reply or None, its row of ``circle_call``, and what an answer's row says of it."""

    reply: ChatReply | None
    call: Row
    spent: Row


@dataclass(frozen=True)
class Talk:
    """Asks one model about one dataset and draw (``draw`` is the seed of the context): greedy, and a reply that runs into
    its limit, or that is empty, is a reply."""

    lmm: ChatModel
    ctx: StepContext
    dataset: str
    draw: int
    max_tokens: int = 64
    logprobs: bool = False

    async def say(
        self, messages: tuple[Message, ...], kind: str, *, round_: int | None = None, slot: int | None = None,
        sample_id: str | None = None,
    ) -> Said:  # fmt: skip
        """Ask. A question that is given up has no reply, and its row the reason; errors of the run are raised."""
        place = sample_id if slot is None else f"round {round_ or 0}, slot {slot}"
        request = ChatRequest(
            messages, f"circle.{kind}", item=f"{self.dataset}/{place}", max_tokens=self.max_tokens, seed=self.ctx.seed,
            allow_cut=True, allow_empty=True, logprobs=self.logprobs,
        )  # fmt: skip
        call: Row = {
            "dataset": self.dataset, "seed": self.draw, "kind": kind, "round": round_, "slot": slot, "sample_id": sample_id,
            "n_images": count_pictures(messages), "prompt_hash": prompt_hash(messages), "cached": False, "failure": None,
        }  # fmt: skip
        start = time.monotonic()
        try:
            reply = await reply_to(self.lmm, request, self.ctx)
        except NotAnswered as error:
            failure = {"failure": str(error), "ms": (time.monotonic() - start) * 1000}
            return Said(None, call | failure, {"failure": str(error)})
        finally:
            self.ctx.advance("calls", 1)
        spent = measured([reply]) | {"ms": (time.monotonic() - start) * 1000}
        kept = ("prompt_tokens", "cached_tokens", "output_tokens", "ms", "cached")
        return Said(reply, call | {name: spent[name] for name in kept}, spent)

"""Choosing the next token of each row of a batch: grammar, temperature and seed are the row's own.

A row's draws depend on its seed and its logits alone, not on who shares the batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from runner.models.chat.wire import Payload, SendFailed

_JSON_FORM: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def json_matcher(tokenizer: LLTokenizer, schema: dict[str, Any]) -> LLMatcher:
    """A matcher that admits exactly the JSON texts that obey ``schema``. Raises ``SendFailed`` if that cannot be."""
    matcher = LLMatcher(
        tokenizer, LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_JSON_FORM), log_level=0
    )
    if matcher.is_error():
        raise SendFailed(f"the schema cannot be enforced: {matcher.get_error()}", scope="item")
    return matcher


@dataclass
class Row:
    """One question of a batch: what it may still say and how it draws.

    ``ends``: token ids that end the reply; ``written``: ids chosen so far, an end token included; ``finish``: ``stop`` or
    ``length`` once it is over; ``log_likelihood``: sum of ln p over what is written, by the model's own distribution
    (before grammar and temperature), where the question wants it.
    """

    payload: Payload
    matcher: LLMatcher | None
    ends: frozenset[int]
    written: list[int] = field(default_factory=list)
    finish: str | None = None
    log_likelihood: float | None = None

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.payload.seed)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """The next token id from float32 logits [vocabulary], which are overwritten."""
        total = _log_sum_exp(logits) if self.payload.logprobs else 0.0
        self._forbid(logits)
        token = self._draw(logits)
        if self.payload.logprobs:
            self.log_likelihood = (self.log_likelihood or 0.0) + float(logits[token]) - total
        self.written.append(token)
        if token in self.ends or self._completes(token):
            self.finish = "stop"
        elif len(self.written) >= self.payload.max_tokens:
            self.finish = "length"
        return token

    def _completes(self, token: int) -> bool:
        """Tell the grammar of the token; True when nothing may follow it."""
        return self.matcher is not None and (not self.matcher.consume_token(token) or self.matcher.is_stopped())

    def _forbid(self, logits: NDArray[np.float32]) -> None:
        if self.matcher is None:
            return
        mask = allocate_token_bitmask(1, logits.shape[0])
        fill_next_token_bitmask(self.matcher, mask)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: logits.shape[0]]
        logits[bits == 0] = -np.inf

    def _draw(self, logits: NDArray[np.float32]) -> int:
        if self.payload.temperature <= 0:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self.payload.temperature
        weights = np.exp(scaled - scaled.max())
        return int(self._random.choice(len(weights), p=weights / weights.sum()))

    def text_ids(self) -> list[int]:
        """The ids that make up the text."""
        return [token for token in self.written if token not in self.ends]


def _log_sum_exp(logits: NDArray[np.float32]) -> float:
    """ln of the sum of exp(logits [vocabulary]), in float64."""
    highest = float(logits.max())
    return highest + float(np.log(np.exp(logits.astype(np.float64) - highest).sum()))


def rows_of(payloads: Sequence[Payload], tokenizer: LLTokenizer, ends: frozenset[int]) -> list[Row | SendFailed]:
    """A row for each question; the failure in its place where its schema cannot be enforced."""
    rows: list[Row | SendFailed] = []
    for payload in payloads:
        try:
            matcher = json_matcher(tokenizer, payload.schema) if payload.schema is not None else None
        except SendFailed as failure:
            rows.append(failure)
        else:
            rows.append(Row(payload, matcher, ends))
    return rows

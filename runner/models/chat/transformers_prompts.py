"""From questions to the tensors that a model of transformers takes: what every kind of prompt shares, and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from runner.models.chat.wire import Payload, SendFailed, text_messages

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prompts:
    """A batch as ``generate`` takes it: ``tensors`` by argument, padded on the left; ``lengths``: tokens of each prompt."""

    tensors: dict[str, torch.Tensor]
    lengths: list[int]


class Reader(Protocol):
    """Turns questions into prompts."""

    def encode(self, payloads: Sequence[Payload]) -> Prompts:
        """All of them as one batch. Raises ``SendFailed`` (scope ``item``) when one of them cannot be put."""


@dataclass(frozen=True)
class TextReader:
    """For models that read text only. ``pad``: the token that fills up; ``room``: tokens that the model holds, if known."""

    tokenizer: Any
    name: str
    pad: int
    room: int | None

    def encode(self, payloads: Sequence[Payload]) -> Prompts:
        """See ``Reader``."""
        import torch

        ids = [self._ids(payload) for payload in payloads]
        lengths = [len(i) for i in ids]
        check_room(payloads, lengths, self.room, self.name)
        width = max(lengths)
        padded = [[self.pad] * (width - len(i)) + i for i in ids]
        seen = [[0] * (width - n) + [1] * n for n in lengths]
        return Prompts({"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(seen)}, lengths)

    def _ids(self, payload: Payload) -> list[int]:
        messages = text_messages(payload.messages, self.name)
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def check_room(payloads: Sequence[Payload], lengths: Sequence[int], room: int | None, name: str) -> None:
    """Raise ``SendFailed`` unless the model holds every prompt with its reply."""
    for payload, length in zip(payloads, lengths, strict=True):
        if room is not None and length + payload.max_tokens > room:
            wanted = f"{length} tokens and a reply of {payload.max_tokens}"
            raise SendFailed(f"context too long: {wanted}, {name} holds {room}", scope="item")


def encode_all(reader: Reader, payloads: Sequence[Payload]) -> tuple[Prompts | None, dict[int, SendFailed]]:
    """One batch of the questions that can be put, and the failures of the others by their place."""
    try:
        return reader.encode(payloads), {}
    except SendFailed as failure:
        if len(payloads) == 1:
            return None, {0: failure}
    ends = {place: _failure(reader, payload) for place, payload in enumerate(payloads)}
    failed = {place: end for place, end in ends.items() if end is not None}
    rest = [payload for place, payload in enumerate(payloads) if place not in failed]
    return (reader.encode(rest) if rest else None), failed


def _failure(reader: Reader, payload: Payload) -> SendFailed | None:
    try:
        reader.encode([payload])
    except SendFailed as failure:
        return failure
    return None

"""What crosses the line between the client and a backend. Light: no model library here."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from runner.errors import EndpointError, EndpointScope
from runner.models.base import ImagePart, Message


@dataclass(frozen=True)
class Payload:
    """One turn to send: the conversation so far, the JSON Schema of the reply (or None) and how to sample.

    ``allow_cut``: a reply cut off at ``max_tokens`` is whole; ``allow_empty``: a blank one that ended by itself is an answer;
    ``logprobs``: the reply's log-likelihood is wanted.
    """

    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None
    schema_name: str = "reply"
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int = 0
    allow_cut: bool = False
    allow_empty: bool = False
    logprobs: bool = False


@dataclass(frozen=True)
class RawReply:
    """What came back, unparsed; ``model`` is what it calls itself. None where the backend does not say.

    ``cached_tokens``: how many of the prompt's tokens came from a prefix cache; ``log_likelihood``: sum of the natural
    logarithms of the tokens' probabilities, before temperature and grammar.
    """

    text: str
    finish_reason: str
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    log_likelihood: float | None = None


def says_nothing(text: str, finish_reason: str) -> bool:
    """Whether a reply is blank although no limit cut it off."""
    return not text.strip() and finish_reason != "length"


def may_be_blank(payload: Payload, finish_reason: str) -> bool:
    """Whether a blank reply with this end is an answer: it is wanted, and the model stopped by itself."""
    return payload.allow_empty and finish_reason == "stop"


def finite(number: float | None) -> float | None:
    """The number, or None where there is none or it is not finite."""
    return number if number is not None and math.isfinite(number) else None


class SendFailed(EndpointError):
    """One request failed.

    ``retry_after``: seconds the server asked for; ``limited``: it was a rate limit; ``at_once``: the request was changed
    and may be sent again without waiting (a parameter that the server does not know was dropped);
    ``blank``: the reply that came, where all that is wrong is that it says nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        scope: EndpointScope,
        status: int | None = None,
        retry_after: float | None = None,
        limited: bool = False,
        at_once: bool = False,
        hint: str | None = None,
        blank: RawReply | None = None,
    ) -> None:
        super().__init__(message, scope=scope, status=status, hint=hint)
        self.retry_after, self.limited, self.at_once, self.blank = retry_after, limited, at_once, blank


class Backend(Protocol):
    """Carries one turn to a model. ``send`` raises ``SendFailed`` for every failure that the caller can act on."""

    async def send(self, payload: Payload) -> RawReply:
        """One request, no retries."""

    def reads_text_only(self) -> bool:
        """Whether it is known, without a call, that no picture can be sent."""

    def close(self) -> None:
        """Free connections, threads and weights; a later ``send`` may open them again."""


@runtime_checkable
class AdapterBackend(Protocol):
    """A backend whose server knows adapters by name."""

    def named(self, model: str) -> Backend:
        """The same server, asked for ``model``, over the same connections."""

    async def models(self) -> list[str]:
        """What it can be asked for. Raises ``SendFailed``."""

    async def administer(self, path: str, body: dict[str, Any]) -> None:
        """One request that changes the server. Raises ``SendFailed`` unless it succeeds."""

    async def disconnect(self) -> None:
        """Close the connections of the running event loop; a later request opens others."""


def data_url(image: ImagePart) -> str:
    """The image as a ``data:`` URL."""
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode('ascii')}"


def openai_messages(messages: Sequence[Message], *, image_ids: bool = False) -> list[dict[str, Any]]:
    """Messages in the form of the chat-completions protocol, parts in their order; images become data URLs.

    ``image_ids``: name each image by the SHA-256 of its bytes, which vLLM takes as the key of its own image caches.
    """
    return [{"role": m.role, "content": _openai_content(m.content, image_ids)} for m in messages]


def _openai_content(content: str | tuple[str | ImagePart, ...], image_ids: bool) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part} if isinstance(part, str) else _image_part(part, image_ids) for part in content
    ]


def _image_part(image: ImagePart, image_ids: bool) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": data_url(image)}}
    return part | {"uuid": hashlib.sha256(image.data).hexdigest()} if image_ids else part


def count_images(messages: Sequence[Message]) -> int:
    """How many pictures the messages hold."""
    return sum(isinstance(part, ImagePart) for m in messages if not isinstance(m.content, str) for part in m.content)


def text_messages(messages: Sequence[Message], model: str) -> list[dict[str, str]]:
    """Messages for a model that reads text only. Raises ``SendFailed`` (scope ``item``) when there is an image."""
    return [{"role": m.role, "content": _text_of(m, model)} for m in messages]


def _text_of(message: Message, model: str) -> str:
    if isinstance(message.content, str):
        return message.content
    if any(isinstance(part, ImagePart) for part in message.content):
        raise SendFailed(f"{model} reads text only, but the question holds an image", scope="item")
    return "".join(part for part in message.content if isinstance(part, str))

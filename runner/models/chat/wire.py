"""What crosses the line between the client and a backend. Light: no model library here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runner.errors import EndpointError, EndpointScope
from runner.models.base import ImagePart, Message


@dataclass(frozen=True)
class Payload:
    """One turn to send: the conversation so far, the JSON Schema of the reply (or None) and how to sample."""

    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None
    schema_name: str = "reply"
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int = 0


@dataclass(frozen=True)
class RawReply:
    """What came back, unparsed. Token counts are None where the backend does not say; ``model`` is what it calls itself."""

    text: str
    finish_reason: str
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class SendFailed(EndpointError):
    """One request failed.

    ``retry_after``: seconds the server asked for; ``limited``: it was a rate limit; ``at_once``: the request was changed
    and may be sent again without waiting (a parameter that the server does not know was dropped).
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
    ) -> None:
        super().__init__(message, scope=scope, status=status, hint=hint)
        self.retry_after, self.limited, self.at_once = retry_after, limited, at_once


class Backend(Protocol):
    """Carries one turn to a model. ``send`` raises ``SendFailed`` for every failure that the caller can act on."""

    async def send(self, payload: Payload) -> RawReply:
        """One request, no retries."""

    def close(self) -> None:
        """Free connections, threads and weights; a later ``send`` may open them again."""


def data_url(image: ImagePart) -> str:
    """The image as a ``data:`` URL."""
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode('ascii')}"


def openai_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in the form of the chat-completions protocol; images become data URLs."""
    return [{"role": m.role, "content": _openai_content(m.content)} for m in messages]


def _openai_content(content: str | tuple[str | ImagePart, ...]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in content
    ]


def text_messages(messages: Sequence[Message], model: str) -> list[dict[str, str]]:
    """Messages for a model that reads text only. Raises ``SendFailed`` (scope ``item``) when there is an image."""
    return [{"role": m.role, "content": _text_of(m, model)} for m in messages]


def _text_of(message: Message, model: str) -> str:
    if isinstance(message.content, str):
        return message.content
    if any(isinstance(part, ImagePart) for part in message.content):
        raise SendFailed(f"{model} reads text only, but the question holds an image", scope="item")
    return "".join(part for part in message.content if isinstance(part, str))

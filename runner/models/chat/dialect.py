"""The request body of the chat-completions protocol, and what a server turns out not to understand of it.

Servers differ: some refuse ``response_format`` (all of it, or one schema their grammar compiler cannot take), newer
models want ``max_completion_tokens``, some know no ``seed``, take no ``temperature`` or give no ``logprobs``. A refusal
that names such a field changes how the next body is written; the request is then sent again. Each change happens once, so this ends.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from typing import Any

from runner.models.base import Message
from runner.models.chat.keys import canonical
from runner.models.chat.outcomes import mentions
from runner.models.chat.wire import Payload, SendFailed, openai_messages

_STRUCTURE_WORDS = ("response_format", "json_schema", "json schema", "grammar", "guided", "structured")
_REFUSED_LOGPROBS = (400, 403, 422, 500, 501)  # 403: not for this model
_SCHEMAS_UNTIL_NEVER = 3  # different schemas refused until no more are sent


class Dialect:
    """How to write bodies for one server, learnt from its refusals."""

    def __init__(self, model: str, *, image_ids: bool = False) -> None:
        """``image_ids``: see ``openai_messages``."""
        self._model, self._image_ids = model, image_ids
        self._limit_field = "max_tokens"
        self._dropped: set[str] = set()
        self._refused_schemas: set[str] = set()

    def named(self, model: str) -> Dialect:
        """For another model of the same server; refusals learnt by one count for both."""
        other = copy.copy(self)
        other._model = model
        return other

    def body(self, payload: Payload) -> dict[str, Any]:
        """The JSON body that asks for ``payload``."""
        enforced = payload.schema is not None and self._enforces(payload.schema)
        if payload.schema is not None and not enforced:
            payload = instructed(payload)
        body: dict[str, Any] = {
            "model": self._model,
            "messages": openai_messages(payload.messages, image_ids=self._image_ids),
            "temperature": payload.temperature,
            "seed": payload.seed,
            self._limit_field: payload.max_tokens,
        }
        if enforced:
            body["response_format"] = response_format(payload)
        if payload.logprobs:
            body["logprobs"] = True
        return {name: value for name, value in body.items() if name not in self._dropped}

    def learn(self, failure: SendFailed, payload: Payload, body: dict[str, Any]) -> bool:
        """Take note of a refusal of ``body``; True when the next body for ``payload`` will differ."""
        if "logprobs" in body and failure.status in _REFUSED_LOGPROBS and mentions(failure, "logprob"):
            self._dropped.add("logprobs")
            return True
        if failure.status not in (400, 422, 500, 501):
            return False
        if "response_format" in body and mentions(failure, *_STRUCTURE_WORDS):
            self._refused_schemas.add(canonical(payload.schema))
            return True
        if failure.status in (500, 501):
            return False
        if "max_tokens" in body and mentions(failure, "max_completion_tokens"):
            self._limit_field = "max_completion_tokens"
            return True
        return self._drop_named(failure, body)

    def _drop_named(self, failure: SendFailed, body: dict[str, Any]) -> bool:
        named = [f for f in ("seed", "temperature") if f in body and mentions(failure, f"'{f}'", f'"{f}"', f", {f})")]
        self._dropped.update(named)
        return bool(named)

    def _enforces(self, schema: dict[str, Any]) -> bool:
        return len(self._refused_schemas) < _SCHEMAS_UNTIL_NEVER and canonical(schema) not in self._refused_schemas


def response_format(payload: Payload) -> dict[str, Any]:
    """The ``response_format`` that holds the reply to ``payload.schema``."""
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", payload.schema_name)[:64] or "reply"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": payload.schema, "strict": True}}


def instructed(payload: Payload) -> Payload:
    """The same question with the schema written into the system message instead of enforced."""
    schema = json.dumps(payload.schema, ensure_ascii=False)
    order = f"Answer with one JSON value that obeys this JSON Schema, and with nothing else:\n{schema}"
    first, *rest = payload.messages
    if first.role == "system" and isinstance(first.content, str):
        messages = (Message("system", f"{first.content}\n\n{order}"), *rest)
    else:
        messages = (Message("system", order), first, *rest)
    return replace(payload, messages=messages, schema=None)

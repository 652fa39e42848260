"""A chat model that answers from a script, held to the same contract as the real client."""

import json
import sys
from pathlib import Path

import jsonschema
import pytest

from runner.context import local_context
from runner.errors import EndpointError
from runner.models.base import ChatModel, ChatReply

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "chat")]  # material, loopback server


class ScriptedModel(ChatModel):
    """``answer(request, data)`` gives the reply text, given the data object of the prompt; repairs as the client does."""

    name = "scripted"

    def __init__(self, answer):
        self.answer = answer
        self.requests = []

    async def complete(self, request, ctx):
        error = None
        for attempt in range(1 + request.max_repairs):
            self.requests.append(request)
            ctx.budget.spend("llm_calls", 1)
            text = self.answer(request, json.loads(request.messages[1].content.removeprefix("Prompt:\n")))
            try:
                data = json.loads(text)
                jsonschema.validate(data, request.schema)
                if request.accept:
                    request.accept(data)
                return ChatReply(text, data, "stop", 1, 1, attempt + 1, False, self.name)
            except (ValueError, jsonschema.ValidationError) as problem:
                error = problem
        raise EndpointError(f"no usable reply: {type(error).__name__}", scope="item")

    def asked(self, purpose):
        return [r for r in self.requests if r.purpose == purpose]


@pytest.fixture
def scripted():
    return ScriptedModel


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path, step="step")

"""A real model (SmolLM2-135M), inside this process and over its own HTTP endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.assets import ensure
from runner.context import StepContext, local_context
from runner.errors import EndpointError, ModelRefused
from runner.models.base import ChatModel, ChatRequest, ImagePart, Message
from runner.models.chat.llamacpp import LlamaCppBackend, serve_gguf
from runner.models.chat.providers import LlamaCpp, OpenAI
from runner.models.registry import Services

pytestmark = pytest.mark.assets

ANIMALS = ["cat", "dog", "horse"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"animal": {"enum": ANIMALS}, "words": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2}},
    "required": ["animal", "words"],
    "additionalProperties": False,
}  # fmt: skip


def question(text: str, **changes: Any) -> ChatRequest:
    settings: dict[str, Any] = {"schema": SCHEMA, "max_tokens": 96} | changes
    return ChatRequest((Message("user", text),), "test", item=text, **settings)


@pytest.fixture(scope="module")
def model_file() -> Path:
    return ensure("smollm2-135m", lambda text: None).path


@pytest.fixture(scope="module")
def loaded(model_file: Path, tmp_path_factory: Any) -> Iterator[ChatModel]:
    services = Services(cache=tmp_path_factory.mktemp("cache"))
    model = LlamaCpp(model=str(model_file), context=4096, parallel=2, threads=2).load(services)
    yield model
    model.close()


async def test_replies_obey_the_schema(loaded: ChatModel, ctx: StepContext) -> None:
    questions = [question(f"Name an animal with {n} legs.") for n in (2, 4, 6)]
    replies = await asyncio.gather(*(loaded.complete(q, ctx) for q in questions))
    assert all(reply.data["animal"] in ANIMALS and len(reply.data["words"]) <= 2 for reply in replies)
    assert all(reply.prompt_tokens > 0 and reply.completion_tokens > 0 for reply in replies)
    again = await loaded.complete(questions[0], ctx)
    assert again.cached and again.data == replies[0].data


async def test_free_text_and_seeds(loaded: ChatModel, ctx: StepContext) -> None:
    ask = {"schema": None, "temperature": 1.0, "max_tokens": 400}
    texts = [
        (await loaded.complete(question("Say hello in one short sentence.", sample=n, **ask), ctx)).text
        for n in (0, 1, 2)
    ]
    assert len(set(texts)) > 1 and all(texts)


async def test_what_the_model_cannot_take_is_one_item(loaded: ChatModel, ctx: StepContext) -> None:
    picture = ChatRequest((Message("user", ("What is this?", ImagePart(b"\xff\xd8"))),), "test")
    for request, said in (
        (question("long " * 5000), "context"),
        (picture, "reads text only"),
        (question("x", schema={"type": "bogus"}), "bogus"),
    ):
        with pytest.raises(EndpointError, match=said) as error:
            await loaded.complete(request, ctx)
        assert error.value.scope == "item"


def test_it_serves_several_event_loops_and_loads_again_after_closing(loaded: ChatModel, tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    first = asyncio.run(loaded.complete(question("Which animal barks?"), ctx))
    loaded.close()
    second = asyncio.run(loaded.complete(question("Which animal meows?"), ctx))
    assert first.data["animal"] in ANIMALS and second.data["animal"] in ANIMALS


async def test_the_same_over_http(model_file: Path, ctx: StepContext, tmp_path: Path) -> None:
    with serve_gguf(model_file, context=4096, parallel=2, threads=2) as base_url:
        model = OpenAI(model="smollm2", base_url=base_url).load(Services(cache=tmp_path))
        questions = [question(f"Name an animal with {n} legs.") for n in (2, 4, 6)]
        replies = await asyncio.gather(*(model.complete(q, ctx) for q in questions))
        assert all(reply.data["animal"] in ANIMALS for reply in replies)
        with pytest.raises(EndpointError, match="context") as error:
            await model.complete(question("long " * 5000), ctx)
        assert (error.value.scope, error.value.status) == ("item", 400)
        model.close()


async def test_a_cut_file_is_refused(model_file: Path, ctx: StepContext, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with model_file.open("rb") as whole:
        cut.write_bytes(whole.read(1_000_000))
    backend = LlamaCppBackend(cut)
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        await asyncio.wait_for(LlamaCpp(model=str(cut)).load(Services(cache=tmp_path)).complete(question("x"), ctx), 60)
    backend.close()


async def test_nobody_waits_for_a_dropped_question(model_file: Path, ctx: StepContext, tmp_path: Path) -> None:
    """Cancelling a question, then closing, ends its generation at the next token, not after its 20,000."""
    services = Services(cache=tmp_path)
    model = LlamaCpp(model=str(model_file), context=32768, parallel=1, threads=1).load(services)
    await model.complete(question("Name an animal."), ctx)
    endless = question("Count upwards from one, for ever.", schema=None, max_tokens=20_000)
    asked = asyncio.create_task(model.complete(endless, ctx))
    await asyncio.sleep(1)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.wait_for(asyncio.to_thread(model.close), timeout=60)

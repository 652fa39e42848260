"""Whether a model takes pictures is known before work starts, and every refusal says what to do."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from runner.errors import EndpointError, ModelRefused
from runner.models.base import ChatRequest, ImagePart, ImageSupport, Message
from runner.models.chat import probing
from runner.models.chat.providers import LlamaCpp
from runner.models.registry import Services
from tests.chat import picture_server
from tests.chat.fault_server import serving
from tests.chat.test_transformers import make_model
from tests.chat.tiny_vlm import make_tiny_vlm


async def test_one_question_holds_all_pictures_and_is_asked_once(make_client: Any, ctx: Any) -> None:
    with serving() as server:
        assert await make_client(server.base_url).check_images(17, ctx) == ImageSupport(17)
        assert await make_client(server.base_url).check_images(17, ctx) == ImageSupport(17)
    assert server.requests == 1
    seen = picture_server.look(server.bodies[0])
    assert len(set(picture_server.pictures(server.bodies[0]))) == 17
    assert all(isinstance(part, str) is (place % 2 == 1) for place, part in enumerate(seen[:-1]))
    assert [(row["purpose"], row["n_images"], row["attempts"]) for row in ctx.journal.calls] == [
        ("probe", 17, 1), ("probe", 17, 0),
    ]  # fmt: skip


def test_colours_are_distinct() -> None:
    assert len({probing.colour_of(number) for number in range(5000)}) == 5000


async def test_a_reply_that_is_cut_or_odd_is_no_refusal(make_client: Any, ctx: Any) -> None:
    for name in ("length", "prose"):
        with serving(rate=1.0, faults=(name,)) as server:
            client = make_client(server.base_url, cache=f"{name}.sqlite")
            assert (await client.check_images(3, ctx)).count == 3
        assert server.requests == 1


async def test_too_many_pictures_name_the_flag(make_client: Any, ctx: Any) -> None:
    with serving(rate=1.0, faults=("one_picture",)) as server:
        with pytest.raises(ModelRefused, match=r"17 pictures.*At most 1 image") as refused:
            await make_client(server.base_url).check_images(17, ctx)
        assert (await make_client(server.base_url).check_images(1, ctx)).count == 1
    assert "--limit-mm-per-prompt '{\"image\": 17}'" in str(refused.value.hint)
    assert server.requests == 2


@pytest.mark.parametrize("name", picture_server.BLIND)
async def test_a_model_without_eyes_is_named_at_once(name: str, make_client: Any, ctx: Any) -> None:
    with serving(rate=1.0, faults=(name,)) as server:
        client = make_client(server.base_url)
        with pytest.raises(ModelRefused, match="tiny reads text only") as refused:
            await client.check_images(2, ctx)
        assert "takes pictures" in str(refused.value.hint)
        assert server.requests == 1
        reply = await client.complete(ChatRequest((Message("user", "still there?"),), "test"), ctx)
    assert reply.text == "You said: still there?"


async def test_other_refusals_are_quoted(make_client: Any, ctx: Any) -> None:
    expected = {"short_context": "--max-model-len", "odd_400": "--limit-mm-per-prompt"}
    for name, advice in expected.items():
        message = "does not take a message with 4 pictures"
        with serving(rate=1.0, faults=(name,)) as server, pytest.raises(ModelRefused, match=message) as refused:
            await make_client(server.base_url).check_images(4, ctx)
        assert advice in str(refused.value.hint)


@pytest.mark.parametrize(
    ("said", "kind", "advice"),
    [
        ("tiny: At most 4 image(s) may be provided in one prompt. (parameter=image)", ModelRefused, '{"image": 5}'),
        ("tiny: tiny is not a multimodal model", ModelRefused, "takes pictures"),
        ("context too long: 900 tokens and a reply of 16, tiny holds 512", ModelRefused, "fewer"),
        ("no answer from http://127.0.0.1:1/v1: ConnectError", EndpointError, "is the server up"),
    ],
)
def test_models_in_this_process_have_no_status(said: str, kind: type[Exception], advice: str) -> None:
    """As vLLM's engine, the transformers backend and a dead server put it."""
    error = probing.judged(EndpointError(said, scope="item"), "tiny", 5)
    assert type(error) is kind and advice in str(error.hint) and said in error.message


async def test_passing_faults_are_sat_out(make_client: Any, ctx: Any) -> None:
    with serving(script=("http_500", "rate_limit", "reset", "cut_body")) as server:
        assert (await make_client(server.base_url).check_images(2, ctx)).count == 2
    assert server.requests == 5


async def test_what_ends_a_run_ends_it_here_too(make_client: Any, ctx: Any) -> None:
    for name in ("http_401", "http_404", "http_500"):
        with serving(rate=1.0, faults=(name,)) as server, pytest.raises(EndpointError) as error:
            await make_client(server.base_url, patience={"max_retries": 1}).check_images(2, ctx)
        assert error.value.scope == "run" and error.value.hint


@pytest.mark.parametrize(("answer", "expected"), [("in_order", True), ("moved_to_front", False), ("no_idea", None)])
async def test_the_order_of_pictures_and_texts(answer: str, expected: bool | None, make_client: Any, ctx: Any) -> None:
    with serving(answer=getattr(picture_server, answer)) as server:
        for _ in range(2):
            support = await make_client(server.base_url).check_images(3, ctx, interleaving=True)
            assert support == ImageSupport(3, expected)
    assert server.requests == 2
    assert "--interleave-mm-strings" in probing.INTERLEAVE_HINT


async def test_no_answer_about_the_order_is_no_verdict(make_client: Any, ctx: Any) -> None:
    with serving(rate=1.0, faults=("one_picture",)) as server:
        support = await make_client(server.base_url).check_images(1, ctx, interleaving=True)
    assert support == ImageSupport(1, None)


def test_the_verdict_is_no_coincidence() -> None:
    """Of all pairs of words, one is right; what moved pictures would make it say is no."""
    pairs = itertools.product(probing.WORDS, repeat=2)
    verdicts = [probing.judged_order({"red": red, "blue": blue}) for red, blue in pairs]
    assert (verdicts.count(True), verdicts.count(False), verdicts.count(None)) == (1, 7, 28)


async def test_models_in_this_process_say_so_without_a_call(tmp_path: Path, ctx: Any) -> None:
    from runner.models.chat.providers import Transformers

    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    services = Services(cache=tmp_path)
    models = [LlamaCpp(model=str(tmp_path / "m.gguf")), Transformers(path=str(make_model(tmp_path / "llama")))]
    for config in models:
        with pytest.raises(ModelRefused, match="reads text only"):
            await config.load(services).check_images(1, ctx)
    assert ctx.journal.calls == []


async def test_a_model_in_this_process_is_really_asked(tmp_path: Path, ctx: Any) -> None:
    from runner.models.chat.providers import Transformers

    folder = make_tiny_vlm(tmp_path / "qwen")
    model = Transformers(path=str(folder), device="cpu", dtype="float32").load(Services(cache=tmp_path))
    assert (await model.check_images(17, ctx)).count == 17
    with pytest.raises(ModelRefused, match="context too long") as refused:
        await model.check_images(400, ctx)
    model.close()
    assert "fewer" in str(refused.value.hint)


async def test_pictures_and_messages_keep_their_order_and_their_bytes(make_client: Any, ctx: Any) -> None:
    red, blue = probing.picture(probing.RED), probing.picture(probing.BLUE)
    messages = (
        Message("system", "Look."), Message("user", (red, "one", blue, "two", red)), Message("user", "again"),
        Message("user", ("three", blue)),
    )  # fmt: skip
    with serving() as server:
        await make_client(server.base_url).complete(ChatRequest(messages, "test"), ctx)
    sent = server.bodies[0]["messages"]
    assert [m["role"] for m in sent] == ["system", "user", "user", "user"]
    assert [part["type"] for part in sent[1]["content"]] == ["image_url", "text", "image_url", "text", "image_url"]
    assert sent[1]["content"][0] == sent[1]["content"][4] and sent[1]["content"][2] == sent[3]["content"][1]
    assert sent[2]["content"] == "again" and "uuid" not in sent[1]["content"][0]
    assert ctx.journal.calls[0]["n_images"] == 4


async def test_pictures_bear_their_hash_when_asked(ctx: Any, tmp_path: Path) -> None:
    import hashlib

    from runner.models.chat.providers import OpenAI

    picture = ImagePart(b"\xff\xd8 any bytes")
    with serving() as server:
        for name, image_ids in (("with", True), ("without", False)):
            config = OpenAI(model="m", base_url=server.base_url, image_ids=image_ids)
            model = config.load(Services(cache=tmp_path / name))
            await model.complete(ChatRequest((Message("user", (picture, "what?")),), "test"), ctx)
            model.close()
    parts = [body["messages"][0]["content"] for body in server.bodies]
    assert parts[0][0]["uuid"] == hashlib.sha256(picture.data).hexdigest()
    assert "uuid" not in parts[0][1] and "uuid" not in parts[1][0]
    assert parts[0][0]["image_url"] == parts[1][0]["image_url"]
    assert config.identity() == OpenAI(model="m", base_url=server.base_url, image_ids=True).identity()

"""The transformers backend on a tiny random model made here: constrained, batched, seeded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.context import StepContext
from runner.errors import EndpointError, ModelRefused
from runner.models.base import ChatModel, ChatRequest, ImagePart, Message
from runner.models.chat.providers import Transformers
from runner.models.chat.transformers_backend import TransformersBackend
from runner.models.chat.wire import Payload
from runner.models.registry import Services

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["cat", "dog"]},
        "why": {"type": "string", "maxLength": 6},
        "legs": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["animal", "why", "legs"],
    "additionalProperties": False,
}
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(folder: Path, *, template: bool = True) -> int:
    """A byte-level BPE tokenizer trained on a few lines; returns its number of tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(
        ['{"animal": "cat", "why": "it purrs", "legs": 4}', "which animal is it? dog"], trainer
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    if template:
        fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)


def make_model(folder: Path, *, template: bool = True) -> Path:
    """A random Llama of 60,000 parameters with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=make_tokenizer(folder, template=template), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, eos_token_id=0, bos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Iterator[ChatModel]:
    made = Transformers(path=str(folder), batch_size=4, device="cpu", dtype="float32").load(Services(cache=tmp_path))
    yield made
    made.close()


def question(text: str, **changes: Any) -> ChatRequest:
    settings: dict[str, Any] = {"schema": SCHEMA, "max_tokens": 120} | changes
    return ChatRequest((Message("system", "Answer."), Message("user", text)), "test", item=text, **settings)


async def test_a_random_model_always_answers_with_valid_json(model: ChatModel, ctx: StepContext) -> None:
    questions = [question(f"which animal is {n}? " + "x" * n, temperature=2.0 * (n % 2), sample=n) for n in range(12)]
    replies = await asyncio.gather(*(model.complete(q, ctx) for q in questions))
    assert all(reply.data == json.loads(reply.text) for reply in replies)
    assert all(reply.data["animal"] in ("cat", "dog") and reply.finish_reason == "stop" for reply in replies)
    assert [row["outcome"] for row in ctx.journal.calls] == ["ok"] * 12
    assert all(reply.attempts == 1 for reply in replies)


async def test_a_draw_does_not_depend_on_who_shares_the_batch(folder: Path) -> None:
    backend = TransformersBackend(folder, dtype="float32", batch_size=8)
    messages = (Message("user", "which animal?"),)
    payloads = [Payload(messages, SCHEMA, temperature=1.5, max_tokens=100, seed=seed) for seed in range(6)]
    alone = [await backend.send(payload) for payload in payloads]
    together = await asyncio.gather(*(backend.send(payload) for payload in payloads))
    backend.close()
    assert [reply.text for reply in alone] == [reply.text for reply in together]
    assert len({reply.text for reply in alone}) > 1


async def test_the_choice_is_the_models_own(folder: Path) -> None:
    """Greedy and unconstrained, the backend writes what a plain loop over the logits writes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    backend = TransformersBackend(folder, dtype="float32")
    reply = await backend.send(Payload((Message("user", "which animal?"),), max_tokens=20))
    backend.close()
    plain: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("<|user|>which animal?<|end|><|assistant|>", add_special_tokens=False)["input_ids"]
    prompt = len(ids)
    for _ in range(20):
        with torch.inference_mode():
            best = int(np.argmax(plain(torch.tensor([ids])).logits[0, -1].numpy()))
        ids.append(best)
        if best == 0:
            break
    written = [i for i in ids[prompt:] if i != 0]
    assert reply.text == tokenizer.decode(written, skip_special_tokens=True)
    assert (reply.prompt_tokens, reply.completion_tokens) == (prompt, len(ids) - prompt)


async def test_a_cut_reply_says_so(folder: Path) -> None:
    backend = TransformersBackend(folder, dtype="float32")
    short = Payload((Message("user", "a"),), SCHEMA, max_tokens=5)
    enough = Payload((Message("user", "a"),), SCHEMA, max_tokens=100)
    replies = await asyncio.gather(backend.send(short), backend.send(enough))
    backend.close()
    assert [reply.finish_reason for reply in replies] == ["length", "stop"]
    assert replies[0].completion_tokens == 5


async def test_one_bad_question_spoils_no_batch(model: ChatModel, ctx: StepContext) -> None:
    picture = ChatRequest((Message("user", ("What?", ImagePart(b"\xff\xd8"))),), "test")
    questions = [
        question("fine"), question("long " * 400), picture, question("x", schema={"type": "bogus"}), question("fine too"),
    ]  # fmt: skip
    ends = await asyncio.gather(*(model.complete(q, ctx) for q in questions), return_exceptions=True)
    kinds = [getattr(end, "scope", "answered") for end in ends]
    assert kinds == ["answered", "item", "item", "item", "answered"]
    assert all(isinstance(end, EndpointError) for end in ends[1:4])
    assert "context too long" in str(ends[1]) and "reads text only" in str(ends[2])


async def test_cancelled_questions_do_not_stop_the_others(folder: Path) -> None:
    backend = TransformersBackend(folder, dtype="float32", batch_size=2)
    tasks = [
        asyncio.create_task(backend.send(Payload((Message("user", str(n)),), SCHEMA, max_tokens=100))) for n in range(6)
    ]
    await asyncio.sleep(0)
    for task in tasks[1::2]:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    backend.close()
    assert all(json.loads(end.text) for end in ends[0::2] if not isinstance(end, BaseException))
    assert sum(isinstance(end, asyncio.CancelledError) for end in ends) == 3


async def test_a_model_without_chat_template_or_with_broken_weights_is_refused(
    tmp_path: Path, ctx: StepContext
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    make_model(bare, template=False)
    with pytest.raises(ModelRefused, match="no chat template"):
        await TransformersBackend(bare).send(Payload((Message("user", "a"),)))
    deeper = make_model(tmp_path / "deeper")
    config = json.loads((deeper / "config.json").read_text())
    (deeper / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelRefused, match="lacks weights"):
        await TransformersBackend(deeper).send(Payload((Message("user", "a"),)))
    broken = make_model(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        await TransformersBackend(broken).send(Payload((Message("user", "a"),)))


async def test_code_in_the_folder_does_not_run(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "hostile")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        await TransformersBackend(folder).send(Payload((Message("user", "a"),)))
    assert not mark.exists()

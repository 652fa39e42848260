"""vLLM inside this process: its own scheduler batches, its own grammar engine enforces schemas.

vLLM pins other versions of torch and transformers than most, so it lives in an environment of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from runner.errors import AssetError, ModelRefused
from runner.models.chat.batching import Batcher
from runner.models.chat.wire import (
    Payload,
    RawReply,
    SendFailed,
    count_images,
    finite,
    may_be_blank,
    openai_messages,
    says_nothing,
    text_messages,
)

_HINT = "pip install 'vlm-runner[vllm]' in an environment of its own, or serve the model and use provider: openai"


class VllmBackend:
    """One model. ``images``: most pictures of one question; ``engine`` options go to ``vllm.LLM``; loaded on the first
    question."""

    def __init__(self, model: str, *, batch_size: int = 64, images: int | None = None, **engine: Any) -> None:
        import_vllm()
        if images is not None:
            engine["limit_mm_per_prompt"] = {"image": images}
        self._model_name, self._engine = model, engine
        self._batcher = Batcher(self._generate, batch_size, "vllm-chat")
        self._llm: Any = None

    async def send(self, payload: Payload) -> RawReply:
        """One generation, together with others asked for at the same time."""
        return await self._batcher.ask(payload)

    def reads_text_only(self) -> bool:
        """vLLM knows, once the model is loaded."""
        return False

    def close(self) -> None:
        """Finish what was asked for, then free the weights."""
        self._batcher.close()
        self._llm = None

    def _generate(self, payloads: Sequence[Payload]) -> list[RawReply | SendFailed]:
        if self._llm is None:
            self._llm = load(self._model_name, self._engine)
        try:
            return self._chat(payloads)
        except SendFailed as failure:
            error: SendFailed = failure
        except _refusals() as refused:
            error = SendFailed(f"{self._model_name}: {refused}", scope="item")
        if len(payloads) == 1:
            return [error]
        return [answer for payload in payloads for answer in self._generate([payload])]  # one spoils all: which?

    def _chat(self, payloads: Sequence[Payload]) -> list[RawReply | SendFailed]:
        messages = [self._messages(payload) for payload in payloads]
        outputs = self._llm.chat(messages, [sampling(payload) for payload in payloads], use_tqdm=False)
        return [self._reply(output, payload) for output, payload in zip(outputs, payloads, strict=True)]

    def _messages(self, payload: Payload) -> list[dict[str, Any]]:
        """Parts in their order where there are pictures, else plain text, which every chat template knows."""
        if count_images(payload.messages):
            return openai_messages(payload.messages)
        return [dict(message) for message in text_messages(payload.messages, self._model_name)]

    def _reply(self, output: Any, payload: Payload) -> RawReply | SendFailed:
        first = output.outputs[0]
        finish = str(first.finish_reason or "stop")
        # Accepted at once where it may be blank: no transport lies between that could have lost the text.
        if says_nothing(first.text, finish) and not may_be_blank(payload, finish):
            return SendFailed(f"{self._model_name} wrote nothing", scope="item")
        return RawReply(
            first.text, finish, self._model_name, len(output.prompt_token_ids), len(first.token_ids),
            output.num_cached_tokens, finite(first.cumulative_logprob),
        )  # fmt: skip


def import_vllm() -> Any:
    """The vLLM module. Raises ``AssetError`` with what to install."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine stays in this process
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm
    except ImportError as error:
        raise AssetError(f"vLLM is not installed here ({error})", hint=_HINT) from error
    return vllm


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a question that it cannot take; differs between versions."""
    try:
        from vllm.exceptions import VLLMValidationError
    except ImportError:
        return (ValueError,)
    return (ValueError, VLLMValidationError)


def load(model: str, engine: dict[str, Any]) -> Any:
    """A ``vllm.LLM`` that reads safetensors only and runs no code of the model's. Raises ``ModelRefused``."""
    vllm = import_vllm()
    try:
        return vllm.LLM(model=model, load_format="safetensors", trust_remote_code=False, **engine)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelRefused(f"{model} cannot be loaded by vLLM: {error}") from error


def sampling(payload: Payload) -> Any:
    """vLLM's sampling parameters for one question."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    structured = StructuredOutputsParams(json=payload.schema) if payload.schema is not None else None
    return SamplingParams(
        temperature=payload.temperature,
        max_tokens=payload.max_tokens,
        seed=payload.seed,
        logprobs=0 if payload.logprobs else None,  # 0: of the chosen token only
        structured_outputs=structured,
    )

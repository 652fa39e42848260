"""GGUF models inside this process through the prebuilt llama.cpp server, without HTTP.

Loaded on the first question; up to ``parallel`` questions run at once, each in a thread that waits outside the GIL.
Answers are streamed, only so that a question nobody waits for any more can be dropped at its next token.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runner.errors import ModelRefused
from runner.models.chat.dialect import response_format
from runner.models.chat.outcomes import reply_of_body
from runner.models.chat.wire import Payload, RawReply, SendFailed, text_messages

_MAGIC = b"GGUF"


class LlamaCppBackend:
    """One GGUF file. ``context`` tokens are shared by the ``parallel`` questions under way."""

    def __init__(self, path: Path, *, context: int = 8192, parallel: int = 4, threads: int | None = None) -> None:
        check_gguf(path)
        self._path, self._context, self._parallel, self._threads = path, context, parallel, threads
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server: Any = None
        self._pool: ThreadPoolExecutor | None = None

    async def send(self, payload: Payload) -> RawReply:
        """One generation. Raises ``SendFailed`` with scope ``item`` when the model cannot take the question."""
        answer = _Answer(self._closing)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads_pool(), self._ask, self._body(payload), answer)
        finally:
            answer.dropped.set()
        return reply_of_body(answer.body())

    def reads_text_only(self) -> bool:
        """No projector for pictures is loaded."""
        return True

    def close(self) -> None:
        """Drop what is being generated, then free the weights."""
        pool, self._pool = self._pool, None
        self._closing.set()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._server = None
        self._closing.clear()

    def _body(self, payload: Payload) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": text_messages(payload.messages, self._path.name),
            "temperature": payload.temperature,
            "max_tokens": payload.max_tokens,
            "seed": payload.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if payload.logprobs:
            body |= {"logprobs": True, "top_logprobs": 1}
        if payload.schema is not None:
            body["response_format"] = response_format(payload)
        return body

    def _ask(self, body: dict[str, Any], answer: _Answer) -> None:
        if answer.is_dropped():
            return
        try:
            self._loaded().handle_chat_completions(body, answer.take)
        except (ValueError, RuntimeError) as error:
            raise SendFailed(f"{self._path.name}: {error}", scope="item") from error

    def _threads_pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._parallel, thread_name_prefix="llamacpp")
            return self._pool

    def _loaded(self) -> Any:
        with self._lock:
            if self._server is None:
                self._server = start_server(
                    self._path, context=self._context, parallel=self._parallel, threads=self._threads
                )
            return self._server


class _Answer:
    """The pieces of one streamed answer."""

    def __init__(self, closing: threading.Event) -> None:
        self.dropped = threading.Event()
        self._closing = closing
        self._text: list[str] = []
        self._log_probabilities: list[Any] = []
        self._last: dict[str, Any] = {}
        self._finish: str | None = None

    def is_dropped(self) -> bool:
        """Whether nobody waits for this answer."""
        return self.dropped.is_set() or self._closing.is_set()

    def take(self, chunk: dict[str, Any]) -> bool:
        """Keep a piece; True ends the generation."""
        self._last = chunk
        for choice in chunk.get("choices") or ():
            self._text.append(choice.get("delta", {}).get("content") or "")
            self._log_probabilities += (choice.get("logprobs") or {}).get("content") or ()
            self._finish = choice.get("finish_reason") or self._finish
        return self.is_dropped()

    def body(self) -> dict[str, Any]:
        """What the server would have answered without streaming."""
        message = {"content": "".join(self._text)}
        choice = {
            "message": message,
            "finish_reason": self._finish,
            "logprobs": {"content": self._log_probabilities},
        }
        return {**self._last, "choices": [choice]}


def start_server(path: Path, *, context: int, parallel: int, threads: int | None = None) -> Any:
    """A running llama.cpp server (``handle_chat_completions``, ``listening_address``). Raises ``ModelRefused``."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel = context, parallel
    params.verbosity = 0
    if threads is not None:
        params.cpuparams.n_threads = threads
    try:
        return xllamacpp.Server(params)
    except (ValueError, RuntimeError) as error:
        raise ModelRefused(
            f"{path} cannot be loaded: {error}", hint="is the file whole? is it a chat model?"
        ) from error


@contextlib.contextmanager
def serve_gguf(path: Path, *, context: int = 8192, parallel: int = 4, threads: int | None = None) -> Iterator[str]:
    """Serve a GGUF file over HTTP on a free loopback port; yields the base URL for the ``openai`` provider."""
    check_gguf(path)
    server = start_server(path, context=context, parallel=parallel, threads=threads)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server


def check_gguf(path: Path) -> None:
    """Raise ``ModelRefused`` unless ``path`` is a file that begins like GGUF."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}", hint="`model` wants a GGUF file") from error
    if start != _MAGIC:
        raise ModelRefused(f"{path} is no GGUF file", hint="`model` wants a GGUF file or asset:NAME of one")

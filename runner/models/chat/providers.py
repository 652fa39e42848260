"""The chat providers of the ``models:`` block: ``openai``, ``llamacpp``, ``transformers``, ``vllm``.

Light: what a provider needs is imported by its ``load``. No class holds a key, only the name of the environment variable.
"""

from __future__ import annotations

import hashlib
import os
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from runner.errors import EndpointError
from runner.models.base import ChatModel
from runner.models.registry import ModelConfig, Services, provider, step_link
from runner.references import InputPath
from runner.steps import ModelHandle

if TYPE_CHECKING:
    from runner.models.chat.client import Client
    from runner.models.chat.prices import Price
    from runner.models.chat.wire import Backend

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"

Temperature = Annotated[float, Field(ge=0.0, le=2.0)]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
HubName = Annotated[str, Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$")]


class ChatConfig(ModelConfig):
    """What every chat provider takes.

    ``temperature``: used instead of what the steps ask for. ``prices``: a file with prices per million tokens
    (``{currency: USD, models: {NAME: {input: 0.15, output: 0.6}}}``).
    """

    kind: ClassVar[type[ModelHandle]] = ChatModel
    temperature: Temperature | None = None
    prices: InputPath | None = None

    def identity(self) -> dict[str, Any]:
        """What can change a reply: provider, model, temperature and how the weights are read."""
        return {name: getattr(self, name) for name in ("provider", *self.replies_depend_on, "temperature")}

    replies_depend_on: ClassVar[tuple[str, ...]] = ("model",)

    def price_of(self, model: str, services: Services) -> Price | None:
        """The price of ``model`` in the price file, if there is one."""
        if self.prices is None:
            return None
        from runner.models.chat.prices import load_prices

        return load_prices(services.resolve(self.prices)).models.get(model)


@provider("openai")
class OpenAI(ChatConfig):
    """Any server that speaks the OpenAI chat protocol: vLLM, llama.cpp, OpenAI and others.

    ``api_key_env`` names the environment variable with the key (default: OPENAI_API_KEY at api.openai.com, none
    elsewhere, so that no key reaches a server it was not meant for). ``concurrency``: most requests in flight.
    Seconds: ``timeout`` for one request, ``deadline`` for one question with its retries. ``image_ids``: name each
    picture by its hash, so that vLLM need not hash it again; other servers may refuse that.
    """

    provider: Literal["openai"] = "openai"
    model: str = Field(min_length=1)
    base_url: str = OPENAI_URL
    api_key_env: EnvironmentName | None = None
    concurrency: PositiveInt = 16
    timeout: PositiveFloat = 300.0
    deadline: PositiveFloat = 900.0
    max_retries: int = Field(6, ge=0, le=100)
    image_ids: bool = False

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        url = urllib.parse.urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("write http://host:port/v1 or https://host/v1")
        if url.username or url.password or url.query:
            raise ValueError("no credentials in the address: name an environment variable in api_key_env")
        return value.rstrip("/")

    def identity(self) -> dict[str, Any]:
        """Of the address only whether it is OpenAI's own: ports and hosts do not change replies."""
        return super().identity() | {"endpoint": "openai" if self._is_openai else "compatible"}

    @property
    def _is_openai(self) -> bool:
        return urllib.parse.urlsplit(self.base_url).hostname == urllib.parse.urlsplit(OPENAI_URL).hostname

    def load(self, services: Services) -> ChatModel:
        """Connects nowhere yet. Raises ``EndpointError`` when OpenAI's key is missing."""
        from runner.models.chat.openai_backend import OpenAIBackend
        from runner.models.chat.sender import Patience

        key = self._key()
        backend = OpenAIBackend(self.base_url, self.model, key, self.timeout, image_ids=self.image_ids)
        patience = Patience(timeout=self.timeout, deadline=self.deadline, max_retries=self.max_retries)
        endpoint = hashlib.sha256(f"{self.base_url}\n{key or ''}".encode()).hexdigest()
        return _client(
            self, services, backend, self.model, self.identity, concurrency=self.concurrency, endpoint=endpoint,
            patience=patience,
        )  # fmt: skip

    def _key(self) -> str | None:
        name = self.api_key_env or (OPENAI_KEY if self._is_openai else None)
        key = os.environ.get(name, "").strip() if name else ""
        if not key and self._is_openai:
            raise EndpointError(
                f"the environment variable {name} holds no key for {self.base_url}",
                scope="run",
                hint=f"export {name}=..., or set base_url to a server that needs none",
            )
        return key or None


@provider("llamacpp")
class LlamaCpp(ChatConfig):
    """A GGUF model inside this process (the embedded default).

    ``model``: a GGUF file or asset:NAME. ``context``: tokens, shared by ``parallel`` questions at once. ``threads``:
    CPU threads (default: chosen by llama.cpp).
    """

    provider: Literal["llamacpp"] = "llamacpp"
    model: InputPath
    context: int = Field(8192, ge=128)
    parallel: int = Field(4, ge=1, le=256)
    threads: PositiveInt | None = None

    def load(self, services: Services) -> ChatModel:
        """Weights are read at the first question. Raises ``ModelRefused`` for what is not GGUF."""
        from runner.models.chat.llamacpp import LlamaCppBackend

        path = services.resolve(self.model)
        backend = LlamaCppBackend(path, context=self.context, parallel=self.parallel, threads=self.threads)
        identity = _by_content(self, "model", path)
        return _client(self, services, backend, path.name, identity, concurrency=self.parallel)


@provider("transformers")
class Transformers(ChatConfig):
    """A language model of transformers inside this process: a local folder (also of a model that takes pictures), or a
    GGUF file.

    ``path``: the model folder (with ``gguf_file`` naming a file in it), or a GGUF file. ``written``: in its place the output
    ``checkpoint`` of a step ($cut.checkpoint). ``batch_size``: questions generated together. ``device``: default is the run's.
    Weights in safetensors or GGUF only; no code from the folder.
    """

    provider: Literal["transformers"] = "transformers"
    path: InputPath | None = None
    written: step_link("folder") | None = None  # type: ignore[valid-type]
    gguf_file: str | None = Field(None, pattern=r"^[^/\\]+\.gguf$")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: PositiveInt = 8
    device: str | None = Field(None, pattern=r"^(cpu|mps|cuda(:\d+)?)$")

    replies_depend_on: ClassVar[tuple[str, ...]] = ("path", "gguf_file", "dtype")

    @model_validator(mode="after")
    def _one_source(self) -> Transformers:
        if (self.path is None) == (self.written is None):
            raise ValueError("give path (a local folder or GGUF file) or written (a step's output)")
        return self

    def load(self, services: Services) -> ChatModel:
        """Weights are read at the first question. Raises ``ModelRefused`` when the path holds no model."""
        from runner.models.chat.transformers_backend import TransformersBackend

        path = services.linked["written"] if self.written is not None else services.resolve(str(self.path))
        backend = TransformersBackend(
            path, gguf_file=self.gguf_file, dtype=self.dtype, batch_size=self.batch_size,
            device=self.device or services.device,
        )  # fmt: skip
        identity = _by_content(self, "path", path)
        return _client(self, services, backend, path.name, identity, concurrency=4 * self.batch_size)


@provider("vllm")
class Vllm(ChatConfig):
    """vLLM inside this process; needs the extra ``vllm``, best in an environment of its own.

    ``model``: a model folder, or a hub name (ORGANISATION/NAME) that vLLM finds. Only safetensors weights are read.
    ``images_per_prompt``: most pictures in one question (default: vLLM's own limit).
    """

    provider: Literal["vllm"] = "vllm"
    model: Annotated[InputPath | HubName, Field(union_mode="left_to_right")]
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: PositiveInt | None = None
    tensor_parallel_size: PositiveInt = 1
    gpu_memory_utilization: float = Field(0.9, gt=0.0, le=1.0)
    enforce_eager: bool = False
    batch_size: PositiveInt = 64
    images_per_prompt: PositiveInt | None = None

    replies_depend_on: ClassVar[tuple[str, ...]] = ("model", "revision", "dtype")

    def load(self, services: Services) -> ChatModel:
        """Raises ``AssetError`` saying how to install vLLM where it is missing."""
        from runner.models.chat.vllm_backend import VllmBackend

        local = services.resolve(self.model)
        model = str(local) if local.exists() else str(self.model)
        backend = VllmBackend(
            model, revision=self.revision, dtype=self.dtype, max_model_len=self.max_model_len,
            tensor_parallel_size=self.tensor_parallel_size, enforce_eager=self.enforce_eager,
            gpu_memory_utilization=self.gpu_memory_utilization, batch_size=self.batch_size,
            images=self.images_per_prompt,
        )  # fmt: skip
        identity = _by_content(self, "model", local) if local.exists() else self.identity
        return _client(self, services, backend, Path(model).name, identity, concurrency=4 * self.batch_size)


def _by_content(config: ChatConfig, field: str, path: Path) -> Callable[[], dict[str, Any]]:
    """The identity with the path replaced by the hash of what it holds."""

    def identity() -> dict[str, Any]:
        from runner.models.chat.keys import content_sha256

        return config.identity() | {field: content_sha256(path)}

    return identity


def _client(
    config: ChatConfig,
    services: Services,
    backend: Backend,
    model: str,
    identity: Callable[[], dict[str, Any]],
    **settings: Any,
) -> Client:
    """The client around a backend. Questions to a model in this process have no timeout: they only wait their turn."""
    from runner.models.chat.cache import ReplyCache
    from runner.models.chat.client import Client, ClientSettings
    from runner.models.chat.sender import Patience

    chosen = {"patience": Patience(timeout=None, deadline=None)} | settings
    cache = ReplyCache(services.cache / "replies.sqlite")
    price = config.price_of(model, services)
    temperature = config.temperature
    return Client(
        backend, cache, ClientSettings(config.provider, model, identity, price=price, temperature=temperature, **chosen)
    )

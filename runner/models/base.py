"""Kinds of models, as the steps see them. Light: no torch here; the loaders live in the rooms beside this file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from runner.errors import ModelRefused
from runner.steps import ModelHandle

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from runner.context import StepContext
    from runner.data.geometry import Geometry
    from runner.models.lvlm.loading import LoadedLvlm

    FloatArray = NDArray[np.float32]
else:
    FloatArray = Any


# --- chat ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImagePart:
    """An image inside a message: encoded bytes and media type; the bytes are what is sent and hashed."""

    data: bytes
    media_type: str = "image/jpeg"


@dataclass(frozen=True)
class Message:
    """One chat message; ``content`` is text, or text and images in the order they are shown."""

    role: Literal["system", "user", "assistant"]
    content: str | tuple[str | ImagePart, ...]


@dataclass(frozen=True)
class ChatRequest:
    """One question to a chat model.

    ``schema``: JSON Schema of the reply, or None for free text. ``accept``: further check of the parsed reply (or of the
    text); raises ``ValueError`` whose message is quoted to the model when it is asked again. ``sample``: index of the
    draw, part of the cache key, so that repeated draws at temperature > 0 are cached apart. ``purpose`` and ``item`` name
    the call in ``llm_calls`` and enter no key. ``allow_cut``: a reply cut off at ``max_tokens`` is an answer like any other
    (``finish_reason`` is then ``length``) instead of being asked for again with more room. ``allow_empty``: a blank
    reply that ended by itself is an answer, its text as it came; a server is asked again first, since an empty body may be a
    passing fault. ``logprobs``: ask for the log-likelihood of the reply; servers that do not give it still answer.
    """

    messages: tuple[Message, ...]
    purpose: str
    item: str = ""
    schema: dict[str, Any] | None = None
    schema_name: str = "reply"
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int = 0
    sample: int = 0
    max_repairs: int = 2
    allow_cut: bool = False
    allow_empty: bool = False
    logprobs: bool = False
    accept: Callable[[Any], None] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ChatReply:
    """``data``: the parsed JSON when a schema was given, else None. ``attempts`` counts requests sent (0 = cached).

    ``cached_tokens``: prompt tokens that the server took from its prefix cache; ``log_likelihood``: sum of the natural
    logarithms of the probabilities of the reply's tokens. None where the backend does not say.
    """

    text: str
    data: Any
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    attempts: int
    cached: bool
    model: str
    cached_tokens: int | None = None
    log_likelihood: float | None = None


@dataclass(frozen=True)
class ImageSupport:
    """What a chat model does with pictures: ``count`` were accepted in one message; ``interleaved``: it told which text
    belongs to which picture (None = not asked, or its answer does not tell)."""

    count: int
    interleaved: bool | None = None


class ChatModel(ModelHandle, ABC):
    """A language model behind one client: bounded concurrency, retries, validation, reply cache, accounting."""

    kind: ClassVar[str] = "chat"
    name: str

    @abstractmethod
    async def complete(self, request: ChatRequest, ctx: StepContext) -> ChatReply:
        """Answer. Raises ``EndpointError`` with scope ``item`` (give up this request) or ``run`` (stop asking)."""

    async def check_images(self, count: int, ctx: StepContext, *, interleaving: bool = False) -> ImageSupport:
        """Find out, before work starts, whether one message may hold ``count`` pictures between texts.

        ``interleaving``: also ask which text stood beside which picture. Raises ``ModelRefused`` for a model that takes no
        pictures or fewer of them, saying what to do.
        """
        raise ModelRefused(f"{self.name} reads text only", hint="name a model that takes pictures")

    def with_adapter(self, name: str, sha256: str) -> ChatModel:
        """This model with the LoRA adapter that its server knows as ``name``. ``sha256``, of its content, enters the keys of cached
        replies; the name does not. Raises ``ModelRefused`` where nothing can be asked by the name of an adapter."""
        raise self._no_adapters()

    async def served_models(self) -> list[str]:
        """Names that the server answers to, adapters among them."""
        raise self._no_adapters()

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Have the server read an adapter from ``folder`` (which it must see). Raises ``EndpointError`` of scope ``run``."""
        raise self._no_adapters()

    async def unload_adapter(self, name: str) -> None:
        """Have the server forget an adapter. Raises ``EndpointError`` of scope ``run``."""
        raise self._no_adapters()

    async def disconnect(self) -> None:
        """Close the connections that the running event loop keeps, for a caller whose loop ends. A later request opens others."""

    def _no_adapters(self) -> ModelRefused:
        return ModelRefused(
            f"{self.name} serves no adapters by name",
            hint="name a model of the provider openai at a vLLM server with --enable-lora",
        )


# --- vision ----------------------------------------------------------------------------------------------------------


class ImageTextEncoder(ModelHandle, ABC):
    """Images and texts in one space (the CLIP role). Embeddings are float32 [n, dim], unit L2 norm.

    ``family`` names the training lineage (``openai-clip``, ``laion-clip``, ``embedded-mini``); ``identity`` is a string
    that changes when weights or preprocessing change; ``logit_scale`` turns cosine into logits.
    """

    kind: ClassVar[str] = "image-text encoder"
    name: str
    family: str
    identity: str
    dim: int
    logit_scale: float

    @abstractmethod
    def prepare(self, image: Image) -> FloatArray:
        """Preprocess one RGB image to float32 [3, height, width]. Thread-safe."""

    @abstractmethod
    def encode_prepared(self, batch: FloatArray) -> FloatArray:
        """Embed a batch float32 [n, 3, height, width] -> [n, dim]."""

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Embed texts -> [n, dim]."""

    def encode_images(self, images: Sequence[Image]) -> FloatArray:
        """Embed RGB images -> [n, dim]."""
        import numpy as np

        if not images:
            return np.zeros((0, self.dim), np.float32)
        return self.encode_prepared(np.stack([self.prepare(image) for image in images]))


class ClipModel(ImageTextEncoder, ABC):
    """A CLIP model whose weights and un-normalised embeddings are open to the steps.

    ``network``: the open_clip module in evaluation mode on ``device`` (``network.visual`` is the vision tower); steps do
    not change it. ``context_length``: most tokens of a text, start and end included. ``small``: trained by this project,
    far below a published CLIP, which results must say. ``config``: content of the ``open_clip_config.json`` with which a
    folder of these weights builds the same model (``model_cfg``, ``preprocess_cfg`` and notes), or None where it is not known.
    """

    kind: ClassVar[str] = "CLIP model"
    network: Any
    device: str
    context_length: int
    small: bool = False
    config: dict[str, Any] | None = None

    @abstractmethod
    def raw_texts(self, texts: Sequence[str]) -> FloatArray:
        """Embed texts without scaling them to unit norm -> float32 [n, dim]."""

    @abstractmethod
    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, start and end included, before any cut."""


class VisionBackbone(ModelHandle, ABC):
    """A vision network whose features are open to the steps, layer by layer.

    ``family``: training lineage (``dinov2``, ``openai-clip``, ``mae``, ``supervised``, ``random`` ...). ``kind_of_layers``:
    ``tokens`` for a transformer, ``maps`` for a convolutional network. ``image_size``: side H = W of its input, a multiple of
    every ``patch_sizes[l]``; layers are numbered 0 (patch embedding with positions; the stem) .. ``depth`` (the last block or
    stage). ``patch_sizes`` and ``widths`` have ``depth + 1`` entries (all equal for a transformer). ``prefix_tokens``: CLS and
    registers, first in every sequence, 0 where there are none. ``geometry``: how a picture and everything drawn on it (masks,
    keypoints) come to the input's pixels. ``mean``, ``std``: of its normalisation, RGB in 0..1. ``random_init``: never trained.
    ``small``: trained by this project or dulled by fine-tuning, which results must say; ``notes`` say how.
    Networks are in evaluation mode, float32 unless asked otherwise, on ``device``; steps do not change their weights.
    """

    kind: ClassVar[str] = "vision backbone"
    name: str
    family: str
    identity: str
    kind_of_layers: Literal["tokens", "maps"]
    image_size: int
    depth: int
    patch_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    prefix_tokens: int
    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: str
    random_init: bool = False
    small: bool = False
    notes: tuple[str, ...] = ()

    def prepare(self, image: Image) -> FloatArray:
        """One RGB picture to float32 [3, H, W] in 0..1 by ``geometry``, not yet normalised. Thread-safe."""
        import numpy as np

        pixels = np.asarray(self.geometry.picture(image.convert("RGB")), np.float32) / 255
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def normalise(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in 0..1 -> (x - mean) / std."""
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std

    @abstractmethod
    def embed(self, normalised: Tensor) -> Tensor:
        """Layer 0: [B, 3, H, W] -> tokens [B, prefix_tokens + N, D], prefix first, N patches row by row, positions added."""

    @abstractmethod
    def block(
        self,
        number: int,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        allowed: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        """Block ``number`` (1 .. depth): tokens [B, T, D] -> [B, T, D].

        ``positions`` int64 [B, T]: the patch each token stands for, -1 for a prefix token, where the sequence is not the
        plain one of ``embed`` (rotary positions go by it); None: the plain one. ``allowed`` bool [B, T, T] (or [1, T, T]):
        whether the query of row i may read the key of column j. ``gate`` float [B, T]: attention weights are multiplied by the
        gate of their key and divided by their sum (``multiplicative_mask_attention``), so that a gradient reaches the gate;
        not together with ``allowed``.
        """

    @abstractmethod
    def norm(self, tokens: Tensor) -> Tensor:
        """The final norm, of tokens of any layer [..., D]."""

    def project(self, vectors: Tensor) -> Tensor | None:
        """Normed vectors [..., D] into the joint space of a CLIP, or None where there is none."""
        return None

    def attention(self, number: int, tokens: Tensor) -> Tensor:
        """Attention weights of block ``number`` on the plain sequence: [B, heads, T, T], rows sum to 1."""
        raise ModelRefused(f"{self.name} shows no attention weights")

    def maps(self, normalised: Tensor) -> list[Tensor]:
        """Convolutional networks: [B, 3, H, W] -> per layer [B, D_l, H / patch_l, W / patch_l]."""
        raise ModelRefused(f"{self.name} is a transformer: it has tokens, not maps")


class VisionLanguageModel(ModelHandle, ABC):
    """A language model of transformers that sees (or a text-only one), open to the steps: weights, gradients, hidden states.

    ``folder``: its checkpoint in the stock layout (``config.json``, safetensors, processor), read as data; ``adapter``: a folder
    of peft whose LoRA is merged into the weights at ``load``, or None. ``dtype``: in which weights are loaded unless ``load``
    is told otherwise (``float32``, ``bfloat16``, ``float16``). ``decoder``: dotted path of the module that holds ``layers``, or
    ``auto``. ``identity`` changes with weights, adapter and dtype. ``small``: trained by this project, far below a published model,
    or random, which results must say; ``notes`` say how.
    """

    kind: ClassVar[str] = "vision-language model"
    name: str
    identity: str
    folder: Path
    adapter: Path | None
    dtype: str
    device: str
    decoder: str = "auto"
    small: bool = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def load(self, *, dtype: str | None = None) -> LoadedLvlm:
        """A fresh copy of the network, in evaluation mode on ``device``, that the caller owns and may change. ``ModelRefused``."""


class Classifier(ModelHandle, ABC):
    """An image classifier under audit.

    ``labels``: one name per output, in output order. ``head``: ``softmax`` (one of many) or ``multilabel`` (one logit per
    label, positive when >= 0). ``identity`` is the SHA-256 of the weights with what else changes the output.
    ``encoder_family`` is set for zero-shot models built on an image-text encoder. ``notes``: what a reader of its results
    must know, such as that it runs in a confined process.
    """

    kind: ClassVar[str] = "classifier"
    name: str
    identity: str
    format: str
    labels: tuple[str, ...]
    head: Literal["softmax", "multilabel"]
    encoder_family: str | None = None
    notes: tuple[str, ...] = ()

    @abstractmethod
    def prepare(self, image: Image) -> FloatArray:
        """Preprocess one RGB image to the model's input, without the batch axis. Thread-safe."""

    @abstractmethod
    def logits(self, batch: FloatArray) -> FloatArray:
        """Scores before softmax or sigmoid, float32 [n, labels]."""


class SentenceEncoder(ModelHandle, ABC):
    """Texts to float32 [n, dim], unit L2 norm."""

    kind: ClassVar[str] = "sentence encoder"
    name: str
    identity: str
    dim: int

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Embed texts."""

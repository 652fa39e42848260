"""A vision-language model as a classifier: which label is the likeliest reply to one question about a picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from runner.errors import ModelRefused
from runner.models.base import Classifier, FloatArray, VisionLanguageModel
from runner.models.lvlm.generating import Question, means, reply_log_likelihoods

if TYPE_CHECKING:
    from runner.models.lvlm.loading import LoadedLvlm

Normalise = Literal["tokens", "none"]
GREY = (127, 127, 127)
FALLBACK_SIDE = 448


class LvlmClassifier(Classifier):
    """``logits``: log-likelihood of each label as the whole reply (its end included), divided by its tokens or not.

    Pictures and the question run once each; all labels go on from there. Pictures come as squares of one size, padded with grey.
    """

    format = "lvlm"
    head: Literal["softmax", "multilabel"] = "softmax"

    def __init__(
        self, model: VisionLanguageModel, question: str, labels: Sequence[str], *, normalise: Normalise = "tokens"
    ) -> None:
        """Raises ``ModelRefused`` for a model that reads text only, or labels that are not told apart."""
        from runner.models.chat.keys import canonical

        if len({label.strip() for label in labels}) != len(labels) or not all(label.strip() for label in labels):
            raise ModelRefused("labels: two are the same, or one is blank")
        self.name, self.labels = model.name, tuple(labels)
        self.small = model.small
        self.notes = (*model.notes, "labels are scored as replies of a vision-language model")
        self._model, self._question, self._normalise = model, question, normalise
        self._settings = canonical([question, list(labels), normalise])

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """SHA-256 (hex) of the model's identity, the question and the labels."""
        import hashlib

        return hashlib.sha256(f"{self._model.identity}\n{self._settings}".encode()).hexdigest()

    @cached_property
    def _loaded(self) -> LoadedLvlm:
        loaded = self._model.load()
        if not loaded.sees:
            raise ModelRefused(f"{self.name} reads text only", hint="name a model that takes pictures")
        return loaded

    @cached_property
    def side(self) -> int:
        """Of the squares, pixels: what the vision tower was made for, where its config says so."""
        config: Any = self._loaded.network.config
        found = getattr(getattr(config, "vision_config", None), "image_size", None)
        found = found[0] if isinstance(found, list | tuple) and found else found
        return int(found) if isinstance(found, int) and 8 <= found <= 4096 else FALLBACK_SIDE

    def prepare(self, image: Image.Image) -> FloatArray:
        """RGB on a grey square of ``side``, float32 [3, side, side] in 0..255."""
        held = image.convert("RGB")
        scale = self.side / max(held.size)
        size = tuple(max(1, round(length * scale)) for length in held.size)
        square = Image.new("RGB", (self.side, self.side), GREY)
        square.paste(
            held.resize((size[0], size[1]), Image.Resampling.BICUBIC),
            ((self.side - size[0]) // 2, (self.side - size[1]) // 2),
        )
        return np.ascontiguousarray(np.asarray(square, np.float32).transpose(2, 0, 1))

    def logits(self, batch: FloatArray) -> FloatArray:
        """float32 [n, labels]."""
        pictures = [Image.fromarray(one.transpose(1, 2, 0).round().astype(np.uint8)) for one in np.asarray(batch)]
        if not pictures:
            return np.zeros((0, len(self.labels)), np.float32)
        questions = [Question([picture], self._question) for picture in pictures]
        found = reply_log_likelihoods(self._loaded, questions, [self.labels] * len(pictures))
        scores = means(found) if self._normalise == "tokens" else found.totals
        return np.asarray(scores.numpy(), np.float32)

    def close(self) -> None:
        """Let go of the weights."""
        self.__dict__.pop("_loaded", None)

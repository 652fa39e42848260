"""A small real image-text encoder: colour and texture statistics on one side, words for them on the other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from runner.models.base import ImageTextEncoder

_WORDS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0),
    "yellow": (255, 255, 0), "grey": (128, 128, 128),
}  # fmt: skip


class ColourEncoder(ImageTextEncoder):
    """Mean colours of a 4 x 4 grid and their spread; a text is the flat picture of its colour words."""

    name = "colours"
    family = "test-colours"
    logit_scale = 10.0
    side = 8
    dim = 3 * 16 + 16

    def __init__(self, version: str = "1") -> None:
        self.identity = f"colours-{version}"
        self.embedded = 0

    def prepare(self, image: Image.Image) -> np.ndarray:
        small = image.resize((self.side, self.side), Image.Resampling.BOX)
        return np.ascontiguousarray(np.asarray(small, np.float32).transpose(2, 0, 1) / 255)

    def encode_prepared(self, batch: np.ndarray) -> np.ndarray:
        self.embedded += len(batch)
        blocks = batch.reshape(len(batch), 3, 4, 2, 4, 2)
        means = blocks.mean(axis=(3, 5)).reshape(len(batch), -1) - 0.5
        spread = blocks.std(axis=(3, 5)).mean(axis=1).reshape(len(batch), -1)
        return self._unit(np.concatenate([means, spread], axis=1))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._unit(np.stack([self._text(text) for text in texts]))

    def _text(self, text: str) -> np.ndarray:
        words = [np.array(_WORDS[w]) / 255 for w in re.findall(r"\w+", text.lower()) if w in _WORDS]
        colour = np.mean(words, axis=0) if words else np.full(3, 0.5)
        noise = np.frombuffer(hashlib.sha256(text.lower().encode()).digest()[:16], np.uint8) / 2550
        return np.concatenate([np.repeat(colour - 0.5, 16), noise])

    @staticmethod
    def _unit(values: np.ndarray) -> np.ndarray:
        values = values + 1e-3
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)

"""The embedded mini encoder: TinyViT features and MiniLM sentences under fitted heads. Small, and labelled so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runner.context import item_key
from runner.errors import ModelRefused
from runner.models.base import ImageTextEncoder, SentenceEncoder
from runner.models.classifier.weights import sha256_of
from runner.models.encoders.backbone import Backbone, prepare
from runner.models.encoders.heads import HeadKind, load_heads, unit_rows

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.models.base import FloatArray


class EmbeddedMini(ImageTextEncoder):
    """One head over the two frozen towers. Raises ``ModelRefused`` where the head was fitted to other towers."""

    family = "embedded-mini"

    def __init__(
        self, folder: Path, backbone: Path, sentences: SentenceEncoder, *, kind: HeadKind, threads: int | None = None
    ) -> None:
        heads = load_heads(folder)
        self._head = heads.head(kind)
        self._backbone = Backbone(backbone, known=heads.known, threads=threads)
        self._sentences = sentences
        if self._backbone.identity != heads.backbone or sentences.identity != heads.sentences:
            raise ModelRefused(
                f"{folder}: the head was fitted to another image backbone or sentence encoder",
                hint="Fit it again with encoder.fit_mini, or name the models it was fitted to.",
            )
        self.name = f"embedded-mini {kind}"
        self.dim = self._head.dim
        self.logit_scale = self._head.logit_scale
        self.identity = item_key(
            "embedded-mini", kind, sha256_of([folder / "heads.safetensors"]), heads.backbone, heads.sentences
        )

    def prepare(self, image: Image) -> FloatArray:
        """Letter-box on white to 224 pixels."""
        return prepare(image)

    def encode_prepared(self, batch: FloatArray) -> FloatArray:
        """Unit vectors; pictures that the head was fitted on are looked up, not computed."""
        if not len(batch):
            return np.zeros((0, self.dim), np.float32)
        return self._head.images(unit_rows(self._backbone.features(batch)))

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors."""
        return self._head.texts(self._sentences.encode(texts))

    def close(self) -> None:
        """Let go of the sentence encoder."""
        self._sentences.close()

"""Embeddings of pictures and texts, remembered by content within the process."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from runner.data.images import UnreadableImage, decode
from runner.models.base import ImagePart, ImageTextEncoder
from runner.models.contrastive.vocabulary import TextVectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

T = TypeVar("T")

REMEMBERED = 8192
"""Vectors that are kept, of pictures and of texts each."""
_BATCH = 32


def content_key(picture: ImagePart) -> str:
    """SHA-256 (hex) of a picture's bytes."""
    return hashlib.sha256(picture.data).hexdigest()


class Memory(Generic[T]):
    """The values last asked for, by key; bounded."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._known: OrderedDict[str, T] = OrderedDict()

    def many(self, keys: Iterable[str], make: Callable[[Sequence[str]], dict[str, T]]) -> dict[str, T]:
        """Values of the keys; ``make`` is given the unknown ones, once each, and may leave some out."""
        wanted = list(dict.fromkeys(keys))
        found = {key: self._known[key] for key in wanted if key in self._known}
        missing = [key for key in wanted if key not in found]
        found |= make(missing) if missing else {}
        for key, value in found.items():
            self._known[key] = value
            self._known.move_to_end(key)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return found


class Embedder:
    """Vectors of pictures, and of texts in a template; those of ``vocabulary`` are looked up where its template is the
    same. Not thread-safe: one thread asks."""

    def __init__(self, encoder: ImageTextEncoder, template: str, vocabulary: TextVectors) -> None:
        self.encoder = encoder
        self._template, self._vocabulary = template, vocabulary
        same = vocabulary.template == template
        self._rows = {text: row for row, text in enumerate(vocabulary.texts)} if same else {}
        self._pictures: Memory[FloatArray] = Memory()
        self._texts: Memory[FloatArray] = Memory()

    def pictures(self, pictures: Iterable[ImagePart]) -> tuple[dict[str, FloatArray], dict[str, str]]:
        """Unit vectors by ``content_key``, and why the others cannot be read."""
        by_key = {content_key(picture): picture.data for picture in pictures}
        unreadable: dict[str, str] = {}

        def make(keys: Sequence[str]) -> dict[str, FloatArray]:
            ready: dict[str, FloatArray] = {}
            with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="decode") as pool:
                futures = {key: pool.submit(self._prepared, by_key[key]) for key in keys}
            for key, future in futures.items():
                try:
                    ready[key] = future.result()
                except UnreadableImage as error:
                    unreadable[key] = error.message
            return self._encoded(ready)

        return self._pictures.many(by_key, make), unreadable

    def texts(self, texts: Iterable[str]) -> dict[str, FloatArray]:
        """Unit vectors by text."""

        def make(missing: Sequence[str]) -> dict[str, FloatArray]:
            vectors = self.encoder.encode_texts([self._template.replace("{}", text) for text in missing])
            return dict(zip(missing, vectors, strict=True))

        wanted = set(texts)
        here = {text: self._vocabulary.vectors[self._rows[text]] for text in wanted if text in self._rows}
        return here | self._texts.many(sorted(wanted - here.keys()), make)

    def _prepared(self, data: bytes) -> FloatArray:
        return self.encoder.prepare(decode(data))

    def _encoded(self, ready: dict[str, FloatArray]) -> dict[str, FloatArray]:
        keys = list(ready)
        vectors: dict[str, FloatArray] = {}
        for start in range(0, len(keys), _BATCH):
            part = keys[start : start + _BATCH]
            encoded = self.encoder.encode_prepared(np.stack([ready[key] for key in part]))
            vectors |= dict(zip(part, encoded, strict=True))
        return vectors

"""Texts to vectors, each distinct text once, kept text by text so that an interruption loses one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.context import StepContext, item_key
from runner.errors import DataError
from runner.models.base import ImageTextEncoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


def embed_texts(
    ctx: StepContext, encoder: ImageTextEncoder, texts: Sequence[str], *, template: str, batch_size: int
) -> FloatArray:
    """Vectors float32 [n, dim] of unit norm of ``template`` with each text in place of ``{}``.

    Raises ``DataError`` where the encoder gives other shapes or NaN.
    """
    vectors = np.zeros((len(texts), encoder.dim), np.float32)
    ctx.advance("texts", 0, len(texts))
    for start in range(0, len(texts), batch_size):
        ctx.check()
        part = texts[start : start + batch_size]
        vectors[start : start + len(part)] = _batch(ctx, encoder, [template.replace("{}", text) for text in part])
        ctx.advance("texts", len(part))
    return vectors


def _batch(ctx: StepContext, encoder: ImageTextEncoder, prompts: Sequence[str]) -> FloatArray:
    keys = [item_key("text vector", encoder.identity, prompt) for prompt in prompts]
    stored = [ctx.items.get(key) for key in keys]
    missing = [place for place, value in enumerate(stored) if value is None]
    fresh = _encoded(encoder, [prompts[place] for place in missing])
    ctx.items.put_many({keys[place]: row.tobytes() for place, row in zip(missing, fresh, strict=True)})
    rows: list[Any] = [None if value is None else np.frombuffer(value, np.float32) for value in stored]
    for place, row in zip(missing, fresh, strict=True):
        rows[place] = row
    return np.stack(rows)


def _encoded(encoder: ImageTextEncoder, prompts: Sequence[str]) -> FloatArray:
    if not prompts:
        return np.zeros((0, encoder.dim), np.float32)
    vectors = np.ascontiguousarray(encoder.encode_texts(prompts), np.float32)
    if vectors.shape != (len(prompts), encoder.dim) or not np.isfinite(vectors).all():
        raise DataError(f"{encoder.name} gave no finite vectors of shape {(len(prompts), encoder.dim)} for texts")
    return vectors

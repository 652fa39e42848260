"""Texts to vectors, each distinct text once, kept text by text so that an interruption loses one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from runner.context import StepContext, item_key
from runner.errors import DataError
from runner.models.base import ClipModel, ImageTextEncoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


def embed_texts(
    ctx: StepContext, encoder: ImageTextEncoder, texts: Sequence[str], *, template: str, batch_size: int
) -> FloatArray:
    """Vectors float32 [n, dim] of unit norm of ``template`` with each text in place of ``{}``.

    Raises ``DataError`` where the encoder gives other shapes or NaN.
    """
    prompts = [template.replace("{}", text) for text in texts]
    return _embed(ctx, _Way("text vector", encoder.encode_texts, encoder), prompts, batch_size)


def embed_raw_texts(ctx: StepContext, clip: ClipModel, texts: Sequence[str], *, batch_size: int) -> FloatArray:
    """Vectors float32 [n, dim] as the text tower gives them, not scaled to unit norm.

    Raises ``DataError`` where the model gives other shapes or NaN.
    """
    return _embed(ctx, _Way("raw text vector", clip.raw_texts, clip), texts, batch_size)


class _Way(NamedTuple):
    """How texts become vectors; ``name`` keeps the kinds of vectors of one encoder apart."""

    name: str
    encode: Callable[[Sequence[str]], FloatArray]
    encoder: ImageTextEncoder


def _embed(ctx: StepContext, way: _Way, texts: Sequence[str], batch_size: int) -> FloatArray:
    vectors = np.zeros((len(texts), way.encoder.dim), np.float32)
    ctx.advance("texts", 0, len(texts))
    for start in range(0, len(texts), batch_size):
        ctx.check()
        part = texts[start : start + batch_size]
        vectors[start : start + len(part)] = _batch(ctx, way, part)
        ctx.advance("texts", len(part))
    return vectors


def _batch(ctx: StepContext, way: _Way, prompts: Sequence[str]) -> FloatArray:
    keys = [item_key(way.name, way.encoder.identity, prompt) for prompt in prompts]
    stored = [ctx.items.get(key) for key in keys]
    missing = [place for place, value in enumerate(stored) if value is None]
    fresh = _encoded(way, [prompts[place] for place in missing])
    ctx.items.put_many({keys[place]: row.tobytes() for place, row in zip(missing, fresh, strict=True)})
    rows: list[Any] = [None if value is None else np.frombuffer(value, np.float32) for value in stored]
    for place, row in zip(missing, fresh, strict=True):
        rows[place] = row
    return np.stack(rows)


def _encoded(way: _Way, prompts: Sequence[str]) -> FloatArray:
    dim = way.encoder.dim
    if not prompts:
        return np.zeros((0, dim), np.float32)
    vectors = np.ascontiguousarray(way.encode(prompts), np.float32)
    if vectors.shape != (len(prompts), dim) or not np.isfinite(vectors).all():
        raise DataError(f"{way.encoder.name} gave no finite vectors of shape {(len(prompts), dim)} for texts")
    return vectors

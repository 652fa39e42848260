"""Records to vectors: pictures are decoded and prepared in threads while the encoder works on the batch before."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.context import StepContext
from runner.data.images import ImageLimits, UnreadableImage, decode
from runner.data.sources import Record
from runner.errors import DataError
from runner.models.base import ImageTextEncoder

TEXT_BATCH = 256

_COLUMNS: dict[str, pa.DataType] = {
    "row": pa.int64(),
    "source_id": pa.string(),
    "uri": pa.string(),
    "caption": pa.string(),
    "sha256": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
}
ROWS = pa.schema(_COLUMNS)

T = TypeVar("T")
R = TypeVar("R")


class KnownImage(NamedTuple):
    """What is kept of a picture by the hash of its bytes: vector float16 [dim], width, height."""

    vector: NDArray[np.float16]
    width: int
    height: int


KnownImages = dict[str, KnownImage]


@dataclass
class _Seen:
    """One record on its way: ``prepared`` is the encoder's input, None where the picture is known or unreadable."""

    record: Record
    sha256: str
    size: tuple[int, int] = (0, 0)
    prepared: NDArray[np.float32] | None = None
    error: UnreadableImage | None = None


@dataclass
class EmbeddedShard:
    """Rows (schema ``ROWS``), their image vectors, and caption vectors of the rows that have a caption, in row order.

    ``unreadable``: (reason, uri, detail) of the pictures left out.
    """

    rows: pa.Table
    vectors: NDArray[np.float16]
    captions: NDArray[np.float16]
    records: int
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)

    def unreadable_counts(self) -> dict[str, int]:
        """Unreadable pictures by reason."""
        return dict(sorted(Counter(reason for reason, _, _ in self.unreadable).items()))


def embed_shard(
    records: Iterable[Record],
    encoder: ImageTextEncoder,
    known: KnownImages,
    ctx: StepContext,
    *,
    limits: ImageLimits,
    batch_size: int,
    workers: int,
) -> EmbeddedShard:
    """Embed every readable record; pictures whose bytes are in ``known`` are not embedded again. Adds to ``known``."""

    def look(record: Record) -> _Seen:
        return _look(record, encoder, known, limits)

    usable: list[_Seen] = []
    unreadable: list[tuple[str, str, str]] = []
    batch: dict[str, _Seen] = {}
    count = 0
    for seen in ahead(look, records, workers=workers, window=2 * batch_size):
        ctx.check()
        count += 1
        ctx.advance("images")
        if seen.error is not None:
            unreadable.append((seen.error.reason, seen.record.uri, seen.error.detail))
            continue
        usable.append(seen)
        if seen.prepared is not None and seen.sha256 not in known:
            batch.setdefault(seen.sha256, seen)
        seen.record = _without_bytes(seen.record)
        if len(batch) >= batch_size:
            _embed(batch, encoder, known, ctx)
    _embed(batch, encoder, known, ctx)
    captions = encode_texts(encoder, [s.record.caption for s in usable if s.record.caption is not None])
    vectors = [known[s.sha256].vector for s in usable]
    stacked = np.stack(vectors) if vectors else np.zeros((0, encoder.dim), np.float16)
    return EmbeddedShard(_rows(usable, known), stacked, captions.astype(np.float16), count, unreadable)


def encode_texts(encoder: ImageTextEncoder, texts: list[str]) -> NDArray[np.float32]:
    """Embed texts, each distinct one once -> [n, dim], unit norm."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return np.zeros((0, encoder.dim), np.float32)
    parts = [
        _unit(encoder.encode_texts(distinct[start : start + TEXT_BATCH]), encoder)
        for start in range(0, len(distinct), TEXT_BATCH)
    ]
    place = {text: number for number, text in enumerate(distinct)}
    return np.concatenate(parts)[[place[text] for text in texts]]


def ahead(work: Callable[[T], R], items: Iterable[T], *, workers: int, window: int) -> Iterator[R]:
    """``map`` in threads, in order, with at most ``window`` items under way."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _look(record: Record, encoder: ImageTextEncoder, known: KnownImages, limits: ImageLimits) -> _Seen:
    seen = _Seen(record, hashlib.sha256(record.data).hexdigest())
    if seen.sha256 in known:
        return seen
    try:
        image = decode(record.data, limits)
    except UnreadableImage as error:
        seen.error = error
        return seen
    seen.size = image.size
    seen.prepared = encoder.prepare(image)
    return seen


def _without_bytes(record: Record) -> Record:
    return Record(record.source_id, record.uri, b"", record.caption)


def _embed(batch: dict[str, _Seen], encoder: ImageTextEncoder, known: KnownImages, ctx: StepContext) -> None:
    """Embed the waiting pictures and empty ``batch``."""
    if not batch:
        return
    ctx.budget.spend("images", len(batch))
    waiting = list(batch.values())
    vectors = _unit(
        encoder.encode_prepared(np.stack([seen.prepared for seen in waiting if seen.prepared is not None])), encoder
    )
    for seen, vector in zip(waiting, vectors.astype(np.float16), strict=True):
        known[seen.sha256] = KnownImage(vector, *seen.size)
        seen.prepared = None
    batch.clear()


def _unit(vectors: NDArray[Any], encoder: ImageTextEncoder) -> NDArray[np.float32]:
    """Unit rows; refuses what would poison every later comparison."""
    if vectors.ndim != 2 or vectors.shape[1] != encoder.dim:
        raise DataError(f"encoder {encoder.name} gave an array of shape {vectors.shape}, expected [n, {encoder.dim}]")
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise DataError(f"encoder {encoder.name} gave vectors that are not finite or are all zero")
    unit: NDArray[np.float32] = (vectors / norms).astype(np.float32)
    return unit


def _rows(usable: list[_Seen], known: KnownImages) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "row": list(range(len(usable))),
        "source_id": [seen.record.source_id for seen in usable],
        "uri": [seen.record.uri for seen in usable],
        "caption": [seen.record.caption for seen in usable],
        "sha256": [seen.sha256 for seen in usable],
        "width": [known[seen.sha256].width for seen in usable],
        "height": [known[seen.sha256].height for seen in usable],
    }
    return pa.table(columns, schema=ROWS)

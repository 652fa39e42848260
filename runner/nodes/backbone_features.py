"""Frozen features of a source's pictures, in batches that survive an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.context import StepContext, item_key
from runner.data.images import UnreadableImage, decode
from runner.data.sources import Record, Source
from runner.errors import DataError
from runner.models.encoders.backbone import Backbone, pixel_key, prepare

FloatArray = NDArray[np.float32]
CHUNK = 64
"""Pictures whose features are saved together."""


@dataclass(frozen=True)
class SourceFeatures:
    """Readable pictures of one source, row by row: ``uris``, own ``captions`` (or None), pixel ``keys``, raw features."""

    source_id: str
    uris: list[str]
    captions: list[str | None]
    keys: list[bytes]
    features: FloatArray
    unreadable: int


def source_features(ctx: StepContext, backbone: Backbone, source: Source, *, captioned: bool) -> SourceFeatures:
    """Features of all pictures, or only of those with a caption. What cannot be read is counted and reported."""
    uris: list[str] = []
    captions: list[str | None] = []
    keys: list[bytes] = []
    rows: list[FloatArray] = []
    unreadable = 0
    records = (r for r in source if r.caption or not captioned)
    while chunk := list(islice(records, CHUNK)):
        ctx.check()
        readable = list(_readable(chunk))
        unreadable += len(chunk) - len(readable)
        if readable:
            prepared = np.stack([image for _, image in readable])
            chunk_keys = [pixel_key(image) for image in prepared]
            rows.append(_features(ctx, backbone, prepared, chunk_keys))
            keys += chunk_keys
            uris += [record.uri for record, _ in readable]
            captions += [record.caption.strip() if record.caption else None for record, _ in readable]
        ctx.advance("images", len(chunk))
    if not rows:
        raise DataError(f"{source.source_id}: no {'captioned ' if captioned else ''}picture can be read")
    if unreadable:
        ctx.warn(f"{unreadable} pictures cannot be read", item=source.source_id)
    return SourceFeatures(source.source_id, uris, captions, keys, np.concatenate(rows), unreadable)


def _readable(records: list[Record]) -> Iterator[tuple[Record, FloatArray]]:
    for record in records:
        try:
            yield record, prepare(decode(record.data))
        except UnreadableImage:
            continue


def _features(ctx: StepContext, backbone: Backbone, prepared: FloatArray, keys: list[bytes]) -> FloatArray:
    key = item_key("backbone", backbone.identity, [k.hex() for k in keys])
    saved = ctx.items.get(key)
    if saved is None:
        saved = backbone.features(prepared).tobytes()
        ctx.items.put(key, saved)
    stored: NDArray[Any] = np.frombuffer(saved, np.float32)
    return stored.reshape(len(keys), backbone.dim)

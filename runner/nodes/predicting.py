"""One forward pass for each unique picture, whatever the number of captions that found it.

Logits are kept in the item cache by (classifier, bytes of the picture): a second audit, a resumed run and a duplicate file
repeat none. Decoding runs in threads, one batch ahead of the model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runner.context import StepContext, item_key
from runner.data.images import UnreadableImage, decode
from runner.data.places import Place
from runner.errors import DataError
from runner.models.base import Classifier

if TYPE_CHECKING:
    pass

FloatArray = NDArray[np.float32]


@dataclass
class Outputs:
    """Logits by picture (float32 [labels]), and why the others have none."""

    logits: dict[Place, FloatArray] = field(default_factory=dict)
    unreadable: dict[Place, str] = field(default_factory=dict)
    passes: int = 0


def predict(
    classifier: Classifier,
    pictures: Iterable[tuple[Place, bytes]],
    ctx: StepContext,
    *,
    total: int | None = None,
    batch_size: int = 64,
    unit: str = "images",
) -> Outputs:
    """Run the classifier once on each distinct picture. Raises ``DataError`` where it gives NaN or another width.

    ``unit`` names the pictures in the progress; parts of one step that have totals of their own need names of their own.
    """
    run = _Run(classifier, ctx, Outputs(), unit)
    ctx.advance(unit, 0, total)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="decode") as pool:
        waiting: _Batch | None = None
        for chunk in _chunks(pictures, batch_size):
            ctx.check()
            batch = run.start(chunk, pool)
            if waiting is not None:
                run.finish(waiting)
            waiting = batch
        if waiting is not None:
            run.finish(waiting)
    return run.outputs


def _chunks(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    iterator = iter(items)
    while chunk := tuple(item for _, item in zip(range(size), iterator, strict=False)):
        yield chunk


@dataclass
class _Batch:
    """Pictures whose decoding has begun: keys in the item cache, and where each picture of that content stands."""

    prepared: dict[str, Future[FloatArray]]
    places: Mapping[str, list[Place]]


@dataclass
class _Run:
    classifier: Classifier
    ctx: StepContext
    outputs: Outputs
    unit: str = "images"
    seen: dict[str, FloatArray] = field(default_factory=dict)

    def start(self, chunk: Sequence[tuple[Place, bytes]], pool: ThreadPoolExecutor) -> _Batch:
        places: dict[str, list[Place]] = {}
        prepared: dict[str, Future[FloatArray]] = {}
        for place, data in chunk:
            key = item_key("c2b.logits", self.classifier.identity, hashlib.sha256(data).hexdigest())
            places.setdefault(key, []).append(place)
            if key not in prepared and not self._known(key):
                prepared[key] = pool.submit(self._prepare, data)
        return _Batch(prepared, places)

    def _known(self, key: str) -> bool:
        if key not in self.seen and (stored := self.ctx.items.get(key)) is not None:
            self.seen[key] = np.frombuffer(stored, np.float32)
        return key in self.seen

    def _prepare(self, data: bytes) -> FloatArray:
        return self.classifier.prepare(decode(data))

    def finish(self, batch: _Batch) -> None:
        ready: dict[str, FloatArray] = {}
        for key, future in batch.prepared.items():
            try:
                ready[key] = future.result()
            except UnreadableImage as error:
                self.outputs.unreadable |= dict.fromkeys(batch.places[key], str(error.message))
        # Equal content of the batch before has been run meanwhile.
        fresh = [key for key in ready if key not in self.seen]
        if fresh:
            self.ctx.budget.spend("images", len(fresh))
            self._forward(fresh, np.stack([ready[key] for key in fresh]))
        for key, places in batch.places.items():
            if key in self.seen:
                self.outputs.logits |= dict.fromkeys(places, self.seen[key])
            self.ctx.advance(self.unit, len(places))

    def _forward(self, keys: Sequence[str], pixels: FloatArray) -> None:
        logits = np.ascontiguousarray(self.classifier.logits(pixels), np.float32)
        if logits.shape != (len(keys), len(self.classifier.labels)):
            wanted = (len(keys), len(self.classifier.labels))
            raise DataError(f"the classifier gave an output of shape {logits.shape}, not {wanted}")
        if not np.isfinite(logits).all():
            raise DataError("the classifier gave NaN or infinite outputs on a real picture")
        rows = dict(zip(keys, logits, strict=True))
        self.ctx.items.put_many({key: row.tobytes() for key, row in rows.items()})
        self.seen |= rows
        self.outputs.passes += len(keys)

"""Embeddings of pictures: each distinct picture once a workspace, batched, saved batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.context import StepContext
from runner.data.places import Place, read_pictures
from runner.data.sources import Source
from runner.models.base import Classifier, ImageTextEncoder
from runner.nodes.predicting import predict

FloatArray = NDArray[np.float32]


class Embedded(NamedTuple):
    """Vectors by picture, float32 of one width, and why the other pictures have none."""

    vectors: dict[Place, FloatArray]
    unreadable: dict[Place, str]


class ImageTower(Classifier):
    """An encoder's image tower in the place of a classifier, so that embeddings are batched and kept as logits are."""

    format = "embedding"
    head: Literal["softmax", "multilabel"] = "softmax"

    def __init__(self, encoder: ImageTextEncoder) -> None:
        self.encoder = encoder
        self.name, self.identity = encoder.name, f"embedding of {encoder.identity}"
        self.labels = tuple(map(str, range(encoder.dim)))

    def prepare(self, image: Any) -> FloatArray:
        """The encoder's own preprocessing."""
        return self.encoder.prepare(image)

    def logits(self, batch: FloatArray) -> FloatArray:
        """Unit vectors."""
        return self.encoder.encode_prepared(batch)


def embed(
    ctx: StepContext,
    tower: ImageTower,
    sources: Sequence[Source],
    places: Iterable[Place],
    batch_size: int,
    *,
    unit: str = "images",
) -> Embedded:
    """What the tower says of each picture; ``unit`` names them in the progress. Raises ``DataError`` where it gives NaN or
    another width."""
    wanted = set(places)
    pictures = read_pictures(sources, wanted)
    outputs = predict(tower, pictures, ctx, total=len(wanted), batch_size=batch_size, unit=unit)
    return Embedded(outputs.logits, outputs.unreadable)

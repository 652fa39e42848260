"""Vectors of an index that is too large for memory: looked up by row in memory-mapped shards.

``StoredVectors`` and ``MixedVectors`` stand where an array float16 [rows, dim] would: they have ``shape``, ``dtype`` and
``len``, and ``vectors[rows]`` with integers of any shape, or a slice, gives float16 [..., dim] in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

IN_MEMORY = 2**28
"""Bytes of vectors (float16) up to which an index is held in memory as one array."""

OPEN_SHARDS = 1024
"""Shards mapped at once: a process may hold some 65,000 maps, a large folder has that many shards."""


class RowVectors(ABC):
    """What is common to both: rows are given as integers or as a slice, ``gather`` finds them."""

    dtype = np.dtype(np.float16)

    def __init__(self, rows: int, dim: int) -> None:
        self.shape = (rows, dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.float16]:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        wanted = np.asarray(rows, np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"row {wanted.max()} of {len(self)}")
        return self.gather(wanted.ravel()).reshape(*wanted.shape, self.shape[1])

    @abstractmethod
    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Vectors float16 [n, dim] of ``rows`` [n]."""


class StoredVectors(RowVectors):
    """Shards one after another. ``load(number)`` maps a shard, ``counts`` are the rows of each."""

    def __init__(self, load: Callable[[int], NDArray[np.float16]], counts: Sequence[int], dim: int) -> None:
        super().__init__(sum(counts), dim)
        self._load = lru_cache(maxsize=OPEN_SHARDS)(load)
        self._ends = np.cumsum(np.array(counts, np.int64))
        self._starts = self._ends - np.array(counts, np.int64)

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Each shard that is needed is read once, in the order of its rows."""
        found = np.empty((len(rows), self.shape[1]), np.float16)
        order = np.argsort(rows, kind="stable")
        shard = np.searchsorted(self._ends, rows[order], side="right")
        for places in np.split(order, np.flatnonzero(np.diff(shard)) + 1):
            if len(places):
                number = int(np.searchsorted(self._ends, rows[places[0]], side="right"))
                found[places] = self._load(number)[rows[places] - self._starts[number]]
        return found


class MixedVectors(RowVectors):
    """(image + caption) / 2 for the rows in ``captioned`` (sorted), the image alone for the others."""

    def __init__(self, images: RowVectors, captions: Any, captioned: NDArray[np.int64]) -> None:
        super().__init__(*images.shape)
        self._images, self._captions, self._captioned = images, captions, captioned

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Mixed in float32, rounded once."""
        mixed = self._images.gather(rows).astype(np.float32)
        has = np.isin(rows, self._captioned)
        places = np.searchsorted(self._captioned, rows[has])
        mixed[has] = (mixed[has] + self._captions[places]) / 2
        return mixed.astype(np.float16)


def blocks(vectors: Any, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """First row and float32 [<= size, dim] of each run of rows; one run is in memory at a time."""
    for start in range(0, len(vectors), size):
        yield start, np.ascontiguousarray(vectors[start : start + size], np.float32)

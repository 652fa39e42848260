"""Exact nearest neighbours by inner product, with an order that does not depend on how the library adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SLACK = 1e-4  # more than float32 summation can differ from float64 at unit norm
_EXTRA = 32
_CHUNK_VALUES = 2**23


def faiss_kind(rows: int) -> str:
    """FAISS factory string for an index of this size. Flat is exact and fits memory up to some millions of rows."""
    return "Flat"


def make_faiss(vectors: NDArray[Any]) -> Any:
    """An inner-product index over float [n, dim]."""
    import faiss

    found = faiss.index_factory(vectors.shape[1], faiss_kind(len(vectors)), faiss.METRIC_INNER_PRODUCT)
    found.add(np.ascontiguousarray(vectors, np.float32))
    return found


def write_faiss(found: Any) -> bytes:
    """The index as bytes."""
    import faiss

    return bytes(faiss.serialize_index(found).tobytes())


def read_faiss(path: Path, rows: int, dim: int) -> Any:
    """The stored index if it is there and has this shape, else None."""
    import faiss

    if not path.is_file():
        return None
    try:
        found = faiss.read_index(str(path))
    except RuntimeError:  # a damaged file: it can be made again from the vectors
        return None
    return found if (found.ntotal, found.d) == (rows, dim) else None


def nearest(
    vectors: NDArray[Any], queries: NDArray[np.float32], k: int, stored: Any = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For each query the ``k`` best of ``vectors`` [n, dim]: similarities and places, both [q, min(k, n)].

    FAISS proposes, float64 products of the proposed rows decide; equal similarities are ordered by place. More is
    fetched until nothing outside can belong to the first ``k``.
    """
    count = min(k, len(vectors))
    if count == 0 or len(queries) == 0:
        return np.zeros((len(queries), count), np.float32), np.zeros((len(queries), count), np.int64)
    index = make_faiss(vectors) if stored is None else stored
    fetch = min(len(vectors), count + _EXTRA)
    queries = np.ascontiguousarray(queries, np.float32)
    proposed, places = index.search(queries, fetch)
    while fetch < len(vectors) and (proposed[:, count - 1] - proposed[:, -1] <= _SLACK).any():
        fetch = min(len(vectors), 4 * fetch)
        proposed, places = index.search(queries, fetch)
    step = max(1, _CHUNK_VALUES // (fetch * vectors.shape[1]))
    parts = [_ordered(vectors, queries[s : s + step], places[s : s + step]) for s in range(0, len(queries), step)]
    return (
        np.concatenate([similarities for similarities, _ in parts])[:, :count],
        np.concatenate([found for _, found in parts])[:, :count],
    )


def _ordered(
    vectors: NDArray[Any], queries: NDArray[np.float32], places: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    products = np.einsum("qkd,qd->qk", vectors[places].astype(np.float64), queries.astype(np.float64))
    similarities = products.astype(np.float32)
    order = np.lexsort((places, -similarities), axis=-1)
    return np.take_along_axis(similarities, order, 1), np.take_along_axis(places, order, 1)

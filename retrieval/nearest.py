"""Nearest neighbours by inner product, with an order that does not depend on how the library adds up.

FAISS proposes candidates, products in float64 with the stored vectors decide. ``nearest`` is exact; ``nearly`` takes its
candidates from a structure that may miss some (IVF, PQ, HNSW), and ``measure`` says how many it finds. Which structure
an index has is decided in ``retrieval.structure``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.structure import BLOCK, MEASURED_K, MEASURED_QUERIES, SEED
from retrieval.vectors import blocks

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Similarities and places, both [queries, k], best first."""

_SLACK = 1e-4  # more than float32 summation can differ from float64 at unit norm
_EXTRA = 32
_CHUNK_VALUES = 2**23


def nearest(vectors: Any, queries: NDArray[np.float32], k: int, stored: Any = None) -> Found:
    """For each query the ``k`` best of ``vectors`` [n, dim]: similarities and places, both [q, min(k, n)].

    ``stored`` is a Flat index of them; without one they are gone through block by block. Equal similarities are ordered
    by place. More is fetched until nothing outside can belong to the first ``k``.
    """
    count = min(k, len(vectors))
    if count == 0 or len(queries) == 0:
        return _nothing(len(queries), count)
    fetch = min(len(vectors), count + _EXTRA)
    queries = np.ascontiguousarray(queries, np.float32)
    proposed, places = _propose(vectors, queries, fetch, stored)
    while fetch < len(vectors) and (proposed[:, count - 1] - proposed[:, -1] <= _SLACK).any():
        fetch = min(len(vectors), 4 * fetch)
        proposed, places = _propose(vectors, queries, fetch, stored)
    return _decided(vectors, queries, places, count)


def nearly(vectors: Any, queries: NDArray[np.float32], k: int, stored: Any, reranked: int = 10) -> Found:
    """As ``nearest``, among the ``reranked * k`` candidates that ``stored`` proposes for each query (and some more): it may
    miss neighbours.

    Queries for which it proposes fewer than ``k`` (few lists looked through, lists nearly empty) are searched exactly.
    """
    count = min(k, len(vectors))
    if count == 0 or len(queries) == 0:
        return _nothing(len(queries), count)
    queries = np.ascontiguousarray(queries, np.float32)
    _, places = stored.search(queries, min(len(vectors), reranked * count + _EXTRA))
    similarities, found = _decided(vectors, queries, places, count)
    short = found[:, -1] < 0
    if short.any():
        similarities[short], found[short] = nearest(vectors, queries[short], count)
    return similarities, found


def measure(
    vectors: Any, queries: NDArray[np.float32], stored: Any, k: int = MEASURED_K, reranked: int = 10
) -> float | None:
    """recall@k of ``stored``: mean share, over the queries, of found vectors that are as similar as the true k-th."""
    if not len(queries) or not len(vectors):
        return None
    true, _ = nearest(vectors, queries, k)
    found, _ = nearly(vectors, queries, k, stored, reranked)
    return float((found >= true[:, -1:]).mean())


def sample(vectors: Any) -> NDArray[np.float32]:
    """Queries to measure with: up to 200 of the vectors, the same ones each time."""
    count = min(MEASURED_QUERIES, len(vectors))
    chosen = np.random.default_rng(SEED).choice(len(vectors), count, replace=False)
    return np.ascontiguousarray(vectors[np.sort(chosen)], np.float32)


def _nothing(queries: int, count: int) -> Found:
    return np.zeros((queries, count), np.float32), np.zeros((queries, count), np.int64)


def _propose(vectors: Any, queries: NDArray[np.float32], fetch: int, stored: Any) -> Found:
    """The ``fetch`` best by float32 products."""
    if stored is not None:
        similarities, places = stored.search(queries, fetch)
        return similarities, places
    import faiss

    similarities, places = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start, block in blocks(vectors, BLOCK):
        found, where = faiss.knn(queries, block, min(fetch, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        similarities = np.concatenate([similarities, found], axis=1)
        places = np.concatenate([places, where + start], axis=1)
        best = np.argsort(-similarities, axis=1, kind="stable")[:, :fetch]
        similarities, places = np.take_along_axis(similarities, best, 1), np.take_along_axis(places, best, 1)
    return similarities, places


def _decided(vectors: Any, queries: NDArray[np.float32], places: NDArray[np.int64], count: int) -> Found:
    """The first ``count`` of the proposed places by exact similarity."""
    step = max(1, _CHUNK_VALUES // (places.shape[1] * vectors.shape[1]))
    parts = [
        _ordered(vectors, queries[s : s + step], places[s : s + step], count) for s in range(0, len(queries), step)
    ]
    return np.concatenate([found for found, _ in parts]), np.concatenate([where for _, where in parts])


def _ordered(vectors: Any, queries: NDArray[np.float32], places: NDArray[np.int64], count: int) -> Found:
    products = np.einsum("qkd,qd->qk", vectors[np.maximum(places, 0)].astype(np.float64), queries.astype(np.float64))
    # Place -1 is where FAISS found nothing.
    similarities = np.where(places < 0, -np.inf, products).astype(np.float32)
    order = np.lexsort((places, -similarities), axis=-1)[:, :count]
    return np.take_along_axis(similarities, order, 1), np.take_along_axis(places, order, 1)

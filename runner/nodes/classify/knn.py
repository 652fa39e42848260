"""Nearest neighbours: which pool features are nearest, in which order, and what the majority of them says. numpy and FAISS."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SPARE = 32
_SLACK = 1e-5
_REFINED_AT_ONCE = 1 << 24
_VOTES_AT_ONCE = 1 << 26


class Nearest(NamedTuple):
    """``slots`` int64 [Q, k] of pool rows, nearest first; ``similarity`` float64 [Q, k]."""

    slots: IntArray
    similarity: FloatArray


def knn_vote(neighbour_labels: ArrayLike, k: int | None = None) -> NDArray[Any]:
    """The majority label among the first ``k`` (default: all) of each row of labels [Q, n], nearest first -> [Q].

    Among labels with as many votes the one met first from nearest to farthest wins. Labels may be numbers or strings.
    Source: the k-NN control of CIRCLE. Raises ValueError unless 1 <= k <= n.
    """
    labels = np.asarray(neighbour_labels)
    if labels.ndim != 2:
        raise ValueError(f"neighbour labels must have the shape [queries, neighbours], not {labels.shape}")
    k = labels.shape[1] if k is None else k
    if not 1 <= k <= labels.shape[1]:
        raise ValueError(f"k must be from 1 to the {labels.shape[1]} neighbours given, not {k}")
    voters = labels[:, :k]
    first = np.zeros(len(voters), np.int64)
    step = max(1, _VOTES_AT_ONCE // k**2)
    for start in range(0, len(voters), step):
        some = voters[start : start + step]
        votes = (some[:, :, None] == some[:, None, :]).sum(2)
        first[start : start + step] = votes.argmax(1)  # the first of the largest: the label met first
    return np.asarray(voters[np.arange(len(voters)), first])


def nearest(query: ArrayLike, pool: ArrayLike, k: int) -> Nearest:
    """The ``k`` pool rows [N, D] with the largest inner product with each query [Q, D]; equal ones by slot.

    FAISS (flat, inner product, float32) finds candidates; their products are computed again in float64, so that equal
    features are equal and the order is exact. Raises ValueError unless 1 <= k <= N and everything is finite.
    """
    f, F = np.ascontiguousarray(query, np.float32), np.ascontiguousarray(pool, np.float32)
    if f.ndim != 2 or F.ndim != 2 or f.shape[1] != F.shape[1]:
        raise ValueError(f"query and pool must be [Q, D] and [N, D], not {f.shape} and {F.shape}")
    if not 1 <= k <= len(F):
        raise ValueError(f"k must be from 1 to the {len(F)} pictures of the pool, not {k}")
    if not (np.isfinite(f).all() and np.isfinite(F).all()):
        raise ValueError("query and pool must not contain NaN or infinity")
    found, weakest = _candidates(f, F, min(k + _SPARE, len(F)))
    best = _refined(f, F, found, k)
    # Where the last candidate comes close to the k-th, more of the same similarity may be outside.
    open_rows = np.flatnonzero(weakest > best.similarity[:, -1] - _SLACK)
    if len(open_rows) and found.shape[1] < len(F):
        everything = np.broadcast_to(np.arange(len(F)), (len(open_rows), len(F)))
        again = _refined(f[open_rows], F, everything, k)
        best.slots[open_rows], best.similarity[open_rows] = again
    return best


def _candidates(query: NDArray[np.float32], pool: NDArray[np.float32], count: int) -> tuple[IntArray, FloatArray]:
    """Slots of the ``count`` nearest by FAISS [Q, count], and the similarity of the last."""
    import faiss

    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool)
    similarity, slots = index.search(query, count)
    return slots, similarity[:, -1].astype(np.float64)


def _refined(query: NDArray[np.float32], pool: NDArray[np.float32], found: IntArray, k: int) -> Nearest:
    """The ``k`` best of the candidates by float64 products, equal ones by slot."""
    slots, similarity = np.empty((len(query), k), np.int64), np.empty((len(query), k))
    wide = pool.astype(np.float64)
    step = max(1, _REFINED_AT_ONCE // (found.shape[1] * pool.shape[1]))
    for start in range(0, len(query), step):
        some = np.sort(found[start : start + step], axis=1)
        products = np.einsum("qd,qcd->qc", query[start : start + step].astype(np.float64), wide[some])
        order = np.argsort(-products, axis=1, kind="stable")[:, :k]
        slots[start : start + step] = np.take_along_axis(some, order, 1)
        similarity[start : start + step] = np.take_along_axis(products, order, 1)
    return Nearest(slots, similarity)

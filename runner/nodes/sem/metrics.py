"""Fairness of retrieval and of zero-shot classification. Counts in numpy; similarities in torch.

Source: the evaluation protocol of SEM (Guimard et al. 2026), which follows BendVLM for retrieval: KL divergence and MaxSkew@K
of what was retrieved against the evaluated population, precision@K; accuracy, worst group and their gap for classification.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from runner.nodes.sem.checks import check_rows, unit_rows

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SMALLEST_RATIO = 1e-10
_ROWS_AT_ONCE = 65_536


class Groups(NamedTuple):
    """One entry a group that has images: ``target`` and ``bias`` int64 [G], ``n`` and ``correct`` int64 [G]."""

    target: IntArray
    bias: IntArray
    n: IntArray
    correct: IntArray


class WorstGroup(NamedTuple):
    """``accuracy`` of all images, ``worst`` accuracy of a group, ``gap`` = accuracy - worst, and the groups."""

    accuracy: float
    worst: float
    gap: float
    groups: Groups


def cosines(images: Tensor, vectors: Tensor) -> Tensor:
    """Cosines of images [n, d] and vectors [q, d] -> [q, n] in float32, or in float64 where the images are. By chunks of images.

    Raises ValueError for other widths, NaN and rows of norm 0.
    """
    check_rows("image embeddings", images, nonzero=True)
    dtype = torch.promote_types(images.dtype, torch.float32)
    queries = unit_rows("query vectors", vectors, images.shape[1]).to(dtype)
    made = queries.new_empty(len(queries), len(images))
    for start in range(0, len(images), _ROWS_AT_ONCE):
        rows = images[start : start + _ROWS_AT_ONCE].to(dtype)
        made[:, start : start + len(rows)] = queries @ rows.mT / rows.norm(dim=1)
    return made


def ranked(similarity: Tensor, evaluated: ArrayLike, k: int) -> IntArray:
    """The k most similar of the evaluated images: [q, n] and rows int [b] -> rows int64 [q, k], best first.

    Indices are those of the population, so that similarities of text-only methods are computed once for all folds. Raises
    ValueError unless 1 <= k <= b.
    """
    rows = torch.as_tensor(np.asarray(evaluated, np.int64), device=similarity.device)
    if not 1 <= k <= len(rows):
        raise ValueError(f"K = {k} images cannot be retrieved from {len(rows)} evaluated ones")
    best = similarity[:, rows].topk(k, dim=1).indices
    return np.asarray(rows[best].cpu().numpy(), np.int64)


def predicted(images: Tensor, class_vectors: Tensor) -> IntArray:
    """Class of the highest cosine for each image, int64 [n]; the first of equal ones."""
    return np.asarray(cosines(images, class_vectors).argmax(0).cpu().numpy(), np.int64)


def class_counts(retrieved: ArrayLike, classes: ArrayLike, n_classes: int) -> IntArray:
    """How many images of each class were retrieved: rows int [..., K] into ``classes`` int [n] -> int64 [..., C]."""
    rows = np.asarray(retrieved, np.int64)
    labels = _labels("classes", classes, n_classes)[rows]
    cells = np.arange(labels[..., 0].size).reshape(labels.shape[:-1])[..., None] * n_classes + labels
    counts = np.bincount(cells.ravel(), minlength=labels[..., 0].size * n_classes)
    return counts.reshape(*labels.shape[:-1], n_classes)


def kl_divergence(retrieved: ArrayLike, prior: ArrayLike) -> FloatArray:
    """sum_c r_c ln(r_c / p_c) in nats, retrieved against population; counts or shares [..., C] -> [...].

    Both are scaled to sum 1; a class that was not retrieved adds 0. Raises ValueError where a class is absent from the
    population (the published form is infinite or NaN there), for negative counts and for nothing retrieved.
    """
    r, p = _shares(retrieved, prior)
    return np.asarray((r * np.log(np.maximum(r / p, _SMALLEST_RATIO))).sum(-1))


def max_skew(retrieved: ArrayLike, prior: ArrayLike) -> FloatArray:
    """max(0, max_c ln(r_c / p_c)); arguments and errors as ``kl_divergence``."""
    r, p = _shares(retrieved, prior)
    return np.asarray(np.maximum(np.log(np.maximum(r / p, _SMALLEST_RATIO)).max(-1), 0.0))


def precision_at(retrieved: ArrayLike, relevant: ArrayLike) -> FloatArray:
    """Share of relevant images among the retrieved: rows int [..., K] into ``relevant`` bool [n] -> float64 [...]."""
    return np.asarray(np.asarray(relevant, bool)[np.asarray(retrieved, np.int64)].mean(-1))


def worst_group(correct: ArrayLike, target: ArrayLike, bias: ArrayLike) -> WorstGroup:
    """Accuracy over all images and over each (target, bias) group that has images; arguments [n], pooled over folds.

    Raises ValueError for unequal lengths and for no image.
    """
    right, t, b = (np.asarray(a).ravel() for a in (correct, target, bias))
    if not (len(right) == len(t) == len(b)) or not len(right):
        raise ValueError(f"correct, target and bias need one entry an image, not {len(right)}, {len(t)} and {len(b)}")
    pairs, group = np.unique(np.stack([t, b], 1).astype(np.int64), axis=0, return_inverse=True)
    n = np.bincount(group.ravel(), minlength=len(pairs))
    hits = np.bincount(group.ravel(), right.astype(np.float64), minlength=len(pairs)).astype(np.int64)
    accuracy, worst = float(right.mean()), float((hits / n).min())
    return WorstGroup(accuracy, worst, accuracy - worst, Groups(pairs[:, 0], pairs[:, 1], n, hits))


def prior_of(classes: ArrayLike, n_classes: int) -> FloatArray:
    """Share of each class in a population, [C]. Raises ValueError, naming it, for a class that is absent."""
    counts = np.bincount(_labels("classes", classes, n_classes), minlength=n_classes)
    if not counts.all():
        raise ValueError(f"bias class {int(np.argmin(counts))} is absent from the evaluated population")
    return np.asarray(counts / counts.sum())


def _shares(retrieved: ArrayLike, prior: ArrayLike) -> tuple[FloatArray, FloatArray]:
    r, p = np.asarray(retrieved, np.float64), np.asarray(prior, np.float64)
    if r.shape[-1:] != p.shape[-1:]:
        raise ValueError(f"{r.shape[-1:]} classes were retrieved, the population has {p.shape[-1:]}")
    if not (np.isfinite(r).all() and np.isfinite(p).all() and (r >= 0).all() and (r.sum(-1) > 0).all()):
        raise ValueError("retrieved counts must be finite, not negative, and hold at least one image")
    if not (p > 0).all():
        raise ValueError("a bias class is absent from the evaluated population: its divergence is not defined")
    return r / r.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)


def _labels(name: str, values: ArrayLike, n_classes: int) -> NDArray[Any]:
    labels = np.asarray(values, np.int64)
    if labels.ndim != 1 or (labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes):
        raise ValueError(f"{name} must be whole numbers from 0 to {n_classes - 1}, one an image")
    return labels

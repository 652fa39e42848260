"""Tip-Adapter: CLIP's zero-shot logits plus a cache of labelled features, without training. Pure numpy float64.

Symbols of the paper (Zhang et al., ECCV 2022): query f [Q, D], class weights W [D, C], keys F [D, N], one-hot values
L [N, C], all of unit norm along D; affinity A = f F; ``logits = 100 f W + alpha exp(-beta (1 - A)) L``.

The search over (alpha, beta) computes affinities and zero-shot logits once. Logits are linear in alpha, so for each beta
float32 logits at both ends of the range decide most queries for all alphas; only the others are computed for each alpha, in
float64, with the operations of ``tip_logits``. Whatever float32 cannot decide beyond its own rounding counts among them, so
every accuracy is that of a plain loop over ``tip_logits``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.nodes.classify.cased import cased_scores
from runner.nodes.classify.customary import DEFAULT, GRIDS, TEMPLATES, TipGrid, grid_of
from runner.nodes.classify.knn import knn_vote

__all__ = [
    "DEFAULT", "GRIDS", "TEMPLATES", "CacheModel", "TipGrid", "TipSearch", "cache_model", "cased_scores", "grid_of", "knn_vote",
    "search_alpha_beta", "tip_logits",
]  # fmt: skip

Variant = Literal["exponential", "linear"]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LOGIT_SCALE = 100.0
_BLOCK_ELEMENTS = 1 << 18


class CacheModel(NamedTuple):
    """``keys`` float64 [D, N], columns of unit norm; ``values`` float64 [N, C], one-hot."""

    keys: FloatArray
    values: FloatArray


class TipSearch(NamedTuple):
    """The best pair, its accuracy, and ``grid``: float64 [betas, alphas], the accuracy of every pair."""

    alpha: float
    beta: float
    accuracy: float
    grid: FloatArray


def cache_model(features: ArrayLike, labels: ArrayLike, n_classes: int) -> CacheModel:
    """Keys and values from labelled features [N, D], or [epochs, N, D] of several augmentations.

    Features are averaged over the epochs as they are and scaled to unit norm afterwards. ``labels``: class indices [N].
    Source: Tip-Adapter, section 3.1. Raises ValueError for NaN or infinite features, a mean of zero, labels outside
    0 .. n_classes - 1, and a class without any feature (its logits would be compared with refined ones).
    """
    raw = _finite("features", features, (2, 3))
    mean = raw.mean(0) if raw.ndim == 3 else raw
    classes = _class_indices(labels, len(mean), n_classes)
    missing = np.setdiff1d(np.arange(n_classes), classes)
    if missing.size:
        raise ValueError(f"{missing.size} of {n_classes} classes have no labelled feature, the first is {missing[0]}")
    norms = np.linalg.norm(mean, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError("a feature has the norm 0, or the augmentations of one cancel out")
    return CacheModel((mean / norms).T, np.eye(n_classes)[classes])


def tip_logits(
    query: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    class_weights: ArrayLike,
    alpha: float,
    beta: float,
    variant: Variant = "exponential",
) -> FloatArray:
    """Logits float64 [Q, C] of queries [Q, D], with keys [D, N], one-hot values [N, C], class weights [D, C].

    ``exponential``: ``100 f W + alpha exp(-beta (1 - f F)) L`` (Tip-Adapter, equation 5). ``linear``:
    ``100 (f W + alpha f F L)``: CIRCLE's equation 4 with alpha in the place of its omega; the factor changes no answer, and
    beta is not used. Raises ValueError for shapes that do not fit, NaN or infinity, and values that are not one-hot.
    """
    problem = _problem(query, keys, values, class_weights)
    _check_numbers(alpha=[alpha], beta=[beta])
    logits = np.empty((len(problem.query), problem.zero_shot.shape[1]))
    for block in _blocks(problem):
        sums = _class_sums(_weights(block.distance, beta, variant), problem)
        logits[block.rows] = (block.zero_shot + alpha * sums).T
    return logits


def search_alpha_beta(
    query: ArrayLike,
    labels: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    class_weights: ArrayLike,
    betas: Sequence[float],
    alphas: Sequence[float],
    variant: Variant = "exponential",
) -> TipSearch:
    """Accuracy of every (beta, alpha) on labelled queries, and the best pair; shapes as in ``tip_logits``.

    Order and rule are the published ones: beta outside, alpha inside, the first strictly better pair is kept. A class
    wins a tie of logits against classes of higher index. Equal to the loop over ``tip_logits`` at every point. Raises
    ValueError as ``tip_logits``, and for empty ranges, no queries, or labels outside the classes.
    """
    problem = _problem(query, keys, values, class_weights)
    truth = _class_indices(labels, len(problem.query), problem.zero_shot.shape[1])
    if not len(truth) or not len(betas) or not len(alphas):
        raise ValueError("the search needs at least one query, one alpha and one beta")
    _check_numbers(alpha=alphas, beta=betas)
    weights = np.asarray(alphas, np.float64)
    hits = np.zeros((len(betas), len(alphas)), np.int64)
    for block in _blocks(problem):
        _count_hits(hits, block, truth[block.rows], problem, betas, weights, variant)
    beta_at, alpha_at = divmod(int(hits.argmax()), len(alphas))
    grid = hits / len(truth)
    return TipSearch(float(weights[alpha_at]), float(betas[beta_at]), float(grid[beta_at, alpha_at]), grid)


class _Problem(NamedTuple):
    """Checked inputs; keys are sorted by class: class ``present[i]`` owns the columns from ``starts[i]`` on."""

    query: FloatArray
    keys: FloatArray
    zero_shot: FloatArray
    present: IntArray
    starts: IntArray
    largest: int


class _Block(NamedTuple):
    """Some queries: zero-shot logits [C, b] and distances 1 - A to the keys [N, b]."""

    rows: slice
    zero_shot: FloatArray
    distance: FloatArray


def _problem(query: ArrayLike, keys: ArrayLike, values: ArrayLike, class_weights: ArrayLike) -> _Problem:
    f, F = _finite("query", query, (2,)), _finite("keys", keys, (2,))
    L, W = _finite("values", values, (2,)), _finite("class_weights", class_weights, (2,))
    if not (f.shape[1] == F.shape[0] == W.shape[0] and F.shape[1] == L.shape[0] and L.shape[1] == W.shape[1]):
        shapes = f"query {f.shape}, keys {F.shape}, values {L.shape}, class_weights {W.shape}"
        raise ValueError(f"shapes must be [Q, D], [D, N], [N, C], [D, C], not {shapes}")
    if not L.size or not (((L == 0) | (L == 1)).all() and (L.sum(1) == 1).all()):
        raise ValueError("values must be one-hot rows, at least one")
    classes = L.argmax(1)
    order = np.argsort(classes, kind="stable")
    present, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
    return _Problem(f, F[:, order], LOGIT_SCALE * (f @ W), present, starts, int(counts.max()))


def _blocks(problem: _Problem) -> Iterator[_Block]:
    """Queries in blocks that stay in the processor's cache; the same blocks for ``tip_logits`` and the search."""
    size = int(np.clip(_BLOCK_ELEMENTS // problem.keys.shape[1], 16, 512))
    for start in range(0, len(problem.query), size):
        rows = slice(start, min(start + size, len(problem.query)))
        affinity = problem.keys.T @ problem.query[rows].T
        yield _Block(rows, np.ascontiguousarray(problem.zero_shot[rows].T), 1 - affinity)


def _weights(distance: NDArray[Any], beta: float, variant: Variant) -> NDArray[Any]:
    """What each key contributes to its class, [N, b]."""
    if variant == "linear":
        return LOGIT_SCALE * (1 - distance)
    return np.asarray(np.exp(-beta * distance))


def _class_sums(weights: NDArray[Any], problem: _Problem) -> NDArray[Any]:
    """``weights^T L`` as sums over the keys of each class -> [C, b]; classes without a key get 0."""
    sums = np.zeros((problem.zero_shot.shape[1], weights.shape[1]), weights.dtype)
    sums[problem.present] = np.add.reduceat(weights, problem.starts, axis=0)
    return sums


def _count_hits(
    hits: IntArray,
    block: _Block,
    truth: IntArray,
    problem: _Problem,
    betas: Sequence[float],
    alphas: FloatArray,
    variant: Variant,
) -> None:
    """Add the right answers of one block to ``hits`` [betas, alphas]."""
    if variant == "linear":  # beta does not enter
        everything = np.arange(len(truth))
        hits += _exact_hits(block, everything, truth, problem, 0.0, alphas, variant)
        return
    screen = _Screen.of(block, truth, alphas)
    for i, beta in enumerate(betas):
        right, undecided = screen.decide(beta, problem)
        hits[i] += right
        if len(undecided):
            hits[i] += _exact_hits(block, undecided, truth[undecided], problem, beta, alphas, variant)


def _exact_hits(
    block: _Block,
    which: IntArray,
    truth: IntArray,
    problem: _Problem,
    beta: float,
    alphas: FloatArray,
    variant: Variant,
) -> IntArray:
    """Right answers among the queries ``which`` of the block for each alpha, int64 [alphas], as ``tip_logits`` gives them."""
    sums = _class_sums(_weights(np.take(block.distance, which, axis=1), beta, variant), problem).T
    zero_shot = np.ascontiguousarray(np.take(block.zero_shot, which, axis=1).T)
    sums = np.ascontiguousarray(sums)
    hits = [np.count_nonzero((zero_shot + alpha * sums).argmax(1) == truth) for alpha in alphas]
    return np.asarray(hits, np.int64)


class _Screen(NamedTuple):
    """One block in float32. ``gap``: zero-shot logits minus that of the true class [C, b]."""

    distance: NDArray[np.float32]
    gap: NDArray[np.float32]
    truth: IntArray
    ends: tuple[float, float]
    farthest: float
    widest: float

    @classmethod
    def of(cls, block: _Block, truth: IntArray, alphas: FloatArray) -> _Screen:
        """Copy what the screening needs."""
        gap = block.zero_shot - block.zero_shot[truth, np.arange(len(truth))]
        ends = (float(alphas.min()), float(alphas.max()))
        # Values beyond float32 become infinite, then undecided.
        with np.errstate(over="ignore"):
            distance, gap32 = block.distance.astype(np.float32), gap.astype(np.float32)
        return cls(distance, gap32, truth, ends, float(np.abs(block.distance).max()), float(np.abs(gap).max()))

    def decide(self, beta: float, problem: _Problem) -> tuple[int, IntArray]:
        """How many queries are right at every alpha, and which ones float32 at both ends cannot decide.

        A query is right where the true class leads all others at both ends, wrong where one class leads it at both.
        Leads below the bound on the rounding of float32 decide nothing; neither do NaN and infinity.
        """
        columns = np.arange(len(self.truth))
        with np.errstate(over="ignore", invalid="ignore"):
            sums = _class_sums(np.exp(np.float32(-beta) * self.distance), problem)
            margin = self._rounding(beta, float(sums.max()), problem.largest)
            sums -= sums[self.truth, columns].copy()
            leads = [self.gap + np.float32(alpha) * sums for alpha in self.ends]
            for lead in leads:
                lead[self.truth, columns] = -np.inf
            right = np.maximum(*leads).max(0) < -margin
            wrong = np.minimum(*leads).max(0) > margin
        return int(np.count_nonzero(right)), np.flatnonzero(~(right | wrong))

    def _rounding(self, beta: float, largest_sum: float, terms: int) -> float:
        """A bound on the error of a difference of float32 logits.

        With unit roundoff u, an exponential is wrong by a factor of 1 + u (3 |beta| d + 5), a sum of n of them by n u more; a
        difference doubles this. 4 eps = 8 u covers it, and the roundings of the last steps.
        """
        weight = max(abs(end) for end in self.ends)
        terms_of_sum = weight * largest_sum * (terms + 4 + abs(beta) * self.farthest)
        return float(4 * np.finfo(np.float32).eps * (self.widest + terms_of_sum))


def _finite(name: str, values: ArrayLike, dimensions: tuple[int, ...]) -> FloatArray:
    array = np.asarray(values, np.float64)
    if array.ndim not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise ValueError(f"{name} must have {wanted} dimensions, not the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contain NaN or infinity")
    return array


def _class_indices(labels: ArrayLike, length: int, n_classes: int) -> IntArray:
    classes = np.asarray(labels)
    if classes.shape != (length,):
        raise ValueError(f"there must be one label for each of {length} rows, not the shape {classes.shape}")
    if length and (not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0 or classes.max() >= n_classes):
        raise ValueError(f"labels must be whole numbers from 0 to {n_classes - 1}")
    return classes.astype(np.int64)


def _check_numbers(**named: Sequence[float]) -> None:
    for name, values in named.items():
        if not np.isfinite(np.asarray(values, np.float64)).all():
            raise ValueError(f"every {name} must be a finite number")

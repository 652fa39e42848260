"""Tip-Adapter's search over (alpha, beta) against the plain loop as published, on the same inputs in one run.

    OMP_NUM_THREADS=1 python benchmarks/tip_adapter.py [classes shots queries dimensions [timed points]]

The plain loop computes affinities, cache logits, zero-shot logits and the accuracy anew for every pair, in float32 (numpy)
and in float64. On a part of the pairs it is timed, and its time scaled to all of them. Accuracies of *all* pairs are
compared with a float64 loop that keeps the affinities and sums by one-hot product, pair by pair.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from runner.nodes.classify.customary import GRIDS
from runner.nodes.classify.tip_adapter import cache_model, search_alpha_beta

Array = NDArray[np.floating]


def material(classes: int, shots: int, queries: int, dim: int) -> tuple[Array, NDArray[np.int64], Array, Array, Array]:
    """Clusters in a narrow cone, as CLIP's features: queries, their classes, keys, values, class weights, float32."""
    rng = np.random.default_rng(0)
    centres, shared = rng.normal(size=(classes, dim)), 4.5 * rng.normal(size=dim)

    def near(labels: NDArray[np.int64], noise: float, common: Array | float) -> Array:
        x = centres[labels] + noise * rng.normal(size=(len(labels), dim)) + common
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    labels, truth = np.repeat(np.arange(classes), shots), rng.integers(0, classes, queries)
    query, pool = near(truth, 2.0, shared), near(labels, 2.0, shared)
    weights = near(np.arange(classes), 3.0, 0.0).T
    keys, values = cache_model(pool, labels, classes)
    return query, truth, keys.astype(np.float32), values.astype(np.float32), weights


def published(
    query: Array, truth: Array, keys: Array, values: Array, weights: Array, alpha: float, beta: float
) -> float:
    """One step of the plain loop."""
    affinity = query @ keys
    cache = np.exp(-1 * (beta - beta * affinity)) @ values
    logits = 100.0 * query @ weights + cache * alpha
    return float((logits.argmax(1) == truth).mean())


def timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def all_accuracies(query: Array, truth: Array, keys: Array, values: Array, weights: Array, betas: list[float], alphas: list[float]) -> Array:  # fmt: skip
    """Every pair in float64: one exponential and one product with the one-hot values a beta, one argmax a pair."""
    f, F, L, W = (a.astype(np.float64) for a in (query, keys, values, weights))
    affinity, zero_shot = f @ F, 100.0 * (f @ W)
    grid = np.empty((len(betas), len(alphas)))
    for i, beta in enumerate(betas):
        cache = np.exp(-beta * (1 - affinity)) @ L
        grid[i] = [((zero_shot + cache * alpha).argmax(1) == truth).mean() for alpha in alphas]
    return grid


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]]
    classes, shots, queries, dim = numbers[:4] or (100, 16, 2000, 512)
    count = numbers[4] if len(numbers) > 4 else 40
    inputs = material(classes, shots, queries, dim)
    betas, alphas = GRIDS["caltech101"].betas(), GRIDS["caltech101"].alphas()
    pairs = [(i, j) for i in range(len(betas)) for j in range(len(alphas))]
    searched = min(timed(lambda: search_alpha_beta(*inputs, betas, alphas))[0] for _ in range(3))
    found = search_alpha_beta(*inputs, betas, alphas)
    print(
        f"{classes} classes, {len(inputs[3])} keys, {queries} queries, {dim} dimensions, {len(betas)} x {len(alphas)} pairs"
    )
    print(f"search: {searched:.2f} s; best alpha {found.alpha:g}, beta {found.beta:g}, accuracy {found.accuracy:.4f}")
    chosen = [pairs[i] for i in np.linspace(0, len(pairs) - 1, count).astype(int)]
    for name, dtype in (("float32", np.float32), ("float64", np.float64)):
        query, truth, keys, values, weights = inputs
        typed = tuple(a.astype(dtype) for a in (query, keys, values, weights))
        arrays = (typed[0], truth, *typed[1:])
        seconds, got = timed(lambda a=arrays: [published(*a, alphas[j], betas[i]) for i, j in chosen])
        scaled = seconds / count * len(pairs)
        other = sum(value != found.grid[pair] for value, pair in zip(got, chosen, strict=True))
        print(
            f"plain loop, {name}: {scaled:.0f} s ({count} of {len(pairs)} pairs timed, scaled); ratio {scaled / searched:.0f} x; "
            f"other accuracy at {other} of {count} pairs"
        )
    reference = all_accuracies(*inputs, betas, alphas)
    i, j = np.unravel_index(int(reference.argmax()), reference.shape)
    same = (alphas[j], betas[i]) == (found.alpha, found.beta)
    print(
        f"all {len(pairs)} accuracies equal in float64: {np.array_equal(reference, found.grid)}; same best pair: {same}"
    )


if __name__ == "__main__":
    main()

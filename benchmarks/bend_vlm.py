"""BendVLM's second step in closed form, for all queries at once, against sequential quadratic programming query by query.

    OMP_NUM_THREADS=1 python benchmarks/bend_vlm.py [width queries classes]

The optimiser starts from the query, as published: once with its tolerance and numerical derivatives as published, once with exact
derivatives and a tight tolerance, which is a stronger opponent and shows whether both find the same point.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from runner.nodes.sem.bend import bend_vlm

Array = NDArray[np.float64]


def material(width: int, queries: int, classes: int) -> tuple[Array, Array]:
    """Unit queries, and prototypes of bias classes that differ a little, in CLIP's narrow cone of images."""
    rng = np.random.default_rng(0)
    z0 = rng.normal(size=(queries, width))
    cone = rng.normal(size=width)
    means = cone + 0.3 * rng.normal(size=(queries, classes, width))
    return z0 / np.linalg.norm(z0, axis=-1, keepdims=True), means / np.linalg.norm(means, axis=-1, keepdims=True)


def optimised(z0: Array, means: Array, exact: bool) -> Array:
    """One query: max e.z0 with |e| = 1 and e.mu_c = e.mu_0."""
    norm: dict[str, Any] = {"type": "eq", "fun": lambda e: e @ e - 1}
    constraints = [norm]
    for mean in means[1:]:
        constraints.append({"type": "eq", "fun": lambda e, d=means[0] - mean: e @ d})
        if exact:
            constraints[-1]["jac"] = lambda e, d=means[0] - mean: d
    if exact:
        norm["jac"] = lambda e: 2 * e
    found = minimize(
        lambda e: -e @ z0,
        z0,
        jac=(lambda e: -z0) if exact else None,
        method="SLSQP",
        constraints=constraints,
        options={"ftol": 1e-12 if exact else 1e-6},
    )
    return np.asarray(found.x / np.linalg.norm(found.x))


def timed(work: Callable[[], Array]) -> tuple[float, Array]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def main() -> int:
    numbers = [int(word) for word in sys.argv[1:]]
    width, queries, classes = numbers or (512, 25, 7)
    torch.set_num_threads(1)
    z0, means = material(width, queries, classes)
    tensors = torch.tensor(z0), torch.tensor(means)
    seconds, closed = min((timed(lambda: bend_vlm(*tensors).numpy()) for _ in range(5)), key=lambda t: t[0])
    print(f"width {width}, {queries} queries, {classes} bias classes: closed form {1000 * seconds:.1f} ms")
    ratios, differences = [], []
    for name, exact, count in (("as published", False, min(queries, 2)), ("exact derivatives", True, min(queries, 5))):
        spent, found = timed(lambda e=exact, n=count: np.stack([optimised(z0[q], means[q], e) for q in range(n)]))
        ratios.append(spent / count * queries / seconds)
        differences.append(float(np.abs(found - closed[:count]).max()))
        print(
            f"SLSQP, {name}: {spent / count:.2f} s a query; ratio {ratios[-1]:.0f} x; largest difference {differences[-1]:.1e}"
        )
    return 0 if min(ratios) >= 100 and max(differences) <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())

"""Ridge probes of 312 attributes from one factorisation against one fit an attribute, as a plain loop writes it.

    OMP_NUM_THREADS=1 python benchmarks/ridge_probes.py [rows width attributes timed]

Both get the same part vectors of one source and layer, in float64, with the same penalty, and standardise on the rows they fit.
The loop calls scikit-learn's Ridge (Cholesky) for each attribute; fits are all alike, so some are timed and scaled.
``patterns``: the attributes fall into 28 groups with 5 % of the rows invalid in each, as groups of annotated attributes do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from runner.nodes.leakage.probes import ridge_probe

GROUPS = 28
PENALTY = 0.01


def material(rows: int, width: int, attributes: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Features of a low-rank kind, targets of about 30 %, and valid rows: all of them, and 28 patterns."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 100, generator=g) @ torch.randn(100, width, generator=g) / 10 + torch.randn(
        rows, width, generator=g
    )
    y = (x @ torch.randn(width, attributes, generator=g) / 60 + torch.randn(rows, attributes, generator=g) > 0.6).int()
    groups = torch.rand(rows, GROUPS, generator=g) < 0.95
    patterns = groups[:, torch.arange(attributes) % GROUPS]
    return x, y, {"all rows": torch.ones(rows, attributes, dtype=torch.bool), f"{GROUPS} patterns": patterns}


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def one_fit(x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
    """The plain form for one attribute: scores of all rows."""
    own = x[keep].double().numpy()
    mean, spread = own.mean(0), own.std(0)
    fitted = Ridge(alpha=PENALTY * len(own), solver="cholesky").fit((own - mean) / spread, y[keep].numpy())
    return torch.from_numpy(fitted.predict((x.double().numpy() - mean) / spread))


def main() -> None:
    rows, width, attributes, some = [int(v) for v in sys.argv[1:]] or [5994, 768, 312, 12]
    x, y, valid = material(rows, width, attributes)
    for name, keep in valid.items():
        plain = timed(lambda keep=keep: [one_fit(x, y[:, a], keep[:, a]) for a in range(some)]) * attributes / some
        ours = min(timed(lambda keep=keep: ridge_probe(x, y, keep, PENALTY).scores(x)) for _ in range(3))
        scores = ridge_probe(x, y, keep, PENALTY).scores(x)
        apart = max((scores[:, a] - one_fit(x, y[:, a], keep[:, a])).abs().max().item() for a in range(some))
        print(
            f"{name}: {plain:.1f} s a fit each, {ours:.2f} s together, {plain / ours:.1f} x; largest difference {apart:.1e}"
        )


if __name__ == "__main__":
    main()

"""Scoring 4,800 groups at once against a loop over a data frame, value by value. Run: python benchmarks/scoring.py"""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd

from runner.nodes.bias.scores import accuracies, bias_scores, flag_exact

ATTRIBUTES, VALUES, IMAGES = 1200, 4, 100


def frame_loop(frame: pd.DataFrame) -> list[float]:
    """phi as a notebook would compute it: filter the frame for each value and for its siblings."""
    scores = []
    for row in frame.itertuples():
        siblings = frame[(frame["attribute"] == row.attribute) & (frame["value"] != row.value)]
        accuracy = frame[(frame["attribute"] == row.attribute) & (frame["value"] == row.value)]
        own = float((accuracy["k"] / accuracy["n"]).iloc[0])
        scores.append(own - float((siblings["k"] / siblings["n"]).mean()))
    return scores


def best_of(function, repeats: int):
    """Shortest of several runs in seconds, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main() -> int:
    rng = np.random.default_rng(0)
    n = np.full((ATTRIBUTES, VALUES), IMAGES)
    k = rng.binomial(n, 0.85)
    attribute, value = np.divmod(np.arange(k.size), VALUES)
    frame = pd.DataFrame({"attribute": attribute, "value": value, "k": k.ravel(), "n": n.ravel()})
    slow, expected = best_of(lambda: frame_loop(frame), 1)
    fast, (phi, _, _) = best_of(lambda: (bias_scores(k, n), flag_exact(k, n, 0.05), accuracies(k, n)), 5)
    np.testing.assert_allclose(phi.ravel(), expected, atol=1e-12)
    print(
        f"{k.size} groups: data-frame loop {slow:.2f} s, scores with exact flags {1000 * fast:.2f} ms, {slow / fast:.0f} x"
    )
    return 0 if slow / fast >= 100 else 1


if __name__ == "__main__":
    sys.exit(main())

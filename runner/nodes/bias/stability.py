"""Do findings come back when the proposals are drawn again? Pure; rows in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.naming import normalised
from runner.nodes.bias.statistics import FINDINGS

Row = dict[str, Any]
Cosines = Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]

MATCH_ABOVE = 0.9


def same_names(first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
    """1 where two texts are the same whatever case and spacing, else 0; [len(first), len(second)]."""
    a, b = ([normalised(text) for text in texts] for texts in (first, second))
    return np.array([[float(x == y) for y in b] for x in a], np.float64).reshape(len(a), len(b))


def greedy_matches(cosines: NDArray[np.float64], above: float = MATCH_ABOVE) -> dict[int, int]:
    """One-to-one pairs row -> column: the largest entry first, as long as it is strictly above ``above``.

    Ties go to the first in row-major order.
    """
    left = np.array(cosines, np.float64)
    pairs: dict[int, int] = {}
    while left.size and left.max() > above:
        row, column = np.unravel_index(int(np.argmax(left)), left.shape)
        pairs[int(row)] = int(column)
        left[row, :], left[:, column] = -np.inf, -np.inf
    return pairs


def match_groups(first: Sequence[Row], second: Sequence[Row], cosines: Cosines = same_names) -> dict[int, int]:
    """Indices of group rows that mean the same in two draws, target by target, by "attribute: value"."""
    pairs: dict[int, int] = {}
    for target in sorted({row["target"] for row in first}):
        mine, theirs = (_of(rows, target) for rows in (first, second))
        if mine and theirs:
            matrix = cosines([_text(first[i]) for i in mine], [_text(second[j]) for j in theirs])
            pairs |= {mine[i]: theirs[j] for i, j in greedy_matches(matrix).items()}
    return pairs


def _of(rows: Sequence[Row], target: str) -> list[int]:
    return [i for i, row in enumerate(rows) if row["target"] == target]


def _text(row: Row) -> str:
    return f"{normalised(row['attribute'])}: {normalised(row['value'])}"


def stability_rows(draws: Sequence[Sequence[Row]], cosines: Cosines = same_names) -> list[Row]:
    """Rows of ``c2b_stability`` for the groups of the first draw; each draw holds rows of ``c2b_group``.

    ``share_proposed``: share of the *other* draws that proposed the value; the shares with the same sign of phi and with
    the same verdict are of those that did. ``jaccard``: mean over all pairs of draws of |shared findings| / |all findings|,
    1 where neither has any. All are None with a single draw.
    """
    main, others = list(draws[0]), [list(draw) for draw in draws[1:]]
    matches = [match_groups(main, other, cosines) for other in others]
    jaccard = mean_jaccard(draws, cosines)
    rows: list[Row] = []
    for i, row in enumerate(main):
        found = [other[pairs[i]] for other, pairs in zip(others, matches, strict=True) if i in pairs]
        signs = [_sign(f) == _sign(row) for f in found if f["phi"] is not None and row["phi"] is not None]
        rows.append({
            "target": row["target"], "attribute": row["attribute"], "value": row["value"],
            "value_source": "caption",
            "share_proposed": len(found) / len(others) if others else None,
            "share_same_sign": _share(signs),
            "share_same_verdict": _share([f["verdict"] == row["verdict"] for f in found]),
            "jaccard": jaccard,
        })  # fmt: skip
    return rows


def mean_jaccard(draws: Sequence[Sequence[Row]], cosines: Cosines = same_names) -> float | None:
    """Mean Jaccard index of the sets of findings over all pairs of draws; None with fewer than two."""
    findings = [[row for row in draw if row["verdict"] in FINDINGS] for draw in draws]
    indices = [_jaccard(a, b, cosines) for a, b in combinations(findings, 2)]
    return sum(indices) / len(indices) if indices else None


def _jaccard(a: Sequence[Row], b: Sequence[Row], cosines: Cosines) -> float:
    shared = sum(a[i]["verdict"] == b[j]["verdict"] for i, j in match_groups(a, b, cosines).items())
    union = len(a) + len(b) - shared
    return shared / union if union else 1.0


def _sign(row: Row) -> int:
    return int(np.sign(row["phi"]))


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None

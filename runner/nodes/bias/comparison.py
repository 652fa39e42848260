"""Two classifiers on the same pictures: paired counts, exact tests, and what differs. Pure; plain rows in, plain rows out."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.nodes.bias.assess import plain
from runner.nodes.bias.statistics import adjust_within, mcnemar_exact
from runner.nodes.intervals import paired_difference_interval

Row = dict[str, Any]

_GROUP = ("target", "attribute", "value", "value_source")
_NO_GROUP = (None, None, None)


def comparison_rows(
    first: tuple[str, Sequence[Row], Sequence[Row]],
    second: tuple[str, Sequence[Row], Sequence[Row]],
    *,
    alpha: float = 0.05,
    min_group_size: int = 10,
    confidence: float = 0.95,
) -> list[Row]:
    """Rows of ``c2b_comparison``: all pictures together, each target, each group.

    ``first`` and ``second``: name, rows of ``c2b_member`` and rows of ``c2b_group``. Only pictures that both judged count.
    p-values are McNemar's exact ones; q is Benjamini-Hochberg within each of the three levels. ``worse`` means that the
    second is right less often than the first with q <= ``alpha``.
    """
    (first_name, first_members, first_groups), (second_name, second_members, second_groups) = first, second
    tables = paired_tables(first_members, second_members)
    keys = sorted(tables, key=lambda key: tuple(part or "" for part in key))
    counts = np.array([tables[key] for key in keys], np.int64).reshape(-1, 4)
    columns = _columns(counts, _levels(keys), confidence)
    scores = {"first": _by_group(first_groups), "second": _by_group(second_groups)}
    rows = []
    for i, key in enumerate(keys):
        row = {name: plain(values[i]) for name, values in columns.items()}
        own = {
            f"{what}_{which}": known.get(key, {}).get(what)
            for what in ("phi", "verdict")
            for which, known in scores.items()
        }
        verdict = _verdict(row, alpha, min_group_size)
        rows.append({"first": first_name, "second": second_name, **dict(zip(_GROUP, key, strict=True)), **row, **own, "verdict": verdict})  # fmt: skip
    return rows


def paired_tables(first: Iterable[Row], second: Iterable[Row]) -> dict[tuple[Hashable, ...], list[int]]:
    """[both right, only the first, only the second, both wrong] per group, per target and over all.

    A picture counts once per group, and once per target in the totals.
    """
    known = {_member(row): bool(row["correct"]) for row in first}
    tables: dict[tuple[Hashable, ...], list[int]] = {}
    counted: set[tuple[Hashable, ...]] = set()
    for row in second:
        own = known.get(_member(row))
        if own is None:
            continue
        cell = 2 * (not own) + (not row["correct"])
        picture = (row["target"], row["source_id"], row["uri"])
        keys = [] if row["attribute"] is None else [tuple(row[name] for name in _GROUP)]
        if picture not in counted:
            counted.add(picture)
            keys += [(None, *_NO_GROUP), (row["target"], *_NO_GROUP)]
        for key in keys:
            tables.setdefault(key, [0, 0, 0, 0])[cell] += 1
    return tables


def _member(row: Row) -> tuple[Hashable, ...]:
    return (*(row[name] for name in _GROUP), row["source_id"], row["uri"])


def _by_group(groups: Iterable[Row]) -> dict[tuple[Hashable, ...], Row]:
    return {tuple(row[name] for name in _GROUP): row for row in groups}


def _levels(keys: Sequence[tuple[Hashable, ...]]) -> NDArray[np.int64]:
    """0 = all pictures, 1 = a target, 2 = a group."""
    return np.array([0 if key[0] is None else 1 if key[1] is None else 2 for key in keys], np.int64)


def _columns(counts: NDArray[np.int64], levels: NDArray[np.int64], confidence: float) -> Mapping[str, NDArray[Any]]:
    both, only_first, only_second, neither = counts.T
    n = counts.sum(1)
    low, high = paired_difference_interval(both, only_first, only_second, neither, confidence)
    p = mcnemar_exact(only_first, only_second)
    return {
        "n": n, "both_right": both, "only_first": only_first, "only_second": only_second, "both_wrong": neither,
        "acc_first": (both + only_first) / n, "acc_second": (both + only_second) / n,
        "difference": (only_second - only_first) / n, "low": low, "high": high,
        "mcnemar_p": p, "q_bh": adjust_within(p, levels, "bh"),
    }  # fmt: skip


def _verdict(row: Row, alpha: float, min_group_size: int) -> str:
    if row["n"] < min_group_size:
        return "insufficient_data"
    if row["q_bh"] > alpha or row["difference"] == 0:
        return "no_evidence"
    return "better" if row["difference"] > 0 else "worse"

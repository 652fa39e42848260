"""Several evaluations of the same pictures compared in pairs (ours): differences with intervals from resampled pictures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runner.context import StepContext
from runner.errors import DataError
from runner.nodes.sem.evaluating import Figures, figures
from runner.nodes.sem.intervals_folds import cluster_codes, percentile_interval, resample_images
from runner.nodes.sem.texts_gathering import shown

Row = dict[str, Any]
IntArray = NDArray[np.int64]


Key = tuple[str, str, str]
"""Dataset, attribute, ``evaluation/method``."""

_KEY = ("dataset", "attribute", "method")
_SHARED = ("target", "value", "n")


def read_answers(tables: Mapping[str, pa.Table]) -> dict[Key, pa.Table]:
    """Rows of ``ANSWERS`` by dataset, attribute and ``evaluation/method``, in the order of the evaluations."""
    found = {}
    for evaluation, table in tables.items():
        for key in table.group_by(list(_KEY), use_threads=False).aggregate([]).to_pylist():
            mine = [pc.equal(table.column(name), key[name]) for name in _KEY]
            rows = table.filter(functools.reduce(pc.and_, mine))
            found[key["dataset"], key["attribute"], f"{evaluation}/{key['method']}"] = rows
    return found


def compare_rows(
    ctx: StepContext, tables: Mapping[str, pa.Table], reference: str | None, draws: int, seed: int
) -> list[Row]:
    """Rows of ``debias_compare``: everything against ``reference`` (``evaluation/method``; default: the first, vanilla if there).

    Raises ``DataError`` where nothing can be compared, or the reference is unknown.
    """
    found = read_answers(tables)
    every = list(dict.fromkeys(name for _, _, name in found))
    if len(every) < 2:
        raise DataError("there is nothing to compare: give evaluations of debias.zero_shot with two methods in all")
    first = _reference(every, reference)
    rows = []
    for (dataset, attribute, name), answers in found.items():
        base = found.get((dataset, attribute, first))
        if name == first or base is None:
            continue
        rows += _compared(
            ctx,
            base,
            answers,
            {"dataset": dataset, "attribute": attribute, "first": first, "second": name},
            draws,
            seed,
        )
    if not rows:
        raise DataError("the evaluations share no dataset and attribute with the reference")
    return rows


def _reference(every: list[str], wanted: str | None) -> str:
    if wanted is None:
        evaluation = every[0].rpartition("/")[0]
        return f"{evaluation}/vanilla" if f"{evaluation}/vanilla" in every else every[0]
    if wanted not in every:
        raise DataError(f"reference: there is no {shown(wanted)}", hint=f"There are: {', '.join(every)[:500]}.")
    return wanted


def _compared(ctx: StepContext, first: pa.Table, second: pa.Table, who: Row, draws: int, seed: int) -> list[Row]:
    places = pc.index_in(second.column("sample_id"), value_set=first.column("sample_id"))
    one, other = first.take(places.drop_null()), second.filter(pc.is_valid(places))
    lost = len(first) + len(second) - 2 * len(one)
    if not len(one):
        raise DataError(f"{who['first']} and {who['second']} share no picture of {shown(who['dataset'])}")
    if lost:
        ctx.warn(f"{lost} pictures stand in one of {who['first']} and {who['second']} only and are left out")
    _check_same(who, one, other)
    return _difference_rows(one, other, who, draws, seed, _clusters(ctx, who, one, other))


def _check_same(who: Row, one: pa.Table, other: pa.Table) -> None:
    """Raise ``DataError`` where the evaluations disagree on a picture's group, or on how often it was evaluated."""
    same = functools.reduce(pc.and_, [pc.equal(one.column(name), other.column(name)) for name in _SHARED])
    if not pc.all(same).as_py():
        wrong = one.column("sample_id")[pc.index(same, False).as_py()].as_py()
        raise DataError(
            f"{who['first']} and {who['second']} differ on class, value or halves of the picture {shown(wrong)}",
            hint="Evaluate with the same target, attribute, split, folds, val_fraction and seed.",
        )


def _clusters(ctx: StepContext, who: Row, one: pa.Table, other: pa.Table) -> IntArray | None:
    """Numbers of the clusters of the pictures, [n]; None where one side has none. Raises ``DataError`` where they differ."""
    first, second = (side.column("cluster").to_pylist() for side in (one, other))
    named = [any(name is not None for name in names) for names in (first, second)]
    if not all(named):
        if any(named):
            ctx.warn(f"only one of {who['first']} and {who['second']} has clusters: pictures are resampled one by one")
        return None
    codes = cluster_codes(first)
    if first != second or int(codes.max()) == 0:
        wrong = "have different clusters" if first != second else "share pictures of one cluster only"
        raise DataError(f"{who['first']} and {who['second']} {wrong}", hint="Evaluate both with the same `cluster`.")
    return codes


def _difference_rows(
    one: pa.Table, other: pa.Table, who: Row, draws: int, seed: int, clusters: IntArray | None
) -> list[Row]:
    targets, values = (_codes(one.column(name)) for name in ("target", "value"))
    group = np.unique(np.stack([targets, values], 1), axis=0, return_inverse=True)[1].ravel()
    tries = one.column("n").to_numpy().astype(np.int64)
    hits = np.stack([side.column("correct").to_numpy().astype(np.int64) for side in (one, other)])
    n = np.bincount(group, tries)
    first, second = (figures(n, np.bincount(group, own)) for own in hits)
    drawn = resample_images(tries, hits, group, cluster=clusters, draws=draws, seed=seed)
    who = {**who, "clusters": None if clusters is None else int(clusters.max()) + 1}
    rows = []
    for metric, draw in zip(Figures._fields, drawn, strict=True):
        before, after = float(getattr(first, metric)), float(getattr(second, metric))
        interval = percentile_interval(after - before, draw[:, 1] - draw[:, 0], len(one))
        numbers = {"first_value": before, "second_value": after, "difference": after - before}
        rows.append(
            {**who, "metric": metric, **numbers, "ci_low": interval.low, "ci_high": interval.high, "n": interval.n}
        )
    return rows


def _codes(column: Any) -> IntArray:
    """Equal texts as equal numbers."""
    codes: IntArray = column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes

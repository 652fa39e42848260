"""Rows of ``leak_probe``, ``leak_summary``, ``leak_pair`` from the probe tables of one layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.nodes.leakage.metrics import attributes_in, mean_of, pair_matrix, terms_of_one, terms_of_two
from runner.nodes.leakage.probe_material import SINGLE, TWO_STAGE, Material
from runner.nodes.leakage.probe_tables import ProbeTable, reason_text
from runner.nodes.leakage.probing import VERSUS
from runner.nodes.leakage.resampling import Form, interval

Row = dict[str, Any]
CHANCE = {"auroc": 0.5, "ap": 0.0}
"""What a probe that knows nothing scores, by metric."""


class Frame(NamedTuple):
    """What all rows of a material share."""

    material: Material
    min_pos: int
    resamples: int
    form: Form

    @property
    def keys(self) -> Row:
        """Dataset and model."""
        return {"dataset": self.material.dataset, "model": self.material.model["name"]}


def probe_rows(frame: Frame, table: ProbeTable) -> list[Row]:
    """One row a source and attribute."""
    material, P = frame.material, len(frame.material.parts)
    own = torch.zeros(len(material.sources), len(material.attributes), dtype=torch.bool)
    own[:P] = material.owned.cpu()
    averaged = _averaged(material, table).cpu()
    shared = {**frame.keys, "extractor": table.name, "layer": table.layer, "probe": table.kind}
    columns = {n: getattr(table, n).tolist() for n in ("auroc", "ap", "base", "penalty", "n_train", "n_test", "reason")}
    mine, counted = own.tolist(), averaged.tolist()
    return [
        shared
        | {"source_part": source, "attribute": attribute, "owner_part": material.owner_names[a]}
        | {"is_own": mine[s][a], "averaged": counted[s][a]}
        | {
            "n_train": columns["n_train"][s][a],
            "n_test": columns["n_test"][s][a],
            "base_rate": _null(columns["base"][s][a]),
        }
        | {name: _null(columns[name][s][a]) for name in ("penalty", "auroc", "ap")}
        | {"skipped_reason": reason_text(columns["reason"][s][a], frame.min_pos)}
        for s, source in enumerate(material.sources)
        for a, attribute in enumerate(material.attributes)
    ]


def _averaged(material: Material, table: ProbeTable) -> Tensor:
    """Bool [S, A]: the score enters the averages ``own`` or ``cross`` of the parts."""
    P = len(material.parts)
    entered = torch.zeros_like(table.auroc, dtype=torch.bool)
    for measured in _of_parts(material, table.name, table, "auroc"):
        if measured.measure in ("own", "cross"):
            entered[:P] |= measured.cells[:P]
    return entered


def _null(value: float) -> float | None:
    return None if value != value else value


def pair_rows(frame: Frame, table: ProbeTable) -> list[Row]:
    """One row a source and owner part that has attributes in the averages."""
    material, P = frame.material, len(frame.material.parts)
    value = pair_matrix(table.auroc, material.owner, P)
    low, high = _limits(pair_matrix(_drawn(table, "auroc"), material.owner, P), value)
    known = table.auroc.isfinite()
    shared = {**frame.keys, "extractor": table.name, "layer": table.layer, "probe": table.kind}
    owners = [q for q in range(P) if bool((material.owner == q).any())]
    return [
        shared
        | {"source_part": source, "owner_part": material.parts[q], "auroc_mean": _null(value[s, q].item())}
        | {"ci_low": _null(low[s, q].item()), "ci_high": _null(high[s, q].item())}
        | {"n_attributes": int(known[s, material.owner == q].sum())}
        for s, source in enumerate(material.sources)
        for q in owners
    ]


def _drawn(table: ProbeTable, metric: str) -> Tensor:
    """Replicates [B, S, A] in float64; B is 0 for a metric that was not asked for."""
    found = table.replicates.get(metric)
    return table.auroc.new_zeros((0, *table.auroc.shape)) if found is None else found.double()


def _limits(replicates: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Percentile limits, NaN where there is no value or no resample."""
    if not len(replicates):
        return torch.full_like(value, torch.nan), torch.full_like(value, torch.nan)
    low, high = interval(replicates)
    return torch.where(value.isnan(), torch.nan, low), torch.where(value.isnan(), torch.nan, high)


class Measured(NamedTuple):
    """One measure: ``terms`` [..., A] it is the mean of, its replicates' terms [B, ..., A], the ``cells`` bool [S, A] of the table
    that enter, and how many test pictures each was scored on, ``n_test`` int64 [S, A]."""

    extractor: str
    versus: str | None
    measure: str
    terms: Tensor
    replicates: Tensor
    cells: Tensor
    n_test: Tensor


def summary_rows(frame: Frame, tables: list[ProbeTable], metric: str) -> list[Row]:
    """Measures of each extractor and of the comparisons in ``VERSUS``, by one metric."""
    by_name = {table.name: table for table in tables if table.beside is None}
    beside = {(table.name, table.beside or ""): table for table in tables if table.beside is not None}
    rows = []
    for measured in _measures(frame.material, by_name, beside, metric):
        table = by_name.get(measured.extractor, tables[0])
        rows.append(_summary_row(frame, table, metric, measured))
    return rows


def _summary_row(frame: Frame, table: ProbeTable, metric: str, measured: Measured) -> Row:
    value = mean_of(measured.terms, 0)
    low, high = _limits(mean_of(measured.replicates, 1), value)
    scored = measured.n_test[measured.cells]
    return {
        **frame.keys, "extractor": measured.extractor, "versus": measured.versus, "layer": table.layer, "probe": table.kind,
        "metric": metric, "measure": measured.measure, "value": _null(value.item()), "ci_low": _null(low.item()),
        "ci_high": _null(high.item()), "n_attributes": attributes_in(measured.terms),
        "n_test": int(scored.max()) if len(scored) else 0, "resamples": frame.resamples,
        "n_groups": frame.material.n_groups, "bootstrap": frame.form if frame.resamples else None,
    }  # fmt: skip


def _measures(
    material: Material, tables: dict[str, ProbeTable], beside: dict[tuple[str, str], ProbeTable], metric: str
) -> Iterator[Measured]:
    P = len(material.parts)
    for name, table in tables.items():
        yield from _of_parts(material, name, table, metric)
        if name in (SINGLE, TWO_STAGE):
            for s in range(P, len(material.sources)):
                yield _of_source(material, name, table, s, metric)
    for (first, second), measures in VERSUS.items():
        if first in tables and second in tables:
            one = beside.get((first, second), tables[first])
            yield from _of_pair(material, one, beside.get((second, first), tables[second]), measures, metric)
    if SINGLE in tables and TWO_STAGE in tables:
        for s in range(P, len(material.sources)):
            yield _beyond(material, tables[SINGLE], tables[TWO_STAGE], s, metric)


def _of_parts(material: Material, name: str, table: ProbeTable, metric: str) -> Iterator[Measured]:
    """own, cross, locality_gap, leak_ratio of the parts.

    A control without own scores (labels of a part do not predict themselves) has cross alone, over all its attributes.
    """
    P = len(material.parts)
    point, drawn = table.points(metric), _drawn(table, metric)
    if bool(point[:P][_owned(material)].isfinite().any()) or not bool(point[:P].isfinite().any()):
        terms = terms_of_one(point[:P], material.owner, CHANCE[metric])
        again = terms_of_one(drawn[:, :P], material.owner, CHANCE[metric])
        for m in terms:
            yield Measured(name, None, m, terms[m], again[m], _cells(material, m, point, terms[m]), table.n_test)
    else:
        others = ~_owned(material) & (material.owner >= 0)
        term, again_ = (torch.where(others, t[..., :P, :], torch.nan).nanmean(-2) for t in (point, drawn))
        yield Measured(name, None, "cross", term, again_, _cells(material, "cross", point, term), table.n_test)


def _of_pair(
    material: Material, one: ProbeTable, other: ProbeTable, measures: tuple[str, ...], metric: str
) -> Iterator[Measured]:
    """Measures of two tables whose probes were fitted and scored on the same pictures."""
    P = len(material.parts)
    first, second = one.points(metric), other.points(metric)
    point = terms_of_two(first[:P], second[:P], material.owner)
    drawn = terms_of_two(_drawn(one, metric)[:, :P], _drawn(other, metric)[:, :P], material.owner)
    for m in measures:
        cells = _cells(material, m, first + second, point[m])
        yield Measured(one.name, other.name, m, point[m], drawn[m], cells, one.n_test)


_OF_OWN, _OF_OTHERS = ("own", "own_delta"), ("cross", "excess_leakage")


def _cells(material: Material, measure: str, points: Tensor, terms: Tensor) -> Tensor:
    """Bool [S, A]: the cells of ``points`` [S, A] that ``terms`` [A] or [P, A] are made of."""
    P = len(material.parts)
    mine = _owned(material)
    where = mine if measure in _OF_OWN else ~mine if measure in _OF_OTHERS else torch.ones_like(mine)
    cells = torch.zeros_like(points, dtype=torch.bool)
    cells[:P] = where & (material.owner >= 0) & points[:P].isfinite() & terms.isfinite()
    return cells


def _of_source(material: Material, extractor: str, table: ProbeTable, source: int, metric: str) -> Measured:
    """cross of ``whole`` and ``background`` under their own names."""
    point, drawn = (_row(material, t, source) for t in (table.points(metric), _drawn(table, metric)))
    name = source_name(extractor, material.sources[source])
    return Measured(name, None, "cross", point, drawn, _cells_of_source(table, source, point), table.n_test)


def _cells_of_source(table: ProbeTable, source: int, terms: Tensor) -> Tensor:
    cells = torch.zeros_like(table.auroc, dtype=torch.bool)
    cells[source] = terms.isfinite()
    return cells


def _owned(material: Material) -> Tensor:
    return torch.arange(len(material.parts), device=material.owner.device)[:, None] == material.owner


def _row(material: Material, table: Tensor, source: int) -> Tensor:
    return torch.where(material.owner >= 0, table[..., source, :], torch.nan)


def _beyond(material: Material, single: ProbeTable, two: ProbeTable, source: int, metric: str) -> Measured:
    """What ``whole`` or ``background`` knows from outside its own pixels."""
    point = _row(material, single.points(metric) - two.points(metric), source)
    drawn = _row(material, _drawn(single, metric) - _drawn(two, metric), source)
    names = [source_name(name, material.sources[source]) for name in (SINGLE, TWO_STAGE)]
    return Measured(
        names[0], names[1], "excess_leakage", point, drawn, _cells_of_source(single, source, point), single.n_test
    )


def source_name(extractor: str, source: str) -> str:
    """``whole``, ``background`` in the summary: single-stage ones by themselves, others after their extractor."""
    return source if extractor == SINGLE else f"{extractor}_{source}"

"""Rows of ``leak_probe``, ``leak_summary``, ``leak_pair`` from the probe tables of one layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.nodes.leakage.metrics import attributes_in, mean_of, pair_matrix, terms_of_one, terms_of_two
from runner.nodes.leakage.probe_material import SINGLE, TWO_STAGE, Material
from runner.nodes.leakage.probe_tables import SCORED, ProbeTable, reason_text
from runner.nodes.leakage.probing import DECORRELATED
from runner.nodes.leakage.resampling import interval

Row = dict[str, Any]
CHANCE = {"auroc": 0.5, "ap": 0.0}
"""What a probe that knows nothing scores, by metric."""

NO_ARTEFACTS, RANDOM_REGION, MASK_ONLY = "no_artefacts", "random_region", "mask_only"
VERSUS = {
    (SINGLE, TWO_STAGE): ("excess_leakage", "normalised_leakage", "own_delta"),
    (NO_ARTEFACTS, TWO_STAGE): ("excess_leakage", "normalised_leakage", "own_delta"),
    (DECORRELATED[SINGLE], DECORRELATED[TWO_STAGE]): ("excess_leakage",),
    (SINGLE, NO_ARTEFACTS): ("excess_leakage", "own_delta"),
    (SINGLE, RANDOM_REGION): ("excess_leakage", "own_delta"),
    (TWO_STAGE, MASK_ONLY): ("excess_leakage", "own_delta"),
}
"""What is compared, (extractor, versus), and by which measures. ``excess_leakage`` is the mean of extractor minus versus over
pairs of a part and another part's attribute, ``own_delta`` versus minus extractor on the parts' own attributes. Against
``no_artefacts``: what high-norm tokens hold; ``random_region``: whether it matters where the region lies; ``mask_only``: what
a part's pixels tell beyond its silhouette."""


class Frame(NamedTuple):
    """What all rows of a material share."""

    material: Material
    min_pos: int
    resamples: int

    @property
    def keys(self) -> Row:
        """Dataset and model."""
        return {"dataset": self.material.dataset, "model": self.material.model["name"]}


def probe_rows(frame: Frame, table: ProbeTable) -> list[Row]:
    """One row a source and attribute."""
    material, P = frame.material, len(frame.material.parts)
    own = torch.zeros(len(material.sources), len(material.attributes), dtype=torch.bool)
    own[:P] = material.owned.cpu()
    averaged = (material.owner.cpu() >= 0) & (torch.arange(len(own)) < P)[:, None] & (table.reason.cpu() == SCORED)
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
    """One measure: ``terms`` [..., A] it is the mean of, and its replicates' terms [B, ..., A]."""

    extractor: str
    versus: str | None
    measure: str
    terms: Tensor
    replicates: Tensor


def summary_rows(frame: Frame, tables: list[ProbeTable], metric: str) -> list[Row]:
    """Measures of each extractor and of the comparisons in ``VERSUS``, by one metric."""
    by_name = {table.name: table for table in tables}
    rows = []
    for measured in _measures(frame.material, by_name, metric):
        table = by_name.get(measured.extractor, tables[0])
        rows.append(_summary_row(frame, table, metric, measured))
    return rows


def _summary_row(frame: Frame, table: ProbeTable, metric: str, measured: Measured) -> Row:
    value = mean_of(measured.terms, 0)
    low, high = _limits(mean_of(measured.replicates, 1), value)
    return {
        **frame.keys, "extractor": measured.extractor, "versus": measured.versus, "layer": table.layer, "probe": table.kind,
        "metric": metric, "measure": measured.measure, "value": _null(value.item()), "ci_low": _null(low.item()),
        "ci_high": _null(high.item()), "n_attributes": attributes_in(measured.terms),
        "n_test": len(frame.material.test), "resamples": frame.resamples,
    }  # fmt: skip


def _measures(material: Material, tables: dict[str, ProbeTable], metric: str) -> Iterator[Measured]:
    P = len(material.parts)
    for name, table in tables.items():
        yield from _of_one(material, name, table, metric)
    for (first, second), measures in VERSUS.items():
        if first in tables and second in tables:
            one, other = tables[first], tables[second]
            point = terms_of_two(one.points(metric)[:P], other.points(metric)[:P], material.owner)
            drawn = terms_of_two(_drawn(one, metric)[:, :P], _drawn(other, metric)[:, :P], material.owner)
            yield from (Measured(first, second, m, point[m], drawn[m]) for m in measures)
    if SINGLE in tables and TWO_STAGE in tables:
        for s in range(P, len(material.sources)):
            yield _beyond(material, tables[SINGLE], tables[TWO_STAGE], s, metric)


def _of_one(material: Material, name: str, table: ProbeTable, metric: str) -> Iterator[Measured]:
    """own, cross, locality_gap, leak_ratio of the parts; cross of ``whole`` and ``background`` under their own names.

    A control without own scores (labels of a part do not predict themselves) has cross alone, over all its attributes.
    """
    P = len(material.parts)
    point, drawn = table.points(metric), _drawn(table, metric)
    if bool(point[:P][_owned(material)].isfinite().any()) or not bool(point[:P].isfinite().any()):
        terms = terms_of_one(point[:P], material.owner, CHANCE[metric])
        again = terms_of_one(drawn[:, :P], material.owner, CHANCE[metric])
        yield from (Measured(name, None, m, terms[m], again[m]) for m in terms)
    else:
        others = ~_owned(material) & (material.owner >= 0)
        yield Measured(
            name, None, "cross", *(torch.where(others, t[..., :P, :], torch.nan).nanmean(-2) for t in (point, drawn))
        )
    if name in (SINGLE, TWO_STAGE):
        for s in range(P, len(material.sources)):
            yield Measured(
                source_name(name, material.sources[s]), None, "cross", *(_row(material, t, s) for t in (point, drawn))
            )


def _owned(material: Material) -> Tensor:
    return torch.arange(len(material.parts), device=material.owner.device)[:, None] == material.owner


def _row(material: Material, table: Tensor, source: int) -> Tensor:
    return torch.where(material.owner >= 0, table[..., source, :], torch.nan)


def _beyond(material: Material, single: ProbeTable, two: ProbeTable, source: int, metric: str) -> Measured:
    """What ``whole`` or ``background`` knows from outside its own pixels."""
    point = _row(material, single.points(metric) - two.points(metric), source)
    drawn = _row(material, _drawn(single, metric) - _drawn(two, metric), source)
    names = [source_name(name, material.sources[source]) for name in (SINGLE, TWO_STAGE)]
    return Measured(names[0], names[1], "excess_leakage", point, drawn)


def source_name(extractor: str, source: str) -> str:
    """``whole``, ``background`` in the summary: single-stage ones by themselves, others after their extractor."""
    return source if extractor == SINGLE else f"{extractor}_{source}"

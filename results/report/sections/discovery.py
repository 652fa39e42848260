"""Parts found from attribute labels alone: measures by architecture, what each slot found, losses, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report.drawn import overlays
from results.report.page import Part, Request, Section
from results.report.sections.leakage import grouped

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(["discover_epoch", "discover_metrics", "discover_slots", "discover_picture"])
METRICS: Mapping[str, tuple[str, bool]] = {
    "nmi": ("Keypoint NMI", True),
    "ari": ("Keypoint ARI", True),
    "dense_nmi": ("Dense NMI", True),
    "dense_ari": ("Dense ARI", True),
    "keypoint_error": ("Keypoint error", False),
    "pointing": ("Pointing", True),
    "miou": ("Mean IoU", True),
    "foreground_iou": ("Foreground IoU", True),
    "attribute_map": ("Attribute mAP", True),
    "class_top1": ("Class top-1", True),
}
"""Title, and whether more is better; others are shown with their name."""
HUNDREDS = frozenset(["nmi", "ari", "dense_nmi", "dense_ari", "keypoint_error"])
KEYS = ("variant", "step", "dataset", "model")

VALUES = """
SELECT variant, step, dataset, model, arch, slots, routing, metric, avg(value) AS value, stddev_samp(value) AS sd,
       count(DISTINCT seed) AS seeds, CASE WHEN count(*) = 1 THEN any_value(ci_low) END AS ci_low,
       CASE WHEN count(*) = 1 THEN any_value(ci_high) END AS ci_high, max(n) AS n
FROM discover_metrics WHERE run_id = $run GROUP BY variant, step, dataset, model, arch, slots, routing, metric
ORDER BY variant, step, dataset, model, slots, routing, arch, metric
"""
SLOTS = """
SELECT * FROM discover_slots WHERE run_id = $run ORDER BY variant, step, dataset, model, arch, seed, slot
"""
LOSSES = """
SELECT variant, step, dataset, model, arch, seed, term, arg_min(value, epoch) AS first, arg_max(value, epoch) AS last,
       max(epoch) AS epochs
FROM discover_epoch WHERE run_id = $run GROUP BY variant, step, dataset, model, arch, seed, term
ORDER BY variant, step, dataset, model, arch, seed, term != 'total', term
"""
PICTURES = """
SELECT variant, step, dataset, model, arch, seed, sample_id, overlay, slots AS names, colours FROM discover_picture WHERE run_id = $run
QUALIFY row_number() OVER (PARTITION BY variant, step, dataset, model, arch, seed ORDER BY sample_id) <= $examples
ORDER BY variant, step, dataset, model, arch, seed, sample_id
"""


@dataclass(frozen=True)
class Found:
    """All rows of a run's part discovery."""

    values: list[Row]
    slots: list[Row]
    losses: list[Row]
    pictures: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where no parts were looked for."""
    of_run: dict[str, Any] = {"run": request.run_id}
    rows = [read(sql, of_run).to_pylist() for sql in (VALUES, SLOTS, LOSSES)]
    rows.append(read(PICTURES, {**of_run, "examples": request.examples}).to_pylist())
    found = Found(*rows)
    return found if any(vars(found).values()) else None


def parts(found: Found) -> list[Part]:
    """Measures by architecture, slots, losses; then the pictures."""
    made = []
    if found.values or found.slots or found.losses:
        variables = {"boards": list(boards(found.values)), "metrics": METRICS, "hundreds": HUNDREDS, "slots": _by_training(found.slots),
                     "losses": _by_training(found.losses)}  # fmt: skip
        made.append(Part("discovery", "Parts found from attributes", "discovery.html.jinja", variables))
    if found.pictures:
        figures = list(overlays(found.pictures, (*KEYS, "arch", "seed")))
        made.append(Part("discovery-pictures", "What the slots look at", "discovery_pictures.html.jinja", {"figures": figures}))  # fmt: skip
    return made


def boards(rows: Iterable[Row]) -> Iterator[Row]:
    """One table a dataset and backbone: a line an architecture, a column a metric; the best of a column is marked."""
    for place, own in grouped(rows, KEYS):
        there = {row["metric"] for row in own}
        metrics = [m for m in METRICS if m in there] + sorted(there - METRICS.keys())
        lines = {key: {row["metric"]: row for row in cells} for key, cells in _lines(own)}
        yield {**place, "metrics": metrics, "lines": lines, "best": _best(lines.values(), metrics)}


def _lines(rows: Iterable[Row]) -> Iterator[tuple[tuple[str, int, str], list[Row]]]:
    for place, own in grouped(rows, ("arch", "slots", "routing")):
        yield (place["arch"], place["slots"], place["routing"]), own


def _best(lines: Iterable[Mapping[str, Row]], metrics: Iterable[str]) -> dict[str, float]:
    best = {}
    lines = list(lines)
    for metric in metrics:
        values = [cells[metric]["value"] for cells in lines if metric in cells and cells[metric]["value"] is not None]
        if len(values) > 1 and metric in METRICS:
            best[metric] = max(values) if METRICS[metric][1] else min(values)
    return best


def _by_training(rows: Iterable[Row]) -> list[Row]:
    return [{**place, "rows": own} for place, own in grouped(rows, (*KEYS, "arch", "seed"))]


SECTIONS = (Section("discovery", TABLES, collect, parts),)

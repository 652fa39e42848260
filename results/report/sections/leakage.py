"""Leakage of part vectors: the verdict in words, curves by depth, pairs of parts, controls, dependence without labels, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from results.report import charts
from results.report.drawn import overlays
from results.report.page import Part, Request, Section

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(
    ["part_attribute", "leak_parts", "leak_picture", "leak_probe", "leak_summary", "leak_pair", "leak_dependence",
     "leak_dependence_summary", "leak_attention", "leak_token_norm"]
)  # fmt: skip
LINES = (
    ("its own part", "own"),
    ("other parts", "cross"),
    ("other parts, from a vector that cannot leak", "cross_two"),
)
CONTROLS = {
    "single": "vectors pooled from one pass over the whole picture",
    "two_stage": "vectors computed from the part's pixels alone: they cannot leak",
    "whole": "the whole object in place of the part: the ceiling",
    "two_stage_whole": "the same from the object's pixels alone",
    "background": "everything but the object",
    "two_stage_background": "the same from those pixels alone",
    "random_region": "a random region of the object, as large as the part, beside it where there is room",
    "mask_only": "the shape of the part's mask on one colour",
    "no_artefacts": "single-stage without tokens of high norm (on flat backgrounds ordinary tokens go too)",
    "swap": "the part pasted into another picture, against its own labels",
    "swap_donor": "the same against the labels of the other picture: what follows them comes from outside the part",
    "decorrelate": "single-stage, test pictures weighted so that the part's own attributes tell nothing of the others",
    "decorrelate_two_stage": "the same for vectors that cannot leak",
    "label_only": "no picture: the part's own labels predict the others' (natural correlation)",
    "label_shuffle": "shuffled labels: must give 0.5",
}
SHEETS = ("single", "two_stage", "difference")
KEYS = ("variant", "step", "dataset", "model")

VERDICTS = "SELECT * FROM leakage_verdict WHERE run_id = $run ORDER BY variant, step, dataset, model, probe"
DEPTH = "SELECT * FROM leakage_by_depth WHERE run_id = $run ORDER BY variant, step, dataset, model, probe, layer"
MEASURES = """
SELECT * FROM leak_summary WHERE run_id = $run
QUALIFY layer = max(layer) OVER (PARTITION BY variant, step, dataset, model, probe, extractor)
ORDER BY variant, step, dataset, model, probe, metric, extractor, versus NULLS FIRST, measure
"""
PAIRS = """
SELECT * FROM leakage_pairs WHERE run_id = $run
QUALIFY layer = max(layer) OVER (PARTITION BY variant, step, dataset, model, probe)
ORDER BY variant, step, dataset, model, probe, source_part IN ('whole', 'background'), source_part, owner_part
"""
CONTROLLED = (
    "SELECT * FROM leakage_controls WHERE run_id = $run ORDER BY variant, step, dataset, model, place, extractor, probe"
)
SKIPPED = """
SELECT variant, step, dataset, model, skipped_reason, count(*) AS probes FROM leak_probe
WHERE run_id = $run AND skipped_reason IS NOT NULL GROUP BY ALL ORDER BY ALL
"""
DEPENDENCE = """
SELECT * FROM leakage_dependence WHERE run_id = $run ORDER BY variant, step, dataset, model, layer, part != 'all', part, extractor
"""
ATTENTION = """
SELECT variant, step, dataset, model, layer, head IS NULL AS rollout, avg(on_part) AS on_part, avg(on_object) AS on_object,
       avg(on_background) AS on_background, avg(on_prefix) AS on_prefix, avg(area) AS area, max(n) AS n
FROM leak_attention WHERE run_id = $run GROUP BY ALL ORDER BY variant, step, dataset, model, rollout, layer
"""
NORMS = "SELECT * FROM leak_token_norm WHERE run_id = $run ORDER BY variant, step, dataset, model, layer"
PRESENT = """
SELECT variant, step, dataset, model, part, count(*) AS pictures, count(*) FILTER (present) AS present,
       count(*) FILTER (present_two_stage) AS present_two_stage, median(n_patches) AS patches,
       median(n_patches_two_stage) AS patches_two_stage, any_value(rule) AS rule, any_value(rule_two_stage) AS rule_two_stage,
       mode(reason) AS reason
FROM leak_parts WHERE run_id = $run GROUP BY variant, step, dataset, model, part ORDER BY variant, step, dataset, model, part
"""
ATTRIBUTES = """
SELECT dataset, owner, count(DISTINCT attribute) AS attributes, count(DISTINCT attribute) FILTER (excluded IS NOT NULL) AS excluded,
       list(DISTINCT attribute ORDER BY attribute)[:8] AS some, mode(excluded) AS reason
FROM part_attribute WHERE run_id = $run GROUP BY dataset, owner ORDER BY dataset, owner
"""
PICTURES = """
SELECT variant, step, dataset, model, sample_id, picture, overlay, parts AS names, colours FROM leak_picture WHERE run_id = $run
QUALIFY row_number() OVER (PARTITION BY variant, step, dataset, model ORDER BY sample_id) <= $examples
ORDER BY variant, step, dataset, model, sample_id
"""


@dataclass(frozen=True)
class Found:
    """All rows of a run's leakage."""

    verdicts: list[Row]
    depth: list[Row]
    measures: list[Row]
    pairs: list[Row]
    controls: list[Row]
    skipped: list[Row]
    dependence: list[Row]
    attention: list[Row]
    norms: list[Row]
    present: list[Row]
    attributes: list[Row]
    pictures: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where the run has no part vectors and no parts."""
    of_run: dict[str, Any] = {"run": request.run_id}
    statements = (
        VERDICTS,
        DEPTH,
        MEASURES,
        PAIRS,
        CONTROLLED,
        SKIPPED,
        DEPENDENCE,
        ATTENTION,
        NORMS,
        PRESENT,
        ATTRIBUTES,
    )
    rows = [read(sql, of_run).to_pylist() for sql in statements]
    rows.append(read(PICTURES, {**of_run, "examples": request.examples}).to_pylist())
    found = Found(*rows)
    return found if any(vars(found).values()) else None


def parts(found: Found) -> list[Part]:
    """Verdict, depth, pairs, controls, dependence, parts and pictures."""
    made = []
    if found.verdicts:
        variables: dict[str, Any] = {"rows": found.verdicts, "measures": found.measures, "skipped": found.skipped}
        made.append(Part("leakage", "Do part vectors know the whole object?", "leakage_verdict.html.jinja", variables))
    if found.depth:
        made.append(Part("leakage-depth", "Leakage by depth", "leakage_depth.html.jinja", {"figures": list(curves(found.depth))}))  # fmt: skip
    if found.pairs:
        made.append(Part("leakage-pairs", "Which part knows which", "leakage_pairs.html.jinja", {"figures": list(sheets(found.pairs))}))  # fmt: skip
    if found.controls:
        boards = [{**place, "rows": rows} for place, rows in grouped(found.controls, KEYS)]
        made.append(Part("leakage-controls", "Controls", "leakage_controls.html.jinja", {"boards": boards, "what": CONTROLS}))  # fmt: skip
    if found.dependence or found.attention or found.norms:
        variables = {"boards": _dependence(found.dependence), "attention": found.attention, "norms": found.norms}
        made.append(Part("leakage-dependence", "What part vectors depend on, without labels", "leakage_dependence.html.jinja", variables))  # fmt: skip
    if found.present or found.pictures or found.attributes:
        variables = {
            "figures": list(overlays(found.pictures, KEYS)),
            "present": found.present,
            "attributes": found.attributes,
        }
        made.append(Part("leakage-parts", "The parts", "leakage_parts.html.jinja", variables))
    return made


def grouped(rows: Iterable[Row], keys: Iterable[str]) -> Iterator[tuple[Row, list[Row]]]:
    """What rows have in common, and the rows."""
    keys = tuple(keys)
    for values, own in groupby(rows, lambda r: tuple(r[k] for k in keys)):
        yield dict(zip(keys, values, strict=True)), list(own)


def curves(rows: Iterable[Row]) -> Iterator[Row]:
    """A chart a backbone and probe, where more than one layer was probed, and its numbers."""
    for place, own in grouped(rows, (*KEYS, "probe")):
        drawn = [
            {"name": name, "layer": row["layer"], "value": row[column], "low": row[f"{column}_low"], "high": row[f"{column}_high"]}
            for name, column in LINES
            for row in own
            if row[column] is not None
        ]  # fmt: skip
        yield {**place, "rows": own, "chart": charts.depth_chart(drawn) if len(own) > 1 and drawn else None}


def sheets(rows: Iterable[Row]) -> Iterator[Row]:
    """Heat maps of pairs of parts: single-stage, two-stage and the difference, where there are values."""
    for place, own in grouped(rows, (*KEYS, "probe", "layer")):
        drawn, owners = {}, {r["owner_part"] for r in own}
        for sheet in SHEETS:
            cells = [{"row": r["source_part"], "column": r["owner_part"], "value": r[sheet]} for r in own]
            if any(cell["value"] is not None for cell in cells):
                reach = (0.0, 0.5) if sheet == "difference" else (0.5, 1.0)
                drawn[sheet] = charts.heat_map(cells, reach=reach, signed=sheet == "difference")
        others = [r for r in own if r["source_part"] in owners - {r["owner_part"]} and r["difference"] is not None]
        others = [r for r in others if (r["single_low"] or 0) > 0.5]  # below chance, nothing is told
        most = max(others, key=lambda r: r["difference"], default=None)
        yield {**place, "sheets": drawn, "most": most}


def _dependence(rows: Iterable[Row]) -> list[Row]:
    """One table a backbone and layer: a line a part, both extractors side by side."""
    boards = []
    for place, own in grouped(rows, (*KEYS, "layer")):
        names = sorted({r["extractor"] for r in own}, key=lambda name: (name != "single", name))
        lines = {
            part: {r["extractor"]: r for r in own if r["part"] == part}
            for part in dict.fromkeys(r["part"] for r in own)
        }
        boards.append({**place, "extractors": names, "lines": lines})
    return boards


SECTIONS = (Section("leakage", TABLES, collect, parts),)

"""What CLIP's heads write: concept lists with coefficients and fidelity, singular values, judges, edits of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from results.report import charts
from results.report.page import Part, Request, Section
from results.report.scoreboard import pictured

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(
    [
        "sith_head",
        "sith_direction",
        "sith_code",
        "sith_concept",
        "sith_judgement",
        "sith_edit",
        "sith_effect",
        "sith_grounding",
    ]
)
DIRECTIONS = 8
"""Singular directions shown of each head."""
MOST_EDITS = 200
MOST_EFFECTS = 20
MOST_GROUNDED = 12

LISTS = f"""
SELECT l.*, j.score, j.theme, j.task
FROM (SELECT *, dense_rank() OVER (ORDER BY method != 'comp', k, coherence, method, step) AS setting_no FROM sith_concept_lists
      WHERE run_id = $run AND side = 'right' AND sign = 1 AND sv < {DIRECTIONS}) l
LEFT JOIN sith_judgement j ON j.run_id = l.run_id AND j.variant = l.variant AND j.layer = l.layer AND j.head = l.head
  AND j.sv = l.sv AND j.side = l.side AND j.sign = l.sign AND j.task IN ('coherence', 'concept_match', 'background', 'safety')
WHERE l.setting_no = 1
QUALIFY row_number() OVER (PARTITION BY l.variant, l.layer, l.head, l.sv ORDER BY j.task != 'coherence', j.task, j.step) = 1
ORDER BY l.variant, l.layer, l.head, l.sv
"""  # noqa: S608
HEADS = """
SELECT * FROM sith_head_scores WHERE run_id = $run AND side = 'right'
QUALIFY dense_rank() OVER (ORDER BY method != 'comp', k, coherence, method, step) = 1
ORDER BY variant, layer, head
"""
SETTINGS = """
SELECT method, k, coherence, count(*) AS directions, avg(fidelity) AS fidelity, avg(joint_cos) AS joint_cos,
       avg(atom_cosine) AS atom_cosine, avg(resid_norm) AS resid_norm, avg(n_active) AS n_active,
       count(*) FILTER (fidelity IS NULL) AS without
FROM sith_code WHERE run_id = $run AND side = 'right' GROUP BY method, k, coherence ORDER BY k, method, coherence
"""
SPECTRA = """
SELECT variant, model, layer, head, sv, sigma FROM sith_direction WHERE run_id = $run AND side = 'right'
QUALIFY dense_rank() OVER (PARTITION BY variant, layer, head, sv ORDER BY step) = 1
ORDER BY variant, layer, head, sv
"""
JUDGED = """
SELECT variant, step, task, judge, count(*) AS lists, avg(score) AS score, stddev_samp(score) AS sd, count(score) AS n,
       count(*) FILTER (status = 'unscored') AS unscored, count(*) FILTER (status = 'empty') AS empty
FROM sith_judgement WHERE run_id = $run GROUP BY variant, step, task, judge ORDER BY variant, step, task
"""
WORDS = """(SELECT DISTINCT ON (variant, layer, head, sv) variant, layer, head, sv, sigma, written FROM sith_concept_lists
           WHERE run_id = $run AND side = 'right' AND sign = 1
           ORDER BY variant, layer, head, sv, method != 'comp', k, coherence)"""
EDITED = f"""
SELECT e.*, c.written, count(*) OVER (PARTITION BY e.variant, e.step) AS changed FROM sith_edit e
LEFT JOIN {WORDS} c USING (variant, layer, head, sv)
WHERE e.run_id = $run AND e.multiplier != 1
QUALIFY row_number() OVER (PARTITION BY e.variant, e.step ORDER BY abs(e.multiplier - 1) * e.sigma_old DESC) <= {MOST_EDITS}
ORDER BY e.variant, e.step, abs(e.multiplier - 1) * e.sigma_old DESC, e.layer, e.head, e.sv
"""  # noqa: S608

EFFECTS = f"""
SELECT e.*, c.written FROM sith_effect e LEFT JOIN {WORDS} c USING (variant, layer, head, sv)
WHERE e.run_id = $run AND e.rank < {MOST_EFFECTS} ORDER BY e.variant, e.step, e.value, e.rank
"""  # noqa: S608
GROUNDED = f"""
SELECT g.*, c.sigma, c.written, i.thumbnail FROM sith_grounding g LEFT JOIN {WORDS} c USING (variant, layer, head, sv)
LEFT JOIN (SELECT variant, dataset, sample_id, any_value(thumbnail) AS thumbnail FROM dataset_image
           WHERE run_id = $run GROUP BY ALL) i USING (variant, dataset, sample_id)
WHERE g.run_id = $run AND g.side = 'right' AND i.thumbnail IS NOT NULL
QUALIFY dense_rank() OVER (PARTITION BY g.variant, g.step ORDER BY c.sigma DESC NULLS LAST, g.layer, g.head, g.sv) <= {MOST_GROUNDED}
ORDER BY g.variant, g.step, c.sigma DESC NULLS LAST, g.layer, g.head, g.sv, g.rank
"""  # noqa: S608


@dataclass(frozen=True)
class Found:
    """All rows of a run's heads."""

    lists: list[Row]
    heads: list[Row]
    settings: list[Row]
    spectra: list[Row]
    judged: list[Row]
    edited: list[Row]
    effects: list[Row]
    grounded: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where no head was decomposed, explained or edited."""
    of_run = {"run": request.run_id}
    statements = (LISTS, HEADS, SETTINGS, SPECTRA, JUDGED, EDITED, EFFECTS, GROUNDED)
    found = Found(*(read(sql, of_run).to_pylist() for sql in statements))
    return replace(found, grounded=[pictured(row) for row in found.grounded]) if any(vars(found).values()) else None


def parts(found: Found) -> list[Part]:
    """Concept lists by head, singular values, judges, and what was edited."""
    made = []
    if found.lists:
        variables = {"layers": list(layers(found)), "settings": found.settings, "shown": DIRECTIONS}
        made.append(Part("heads", "What the heads write", "heads_concepts.html.jinja", variables))
    if found.spectra:
        made.append(Part("spectra", "Singular values of the heads", "heads_spectra.html.jinja", {"figures": list(_spectra(found.spectra))}))  # fmt: skip
    if found.judged:
        made.append(Part("judges", "How concept lists were judged", "heads_judged.html.jinja", {"rows": found.judged}))
    if found.effects:
        made.append(Part("effects", "Directions that carry an attribute", "heads_effects.html.jinja", {"tables": list(_effects(found.effects)), "most": MOST_EFFECTS}))  # fmt: skip
    if found.grounded:
        made.append(Part("grounded", "Pictures along the strongest directions", "heads_grounded.html.jinja", {"rows": list(_grounded(found.grounded))}))  # fmt: skip
    if found.edited:
        variables = {"edits": {step: list(rows) for step, rows in groupby(found.edited, lambda r: (r["step"], r["variant"]))}, "most": MOST_EDITS}  # fmt: skip
        made.append(Part("edits", "What was changed in the weights", "heads_edits.html.jinja", variables))
    return made


def layers(found: Found) -> Iterator[Row]:
    """Each layer with its heads, each head with its scores and the concept lists of its first directions."""
    scores = {_place(row): row for row in found.heads}
    for (variant, layer), rows in groupby(found.lists, lambda r: (r["variant"], r["layer"])):
        heads = [
            {"head": head, "score": scores.get((variant, layer, head)), "directions": [_told(row) for row in own]}
            for head, own in groupby(rows, lambda r: r["head"])
        ]
        yield {"variant": variant, "layer": layer, "heads": heads}


def _place(row: Row) -> tuple[Any, ...]:
    return row["variant"], row["layer"], row["head"]


def _told(row: Row) -> Row:
    pairs = list(zip(row["concepts"] or [], row["coefficients"] or [], strict=True))
    return {**row, "pairs": pairs}


def _effects(rows: Iterable[Row]) -> Iterator[Row]:
    """One table a step, attribute and value; the mirror image of two values is left out."""
    seen: set[tuple[Any, ...]] = set()
    keys = ("variant", "step", "attribute", "value", "against", "evidence", "margin")
    for key, own in groupby(rows, lambda r: tuple(r[k] for k in keys)):
        place = dict(zip(keys, key, strict=True))
        mirrored = (place["variant"], place["step"], place["against"], place["value"])
        if mirrored not in seen:
            seen.add((place["variant"], place["step"], place["value"], place["against"]))
            yield {**place, "rows": list(own)}


def _grounded(rows: Iterable[Row]) -> Iterator[Row]:
    for (variant, step, layer, head, sv), own in groupby(rows, lambda r: (r["variant"], r["step"], r["layer"], r["head"], r["sv"])):  # fmt: skip
        pictures = list(own)
        yield {"variant": variant, "step": step, "layer": layer, "head": head, "sv": sv, "written": pictures[0]["written"], "pictures": pictures}  # fmt: skip


def _spectra(rows: Iterable[Row]) -> Iterator[Row]:
    """One chart a layer, one line a head."""
    for (variant, model, layer), own in groupby(rows, lambda r: (r["variant"], r["model"], r["layer"])):
        yield {"variant": variant, "model": model, "layer": layer, "chart": charts.spectrum_chart(list(own))}


SECTIONS = (Section("heads", TABLES, collect, parts),)

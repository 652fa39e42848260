"""Concept predictors under masking: does what they say of a part hang on that part?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report import charts
from results.report.page import Part, Request, Section
from results.report.sections.leakage import grouped

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(["leak_masked_answer", "leak_masking_response", "leak_locality"])
KEYS = ("variant", "step", "dataset", "predictor")
MOST_CONCEPTS = 60

VERDICTS = "SELECT * FROM masking_response WHERE run_id = $run ORDER BY variant, step, dataset, predictor"
RESPONSE = """
SELECT * FROM leak_masking_response WHERE run_id = $run ORDER BY variant, step, dataset, predictor, concept_part, masked_part
"""
CONCEPTS = f"""
SELECT variant, step, dataset, predictor, concept, any_value(value) FILTER (measure = 'own') AS own,
       any_value(value) FILTER (measure = 'other') AS other, any_value(value) FILTER (measure = 'locality_score') AS locality_score,
       any_value(ci_low) FILTER (measure = 'locality_score') AS locality_low,
       any_value(ci_high) FILTER (measure = 'locality_score') AS locality_high, max(n) AS n
FROM leak_locality WHERE run_id = $run AND concept IS NOT NULL AND measure IN ('own', 'other', 'locality_score')
GROUP BY variant, step, dataset, predictor, concept
QUALIFY row_number() OVER (PARTITION BY variant, step, dataset, predictor ORDER BY locality_score DESC NULLS LAST, concept) <= {MOST_CONCEPTS}
ORDER BY variant, step, dataset, predictor, locality_score DESC NULLS LAST, concept
"""  # noqa: S608
PERTURBED = """
SELECT variant, step, dataset, predictor, max(n) AS n,
       any_value(value) FILTER (measure = 'largest_change_outside') AS outside,
       any_value(ci_low) FILTER (measure = 'largest_change_outside') AS outside_low,
       any_value(ci_high) FILTER (measure = 'largest_change_outside') AS outside_high,
       any_value(value) FILTER (measure = 'largest_change_inside') AS inside,
       any_value(ci_low) FILTER (measure = 'largest_change_inside') AS inside_low,
       any_value(ci_high) FILTER (measure = 'largest_change_inside') AS inside_high
FROM leak_locality WHERE run_id = $run AND concept IS NULL AND measure IN ('largest_change_outside', 'largest_change_inside')
GROUP BY variant, step, dataset, predictor ORDER BY variant, step, dataset, predictor
"""
ANSWERS = """
SELECT variant, step, dataset, predictor, count(*) AS asked, count(value) AS answered, mode(reason) AS reason
FROM leak_masked_answer WHERE run_id = $run GROUP BY variant, step, dataset, predictor ORDER BY ALL
"""


@dataclass(frozen=True)
class Found:
    """All rows of a run's masked pictures."""

    verdicts: list[Row]
    response: list[Row]
    concepts: list[Row]
    perturbed: list[Row]
    answers: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where no part was hidden."""
    statements = (VERDICTS, RESPONSE, CONCEPTS, PERTURBED, ANSWERS)
    found = Found(*(read(sql, {"run": request.run_id}).to_pylist() for sql in statements))
    return found if any(vars(found).values()) else None


def parts(found: Found) -> list[Part]:
    """The sentence and score of each predictor, its heat map, its concepts."""
    variables = {"verdicts": found.verdicts, "maps": [_map(place, own) for place, own in grouped(found.response, KEYS)],
                 "concepts": [{**place, "rows": own} for place, own in grouped(found.concepts, KEYS)], "perturbed": found.perturbed, "answers": found.answers}  # fmt: skip
    return [Part("masking", "Do concepts look at their part?", "locality.html.jinja", variables)]


def _map(place: Row, rows: list[Row]) -> Row:
    cells = [{"row": r["concept_part"], "column": r["masked_part"], "value": r["mean_abs_change"]} for r in rows]
    largest = max((c["value"] for c in cells if c["value"] is not None), default=None)
    chart = charts.heat_map(cells, reach=(0.0, largest or 1.0)) if largest is not None else None
    return {**place, "chart": chart, "n": max(r["n"] for r in rows)}


SECTIONS = (Section("locality", TABLES, collect, parts),)

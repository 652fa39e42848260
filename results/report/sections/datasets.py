"""The classification datasets of a run: how many pictures and classes each split has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from results.report.page import Part, Request, Section
from results.report.scoreboard import Row

if TYPE_CHECKING:
    from results.store import Reader

SPLITS = """
SELECT dataset, split, count(DISTINCT sample_id) AS pictures, count(DISTINCT class_index) AS classes,
       list(DISTINCT target ORDER BY target)[:6] AS some
FROM dataset_image WHERE run_id = $run GROUP BY dataset, split
ORDER BY dataset, CASE split WHEN 'train' THEN 0 WHEN 'val' THEN 1 ELSE 2 END
"""


def collect(read: Reader, request: Request) -> list[Row] | None:
    """One row a dataset and split, or None where the run loaded none."""
    return read(SPLITS, {"run": request.run_id}).to_pylist() or None


def parts(rows: list[Row]) -> list[Part]:
    """One table."""
    return [Part("datasets", "The datasets", "datasets.html.jinja", {"rows": rows})]


SECTIONS = (Section("datasets", frozenset({"dataset_image"}), collect, parts),)

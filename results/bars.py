"""Bars for unattended use: does a run hold more verdicts of a kind than its spec allows?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from results.store import ResultsStore

_COUNTS = """
SELECT verdict, count(*) AS found FROM c2b_group WHERE run_id = $run GROUP BY verdict
UNION ALL
SELECT verdict, count(*) FROM c2b_comparison WHERE run_id = $run AND attribute IS NOT NULL AND verdict = 'worse' GROUP BY verdict
"""


def crossed_bars(store: ResultsStore, run_id: str, bars: Mapping[str, int]) -> list[str]:
    """One line for each bar that the run's verdicts reach. ``bars``: verdict -> number of rows from which it is crossed."""
    if not bars:
        return []
    found = {row["verdict"]: row["found"] for row in store.query(_COUNTS, {"run": run_id}).to_pylist()}
    return [
        f"fail_on: {found[verdict]} x {verdict} (the spec allows {bar - 1})"
        for verdict, bar in bars.items()
        if found.get(verdict, 0) >= bar
    ]

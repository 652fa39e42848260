"""What debiasing came to, for a terminal: methods by dataset, and before against after."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from results.console import safe
from results.report.words import score, score_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from results.store import ResultsStore

Row = dict[str, Any]
SCORES = "SELECT * FROM debias_scoreboard WHERE run_id = $run ORDER BY task DESC, variant, step, dataset, attribute, backbone, method"
COMPARED = "SELECT * FROM debias_compare WHERE run_id = $run ORDER BY variant, step, dataset, second, metric"
METRICS = {
    "zero_shot": ("accuracy", "worst_group", "gap"),
    "retrieval": ("kl", "max_skew", "precision"),
}


def debias_tables(store: ResultsStore, run_id: str) -> RenderableType | None:
    """Scores of each evaluation and what changed; None where the run debiased nothing."""
    from rich.console import Group

    of_run = {"run": run_id}
    scores, compared = (store.query(sql, of_run).to_pylist() for sql in (SCORES, COMPARED))
    tables = [_scores(list(rows)) for _, rows in groupby(scores, _place)]
    if compared:
        tables.append(_compared(compared))
    return Group(*tables) if tables else None


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("task", "variant", "step", "dataset", "attribute", "backbone"))


def _scores(rows: list[Row]) -> RenderableType:
    from rich.table import Table

    first = rows[0]
    metrics = [m for m in METRICS[first["task"]] if any(row[m] is not None for row in rows)]
    title = f"{first['dataset']}, {first['attribute']} ({first['task'].replace('_', '-')}, step {first['step']})"
    table = Table(title=safe(title), title_justify="left", pad_edge=False)
    table.add_column("method", overflow="fold")
    for name in metrics:
        table.add_column(name.replace("_", " "), justify="right")
        table.add_column("95 %", justify="right")
    for row in rows:
        table.add_row(safe(row["method"]), *(cell for metric in metrics for cell in _figure(row, metric)))
    return table


def _figure(row: Row, metric: str) -> tuple[str, str]:
    """Value and interval: shares in percent, divergences in nats."""
    value, low, high = row[metric], row[f"{metric}_low"], row[f"{metric}_high"]
    if metric not in ("kl", "max_skew"):
        return score(value), score_interval(low, high)
    return "" if value is None else f"{value:.3f}", "" if low is None else f"{low:.3f} to {high:.3f}"


def _compared(rows: list[Row]) -> RenderableType:
    from rich.table import Table

    table = Table(title="Against before, on the same pictures (in points)", title_justify="left", pad_edge=False)
    table.add_column("after", overflow="fold")
    for name in METRICS["zero_shot"]:
        table.add_column(name.replace("_", " "), justify="right")
        table.add_column("95 %", justify="right")
    for (_, step, second), own in groupby(rows, lambda r: (r["variant"], r["step"], r["second"])):
        found = {row["metric"]: row for row in own}
        cells = []
        for metric in METRICS["zero_shot"]:
            row = found.get(metric)
            cells += (
                ["", ""]
                if row is None
                else [f"{100 * row['difference']:+.1f}", score_interval(row["ci_low"], row["ci_high"])]
            )
        table.add_row(safe(second if len({r["step"] for r in rows}) == 1 else f"{step}: {second}"), *cells)
    return table

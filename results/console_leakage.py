"""What part vectors, concept predictors and discovered parts came to, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from results.console import plain_table, safe
from results.report.words import figure, figure_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from results.store import ResultsStore

Row = dict[str, Any]
LEAKAGE = "SELECT * FROM leakage_verdict WHERE run_id = $run ORDER BY variant, step, dataset, model, probe"
LOCALITY = "SELECT * FROM masking_response WHERE run_id = $run ORDER BY variant, step, dataset, predictor"
DISCOVERY = "SELECT * FROM discovery WHERE run_id = $run ORDER BY variant, step, dataset, model, slots, routing, arch"
VERDICTS = {
    "leaks": ("leaks", "bold red"),
    "none_found": ("none found", "bold green"),
    "local": ("local", "bold green"),
    "not_local": ("not local", "bold red"),
    "reversed": ("other parts matter more", "bold red"),
    "cannot_be_told": ("cannot be told", "dim"),
}
FOUND = ("nmi", "ari", "keypoint_error", "pointing", "miou", "attribute_map")


def leakage_tables(store: ResultsStore, run_id: str) -> RenderableType | None:
    """Leakage by backbone, locality by predictor, discovery by architecture; None where the run has none of them."""
    from rich.console import Group

    drawn = ((LEAKAGE, _leakage), (LOCALITY, _locality), (DISCOVERY, _discovery))
    rows = [(store.query(sql, {"run": run_id}).to_pylist(), table) for sql, table in drawn]
    tables = [table(found) for found, table in rows if found]
    return Group(*tables) if tables else None


def _leakage(rows: list[Row]) -> RenderableType:
    names, figures = (
        ("model", "dataset"),
        ("layer", "own part", "other parts", "others, cannot leak", "leakage", "95 %", "verdict"),
    )
    table = plain_table("What part vectors know (AUROC)", names, figures)
    for row in rows:
        word, style = VERDICTS[row["verdict"]]
        known = [figure(row[column]) for column in ("own", "cross", "cross_two", "excess")]
        interval = figure_interval(row["excess_low"], row["excess_high"])
        table.add_row(
            _named(row, "model"), safe(row["dataset"]), str(row["layer"]), *known, safe(interval), word, style=style
        )
    return table


def _locality(rows: list[Row]) -> RenderableType:
    names, figures = ("predictor", "dataset"), ("own part hidden", "another hidden", "locality", "95 %", "verdict")
    table = plain_table("How concepts change when a part is hidden", names, figures)
    for row in rows:
        word, style = VERDICTS[row["verdict"]]
        known = [figure(row[column]) for column in ("own", "other", "locality_score")]
        interval = figure_interval(row["locality_low"], row["locality_high"])
        table.add_row(_named(row, "predictor"), safe(row["dataset"]), *known, safe(interval), word, style=style)
    return table


def _discovery(rows: list[Row]) -> RenderableType:
    metrics = [metric for metric in FOUND if any(row[metric] is not None for row in rows)]
    table = plain_table(
        "Parts found from attributes", ("model", "dataset", "architecture"), tuple(m.replace("_", " ") for m in metrics)
    )
    for row in rows:
        told = f"{row['arch']}, {row['slots']} slots, {row['routing']}"
        table.add_row(
            _named(row, "model"), safe(row["dataset"]), safe(told), *(figure(row[metric]) for metric in metrics)
        )
    return table


def _named(row: Row, column: str) -> str:
    """The name, with its variant where there is one."""
    return safe(f"{row[column]} ({row['variant']})" if row["variant"] else row[column])

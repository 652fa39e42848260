"""What a run found, for a terminal: the verdict table and the way to the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from results.report import words
from runner.shown import on_one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from results.store import ResultsStore

LONGEST_NAME = 160
VERDICTS = "SELECT * FROM verdicts WHERE run_id = $run ORDER BY variant, target, attribute, phi"
COMPARISONS = "SELECT * FROM c2b_comparison WHERE run_id = $run ORDER BY variant, target NULLS FIRST, attribute NULLS FIRST, difference"
STYLES = {
    "disfavoured": "bold red",
    "favoured": "bold green",
    "held_back": "yellow",
    "no_evidence": "dim",
    "not_testable": "yellow",
}
WORDS = {
    "disfavoured": "worse",
    "favoured": "better",
    "no_evidence": "no evidence",
    "held_back": "held back",
    "not_testable": "not testable",
    "insufficient_data": "too few images",
    "undefined": "undefined",
}


def verdict_table(store: ResultsStore, run_id: str) -> RenderableType | None:
    """The groups of each assessment as a table, worst first within each attribute; None where the run holds no audit."""
    from rich.console import Group

    steps = _by_step(store.query(VERDICTS, {"run": run_id}).to_pylist())
    tables = [_verdicts(rows, step if len(steps) > 1 else None) for step, rows in steps.items()]
    return Group(*tables) if tables else None


def _by_step(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Assessments, or comparisons, in the order of their steps' names."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: str(row["step"])):
        found.setdefault(row["step"], []).append(row)
    return found


def _verdicts(rows: list[dict[str, Any]], step: str | None) -> RenderableType:
    from rich.table import Table

    truth = any(row["agreement"] is not None for row in rows)
    by_rounds = [row["stopped"] is not None for row in rows]
    title = "Where the classifier is better or worse" + (f": {safe(step)}" if step else "")
    table = Table(title=title, title_justify="left", pad_edge=False)
    for name in ("target", "attribute", "value"):
        table.add_column(name, overflow="fold")
    gap = "gaps excluded above" if all(by_rounds) else "gap seen from" + " / excluded above" * any(by_rounds)
    for name in ("n", "accuracy", "95 %", "bias", "95 %", "q", gap):
        table.add_column(name, justify="right")
    if any(by_rounds):
        table.add_column("stopped")
    table.add_column("verdict")
    if truth:
        for name in ("truth: on target", "accuracy", "bias", "verdict"):
            table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*_cells(row, truth, any(by_rounds)), style=STYLES.get(row["verdict"], ""))
    return table


def comparison_table(store: ResultsStore, run_id: str) -> RenderableType | None:
    """Two classifiers side by side on the same pictures; None where the run compares none."""
    from rich.console import Group

    steps = _by_step(store.query(COMPARISONS, {"run": run_id}).to_pylist())
    return Group(*map(_comparison, steps.values())) if steps else None


def _comparison(rows: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table

    first, second = safe(rows[0]["first"]), safe(rows[0]["second"])
    table = Table(title=f"{second} against {first}, on the same pictures", title_justify="left", pad_edge=False)
    for name in ("target", "attribute", "value"):
        table.add_column(name, overflow="fold")
    for name in ("n", first, second, "difference", "95 %", "q"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column(f"{second} is", overflow="fold")
    for row in rows:
        value = f"{row['value']} (measured)" if row["value_source"] == "measured" else row["value"]
        names = [row["target"] or "all", row["attribute"] or "", value or ""]
        figures = [str(row["n"]), _percent(row["acc_first"]), _percent(row["acc_second"]), _points(row["difference"])]
        figures += [_interval(row["low"], row["high"], signed=True), _number(row["q_bh"])]
        style = {"worse": "bold red", "better": "bold green"}.get(row["verdict"], "dim")
        table.add_row(*map(safe, names), *figures, WORDS.get(row["verdict"], row["verdict"]), style=style)
    return table


def _cells(row: dict[str, Any], truth: bool, by_rounds: bool) -> list[str]:
    value = f"{row['value']} (measured)" if row["value_source"] == "measured" else row["value"]
    cells = [*map(safe, (row["target"], row["attribute"], value)), _count(row)]
    cells += [_percent(row["acc"]), _interval(row["wilson_low"], row["wilson_high"])]
    cells += [_points(row["phi"]), _interval(row["phi_low"], row["phi_high"], signed=True)]
    cells += [_number(row["q_value"]), _points(row["min_detectable_gap"]).lstrip("+")]
    if by_rounds:
        cells += [words.STOPPED.get(row["stopped"], "")]
    cells += [WORDS.get(row["verdict"], row["verdict"])]
    if truth:
        cells += [_percent(row["true_target_precision"]), _percent(row["true_acc"]), _points(row["true_phi"])]
        cells += [row["agreement"] or ""]
    return cells


def _count(row: dict[str, Any]) -> str:
    """Images that were run, of those there were where they were taken by rounds."""
    return str(row["n"]) if row["available"] is None else f"{row['n']} of {row['available']}"


def plain_table(title: str, names: tuple[str, ...], figures: tuple[str, ...]) -> Table:
    """An empty table: columns of words that fold, then columns of figures to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right")
    return table


def safe(text: str) -> str:
    """A name of others as a cell: on one line, bounded, neither markup nor control characters."""
    from rich.markup import escape

    said = on_one_line(text)
    return escape(said if len(said) <= LONGEST_NAME else said[: LONGEST_NAME - 1] + "…")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.0f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    if low is None or high is None:
        return ""
    return f"{100 * low:+.0f} to {100 * high:+.0f}" if signed else f"{100 * low:.0f} to {100 * high:.0f}"

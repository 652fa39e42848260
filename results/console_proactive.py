"""Whether models ask for help, what they say in their own words, and how training to ask went, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from results.console import plain_table, safe
from results.report.sections.proactive import BAD, GOOD, MODES, WORDS, board
from results.report.sections.proactive_curves import COMPARED_AS, word
from results.report.sections.proactive_training import KEYS
from results.report.sections.vqa import grouped
from results.report.words import figure, figure_interval, percent, points, points_interval, score, score_interval, whole
from results.sweeps import VARIANTS, Sweep

if TYPE_CHECKING:
    from rich.console import RenderableType

    from results.store import ResultsStore

Row = dict[str, Any]
MOST_ROWS = 24
BOARD = """
SELECT b.*, a.verdict FROM proactive_scoreboard b
LEFT JOIN proactive_asking a USING (run_id, variant, step, model, mode, scenario)
WHERE run_id = $run AND b.acc IS NOT NULL AND list_contains($modes::VARCHAR[], b.mode)
ORDER BY b.variant, list_position($modes::VARCHAR[], b.mode), b.acc DESC, b.model
"""
OPEN = "SELECT * FROM proactive_scoreboard WHERE run_id = $run AND agg IS NOT NULL AND scenario = 'macro' ORDER BY variant, mode, agg DESC, model"
COMPARED = (
    "SELECT * FROM pb_compared WHERE run_id = $run AND scenario = 'macro' ORDER BY variant, model, other, mode, metric"
)
TRAINED = "SELECT * FROM grpo_curve WHERE run_id = $run ORDER BY variant, step, model, stretch"
UNSCORED = """
SELECT count(*) AS episodes, count(*) FILTER (status = 'error') AS errors FROM pb_episodes
WHERE run_id = $run AND NOT EXISTS (SELECT 1 FROM pb_metrics WHERE run_id = $run)
"""


def proactive_tables(store: ResultsStore, run_id: str) -> RenderableType | None:
    """Scores beside chance, answers in own words, comparisons, training; None where the run has none of them."""
    from rich.console import Group

    of_run = {"run": run_id}
    once = Sweep.of(store.query(VARIANTS, of_run).to_pylist()).once
    scores = once(store.query(BOARD, {**of_run, "modes": list(MODES)}).to_pylist(), ("step", "model", "mode"))
    drawn = [*_scores(scores)] if scores else []
    for sql, keys, table in DRAWN:
        rows = once(store.query(sql, of_run).to_pylist(), keys)
        if rows:
            drawn.append(table(rows))
    unscored = store.query(UNSCORED, of_run).to_pylist()[0]
    if unscored["episodes"]:
        drawn.append(
            f"{whole(unscored['episodes'])} episodes, {whole(unscored['errors'])} failed; proactive.score scores them"
        )
    return Group(*drawn) if drawn else None


def _scores(rows: list[Row]) -> list[RenderableType]:
    """Means over the scenarios with the verdict, then accuracies by scenario where there are several."""
    tables = []
    for mode in MODES:
        own = [r for r in rows if r["mode"] == mode]
        if not own:
            continue
        tables.append(_whole(mode, [r for r in own if r["scenario"] == "macro"] or own))
        if len({r["scenario"] for r in own}) > 2:
            tables.append(_places(own))
    return tables


def _whole(mode: str, rows: list[Row]) -> RenderableType:
    told = plain_table(_title(MODES[mode], rows), ("model", "what it does"), ("accuracy", "95 %", "chance", "requests met", "95 %", "episodes", "failed"))  # fmt: skip
    for row in rows[:MOST_ROWS]:
        verdict = row["verdict"]
        style = "bold green" if verdict in GOOD else "yellow" if verdict in BAD else None
        told.add_row(
            _named(row), WORDS.get(verdict, "") if verdict else "", _hundredth(row["acc"]), safe(_between(row["acc_low"], row["acc_high"])),
            _hundredth(row["uniform_acc"]), figure(row["psr"]), safe(figure_interval(row["psr_low"], row["psr_high"])), whole(row["n"]),
            whole(row["n_error"]), style=style,
        )  # fmt: skip
    return told


def _places(rows: list[Row]) -> RenderableType:
    found = board(rows)
    table = plain_table("Accuracy by scenario (95 %, episodes)", ("model",), tuple(n for n in found["columns"] if n != "macro"))  # fmt: skip
    for line in found["lines"][:MOST_ROWS]:
        table.add_row(_named(line), *(_cell(line["cells"].get(n)) for n in found["columns"] if n != "macro"))
    known = [found["chance"][n] for n in found["columns"] if n != "macro"]
    if any(known):
        table.add_row("chance", *(_hundredth(c["acc"]) if c else "" for c in known), style="dim")
    return table


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return safe(f"{_hundredth(row['acc'])} ({_between(row['acc_low'], row['acc_high'])}, {whole(row['n'])})")


def _open(rows: list[Row]) -> RenderableType:
    table = plain_table(_title("In its own words", rows), ("model",), ("asks", "95 %", "right", "95 %", "one of both", "95 %", "answers"))  # fmt: skip
    for row in rows[:MOST_ROWS]:
        cells = [c for n in ("ps", "cc", "agg") for c in (_hundredth(row[n]), safe(_between(row[f"{n}_low"], row[f"{n}_high"])))]  # fmt: skip
        table.add_row(_named(row), *cells, whole(row["n"]))
    return table


def _compared(rows: list[Row]) -> RenderableType:
    table = plain_table(_title("Side by side, means over scenarios", rows), ("model", "beside", "measure"), ("difference", "95 %", "it has", "samples"))  # fmt: skip
    for row in rows[:MOST_ROWS]:
        if row["metric"] == "psr":
            told = figure(row["difference"]), safe(figure_interval(row["ci_low"], row["ci_high"]))
        else:
            low, high = (None if row[k] is None else row[k] / 100 for k in ("ci_low", "ci_high"))
            told = points(None if row["difference"] is None else row["difference"] / 100), points_interval(low, high)
        table.add_row(
            _named(row),
            safe(row["other"]),
            safe(COMPARED_AS.get(row["metric"]) or row["metric"]),
            *told,
            word(row),
            whole(row["n"]),
        )
    return table


def _trained(rows: list[Row]) -> RenderableType:
    table = plain_table("Training to ask", ("model",), ("steps", "reward at first", "at last", "95 %", "asks at first", "at last", ""))  # fmt: skip
    for _, own in grouped(rows, KEYS):
        first, last = own[0], own[-1]
        table.add_row(
            _named(last), whole(last["last_step"]), figure(first["reward"]), figure(last["reward"]),
            safe(figure_interval(last["reward_low"], last["reward_high"])), percent(first["asked"]), percent(last["asked"]),
            "asks always" if last["collapsed"] else "", style="bold red" if last["collapsed"] else None,
        )  # fmt: skip
    return table


def _title(text: str, rows: list[Row]) -> str:
    return text if len(rows) <= MOST_ROWS else f"{text} (the first {MOST_ROWS} of {len(rows)})"


def _hundredth(value: float | None) -> str:
    return score(None if value is None else value / 100)


def _between(low: float | None, high: float | None) -> str:
    return score_interval(None if low is None else low / 100, None if high is None else high / 100)


def _named(row: Row) -> str:
    """The name, with its setting where a sweep makes several."""
    return safe(f"{row['model']} ({row['setting']})" if row["setting"] else row["model"])


DRAWN = (
    (OPEN, ("step", "model", "mode"), _open),
    (COMPARED, ("step", "model", "other", "mode"), _compared),
    (TRAINED, ("step", "model"), _trained),
)

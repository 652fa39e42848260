"""What vision-language models answered, kept after a cut, and which mixture came out best, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from results.console import plain_table, safe
from results.report.words import byte_size, figure, figure_interval, percent, points, points_interval, whole
from results.sweeps import VARIANTS, Sweep

if TYPE_CHECKING:
    from rich.console import RenderableType

    from results.store import ResultsStore

Row = dict[str, Any]
MOST_ROWS = 12
CUT = "SELECT * FROM pruned_models WHERE run_id = $run ORDER BY variant, step, model"
SCORES = "SELECT * FROM benchmark_scores WHERE run_id = $run AND main ORDER BY variant, benchmark, value DESC NULLS LAST, model"
RETAINED = "SELECT * FROM retained_performance WHERE run_id = $run ORDER BY variant, step, model, benchmark = 'all' DESC, benchmark"
RANKING = "SELECT * FROM mixture_ranking WHERE run_id = $run ORDER BY variant, step, rank NULLS LAST, mixture_id"
VALIDITY = "SELECT * FROM proxy_validity WHERE run_id = $run AND task = 'objective' ORDER BY variant, step, kind"
VERDICTS = {
    "worse": ("worse", "bold red"),
    "better": ("better", "bold green"),
    "cannot_be_told": ("cannot be told", "dim"),
    "agrees": ("agrees", "bold green"),
    "reversed": ("runs against it", "bold red"),
}


def lvlm_tables(store: ResultsStore, run_id: str) -> RenderableType | None:
    """Cut models, scores, what is retained, mixtures and their validity; None where the run has none of them."""
    from rich.console import Group

    of_run = {"run": run_id}
    once = Sweep.of(store.query(VARIANTS, of_run).to_pylist()).once
    rows = [(once(store.query(sql, of_run).to_pylist(), keys), table) for sql, keys, table in DRAWN]
    tables = [table(found) for found, table in rows if found]
    return Group(*tables) if tables else None


def _cut(rows: list[Row]) -> RenderableType:
    table = plain_table(
        "Models made smaller", ("model",), ("blocks", "parameters (language model)", "removed", "weights")
    )
    for row in rows:
        table.add_row(
            _named(row, "model"), f"{row['layers']} of {row['layers_original']}", whole(row["params_llm"]),
            f"{100 * row['removed_fraction']:.1f} %", byte_size(row["bytes"]),
        )  # fmt: skip
    return table


def _scores(rows: list[Row]) -> RenderableType:
    table = plain_table("Questions about pictures", ("benchmark", "model", "metric"), ("score", "95 %", "questions", "failed"))  # fmt: skip
    for row in rows:
        interval = safe(figure_interval(row["low"], row["high"]))
        table.add_row(
            safe(row["benchmark"]), _named(row, "model"), safe(row["metric"]), figure(row["value"]), interval,
            whole(row["n"]), whole(row["n_failed"]),
        )  # fmt: skip
    return table


def _retained(rows: list[Row]) -> RenderableType:
    table = plain_table("Beside the original", ("model", "benchmark"), ("kept", "points", "95 %", "told apart"))
    for row in rows:
        word, style = VERDICTS[row["verdict"]]
        interval = (
            f"{percent(row['retained_low'])} to {percent(row['retained_high'])}"
            if row["benchmark"] == "all"
            else points_interval(row["difference_low"], row["difference_high"])
        )
        kept = (percent(row["retained"]), points(row["difference"]), interval, word)
        table.add_row(_named(row, "model"), safe(row["benchmark"]), *kept, style=style)
    return table


def _ranking(rows: list[Row]) -> RenderableType:
    shown = [row for row in rows if row["rank"] is None or row["rank"] <= MOST_ROWS]
    title = "Mixtures by merged stand-ins" + (f" (the best {MOST_ROWS})" if len(shown) < len(rows) else "")
    table = plain_table(
        title, ("mixture", "shares"), ("place", "objective", "95 %", "gap to the best", "trained, place")
    )
    for row in shown:
        shares = ", ".join(f"{name} {percent(w)}" for name, w in zip(row["domains"] or (), row["weights"] or (), strict=False))  # fmt: skip
        style = "bold green" if row["best"] else None if row["indistinguishable"] else "dim"
        table.add_row(
            _named(row, "mixture_id"), safe(shares), whole(row["rank"]), figure(row["value"]), safe(figure_interval(row["ci_low"], row["ci_high"])),
            safe(f"{figure(row['gap'])} {figure_interval(row['gap_low'], row['gap_high'])}"), whole(row["true_rank"]), style=style,
        )  # fmt: skip
    return table


def _validity(rows: list[Row]) -> RenderableType:
    table = plain_table("Stand-ins against really trained models", ("stand-in",), ("mixtures", "rank correlation", "95 %", "regret", "ranking"))  # fmt: skip
    for row in rows:
        word, style = VERDICTS[row["verdict"]]
        interval = safe(figure_interval(row["spearman_low"], row["spearman_high"]))
        table.add_row(
            _named(row, "kind"), whole(row["n"]), figure(row["spearman"]), interval, figure(row["regret"]), word, style=style
        )  # fmt: skip
    return table


def _named(row: Row, column: str) -> str:
    """The name, with its setting where a sweep makes several."""
    return safe(f"{row[column]} ({row['setting']})" if row["setting"] else row[column])


DRAWN = (
    (CUT, ("step", "model"), _cut),
    (SCORES, ("benchmark", "step", "model"), _scores),
    (RETAINED, ("step", "model"), _retained),
    (RANKING, ("step",), _ranking),
    (VALIDITY, ("step", "kind"), _validity),
)

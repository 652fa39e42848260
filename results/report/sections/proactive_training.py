"""Training to ask: rewards, what the answers were, and whether it learnt to ask when it cannot see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report import charts_lvlm, charts_proactive
from results.report.page import Part, Request, Section
from results.report.sections.vqa import grouped
from results.sweeps import VARIANTS, Sweep

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(["grpo_steps", "grpo_rollouts"])
KEYS = ("setting", "step", "model")
MOST_FIGURES = 12

CURVES = "SELECT * FROM grpo_curve WHERE run_id = $run ORDER BY variant, step, model, stretch"
ASKED = "SELECT * FROM grpo_seen WHERE run_id = $run ORDER BY variant, step, model, train_step, seen"


@dataclass(frozen=True)
class Found:
    """Stretches of training, and asking by what could be seen in the steps whose answers were kept."""

    sweep: Sweep
    curves: list[Row]
    asked: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where nothing was trained."""
    of_run: dict[str, Any] = {"run": request.run_id}
    sweep = Sweep.of(read(VARIANTS, of_run).to_pylist())
    found = Found(sweep, *(read(sql, of_run).to_pylist() for sql in (CURVES, ASKED)))
    return found if found.curves or found.asked else None


def parts(found: Found) -> list[Part]:
    """One part with a figure and a line of the table a model."""
    once = found.sweep.once
    trained = list(models(once(found.curves, ("step", "model"))))
    asked = list(ends(once(found.asked, ("step", "model"))))
    variables = {
        "figures": [{**f, **charts(f)} for f in trained[:MOST_FIGURES]], "lines": trained, "most": MOST_FIGURES, "asked": asked,
        "collapsed": [f for f in trained if f["collapsed"]],
    }  # fmt: skip
    return [Part("proactive-training", "Training to ask", "proactive_training.html.jinja", variables)]


def models(rows: Sequence[Row]) -> Iterator[Row]:
    """A model's stretches with its line: first and last stretch."""
    for place, own in grouped(rows, KEYS):
        yield {**place, "rows": own, "first": own[0], "last": own[-1], "steps": own[-1]["last_step"], "collapsed": own[-1]["collapsed"],
               "seconds": sum(r["seconds"] or 0.0 for r in own)}  # fmt: skip


def charts(figure: Row) -> Row:
    """Reward, answers and distance to the start; nothing is drawn of a single stretch."""
    rows = figure["rows"]
    if len(rows) < 2:
        return {"reward": None, "shares": None, "kl": None}
    reward = [{"name": "reward", "step": r["last_step"], "value": r["reward"]} for r in rows]
    kl = [{"name": "KL to the model at the start", "step": r["last_step"], "value": r["kl"]} for r in rows]
    shares = [{**r, "wrong": r["wrong"]} for r in rows]
    return {
        "reward": charts_lvlm.curve_chart(reward) if any(p["value"] is not None for p in reward) else None,
        "shares": charts_proactive.share_chart(shares) if any(r["asked"] is not None for r in rows) else None,
        "kl": charts_lvlm.curve_chart(kl) if any(p["value"] is not None for p in kl) else None,
    }


def ends(rows: Sequence[Row]) -> Iterator[Row]:
    """Asking at the first and at the last step whose answers were kept, by what could be seen."""
    for place, own in grouped(rows, KEYS):
        steps = sorted({r["train_step"] for r in own})
        kept = {steps[0], steps[-1]}
        yield {**place, "rows": [r for r in own if r["train_step"] in kept]}


SECTIONS = (Section("proactive training", TABLES, collect, parts),)

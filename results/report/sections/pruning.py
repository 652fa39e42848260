"""Vision-language models made smaller: what was removed, what it saved and cost, how training went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report import charts, charts_lvlm
from results.report.page import Part, Request, Section
from results.report.sections.vqa import MOST_TOLD, grouped
from results.sweeps import VARIANTS, Sweep

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(["prune_layer_score", "prune_unit_score", "prune_model", "recovery_step", "prune_timing"])
KEYS = ("setting", "step", "model")
MOST_CURVES = 12
CRITERIA = {
    "block_influence": "how far a block turns the hidden state: 1 minus the cosine of what goes in and comes out",
    "angular": "the angle between what goes into a run of blocks and what comes out",
    "perplexity": "how surprised the model is by the calibration text without the block",
    "last": "deeper blocks go first; no data",
    "random": "drawn by lot: the control",
    "taylor/param_first": "gradient times weight: what the loss would change, to first order",
    "taylor/vectorize": "gradient times weight, summed with its sign before the size is taken",
    "taylor/param_second": "the change of the loss to second order",
    "taylor/param_mix": "first and second order together",
    "activation": "how large what enters the output is",
    "wanda_sp": "size of the weights times size of what enters them",
    "flap": "how much what enters the output varies, times the weights",
    "l1": "size of the weights; no data",
    "l2": "size of the weights; no data",
}
LOSSES = {"loss": "total", "ce": "right replies (cross-entropy)", "kd_logits": "teacher's replies", "kd_hidden": "teacher's hidden states"}  # fmt: skip

MODELS = "SELECT * FROM pruned_models WHERE run_id = $run ORDER BY variant, step, model"
STAGES = "SELECT * FROM prune_model WHERE run_id = $run ORDER BY variant, step, model, stage"
LAYERS = "SELECT * FROM layer_importance WHERE run_id = $run ORDER BY variant, step, model, stage, criterion, layer"
# What a unit scores within its layer is comparable only there: how much of it stays is told, and by which criterion.
UNITS = """
SELECT variant, step, model, stage, kind, criterion, count(*) AS units, count(*) FILTER (kept) AS kept, count(DISTINCT layer) AS layers,
       bool_and(kept IS NULL) AS scored_only
FROM prune_unit_score WHERE run_id = $run GROUP BY ALL ORDER BY variant, step, model, stage, kind, criterion
"""
TIMING = "SELECT * FROM prune_timing WHERE run_id = $run ORDER BY variant, step, model, stage"
CURVES = "SELECT * FROM recovery_curve WHERE run_id = $run ORDER BY variant, step, model, stretch"
QUALITY = """
SELECT variant, step, model, made_by, retained, retained_low, retained_high, verdict, sentence FROM retained_performance
WHERE run_id = $run AND benchmark = 'all' ORDER BY variant, step, made_by NULLS LAST, model
"""


@dataclass(frozen=True)
class Found:
    """All rows of a run's cut and trained models."""

    sweep: Sweep
    models: list[Row]
    stages: list[Row]
    layers: list[Row]
    units: list[Row]
    timing: list[Row]
    curves: list[Row]
    quality: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where nothing was scored, cut, trained or timed."""
    of_run: dict[str, Any] = {"run": request.run_id}
    statements = (MODELS, STAGES, LAYERS, UNITS, TIMING, CURVES, QUALITY)
    sweep = Sweep.of(read(VARIANTS, of_run).to_pylist())
    found = Found(sweep, *(read(sql, of_run).to_pylist() for sql in statements))
    rest = (found.models, found.layers, found.units, found.timing, found.curves)
    return found if any(rest) else None


def parts(found: Found) -> list[Part]:
    """What was removed, importance, training, time."""
    return list(_parts(found))


def _parts(found: Found) -> Iterator[Part]:
    once = found.sweep.once
    if found.models:
        yield Part("pruning", "What was removed", "pruning_models.html.jinja", _removed(found))
    if found.layers or found.units:
        layers, units = once(found.layers, ("step", "model", "stage")), once(found.units, ("step", "model", "stage"))
        variables = {"figures": list(importance(layers)), "units": units, "what": CRITERIA}
        yield Part("pruning-importance", "What the model can do without", "pruning_importance.html.jinja", variables)
    if found.curves:
        drawn = list(curves(once(found.curves, ("step", "model"))))
        shown: Row = {"figures": drawn[:MOST_CURVES], "lines": [c["line"] for c in drawn], "most": MOST_CURVES}
        yield Part("training", "How training went", "pruning_training.html.jinja", shown)
    if found.timing:
        rows = once(found.timing, ("step", "model", "stage"))
        yield Part("lvlm-timing", "Time and memory", "pruning_timing.html.jinja", {"rows": rows})


def _removed(found: Found) -> Row:
    """Cards of the cuts with their strips, and what is left of quality: sentences, or a table where a sweep makes too many."""
    once = found.sweep.once
    models = {(m["variant"], m["step"], m["model"]): m for m in found.models}
    cards = []
    for place, stages in grouped(once(found.stages, ("step", "model")), (*KEYS, "variant")):
        cards.append({**models[place["variant"], place["step"], place["model"]], **place, **card(stages)})
    swept = len({m["variant"] for m in found.models}) > 1
    rows = _outcomes(found)
    lines = once(rows, ("comparison", "model"))
    table = lines if swept and len(lines) > MOST_TOLD else []
    told = [] if table else once(found.models, ("step", "model"), ignored=("retained", "retained_low", "retained_high"))
    compared = [] if table else sorted(once(_compared(found), ("step", "model")), key=lambda r: r["step"])
    quality = [own for _, own in grouped(compared, ("step",))]
    measured = any(r["retained"] is not None for r in rows)
    return {"cards": cards, "told": told, "quality": quality, "lines": table, "measured": measured}


def _compared(found: Found) -> list[Row]:
    """Rows on quality of those comparisons that hold a cut model."""
    comparisons = {
        (r["variant"], r["step"]) for r in found.quality if r["made_by"] == "cut" and r["retained"] is not None
    }
    return [r for r in found.quality if (r["variant"], r["step"]) in comparisons]


def _outcomes(found: Found) -> list[Row]:
    """By variant, each model of those comparisons and each other cut model: what is gone of it, what it retains, the verdict."""
    cuts = {(m["variant"], m["model"]): m for m in sorted(found.models, key=lambda m: not m["foreseen"])}
    rows = [{**dict.fromkeys(("removed_fraction", "foreseen")), **_pick(cuts.get((r["variant"], r["model"]), {}), "removed_fraction", "foreseen"),
             **_pick(r, "variant", "model", "made_by", "verdict", "retained", "retained_low", "retained_high"), "comparison": r["step"]}
            for r in _compared(found)]  # fmt: skip
    known = {(r["variant"], r["model"]) for r in rows}
    nothing = dict.fromkeys(("verdict", "retained", "retained_low", "retained_high", "comparison"))
    more = [{**nothing, **_pick(m, "variant", "model", "removed_fraction", "foreseen"), "made_by": "cut"}
            for key, m in cuts.items() if key not in known]  # fmt: skip
    return rows + more


def _pick(row: Row, *names: str) -> Row:
    return {name: row[name] for name in names if name in row}


def card(stages: list[Row]) -> Row:
    """Rows of a model's stages with the strip of its blocks and, where any is narrower, the shares of heads and neurons by block."""
    first, last = stages[0], stages[-1]
    known = bool(last["layers_kept"])
    kept = set(last["layers_kept"])
    shares = list(_shares(first, last)) if known else []
    narrower = any(r["share"] < 1 for r in shares)
    return {
        "stages": stages, "shares": shares if narrower else [],
        "strip": charts_lvlm.block_strip([layer in kept for layer in first["layers_kept"]]) if known and first["layers_kept"] else None,
        "widths": charts_lvlm.width_chart(shares) if narrower else None,
    }  # fmt: skip


def _shares(first: Row, last: Row) -> Iterator[Row]:
    """Share of the original's heads and neurons in each kept block."""
    places = {layer: i for i, layer in enumerate(first["layers_kept"])}
    for what, column in (("attention heads", "heads_kept"), ("neurons", "neurons_kept")):
        for layer, count in zip(last["layers_kept"], last[column], strict=False):
            whole = first[column][places[layer]]
            yield {"layer": layer, "what": what, "count": count, "of": whole, "share": count / whole if whole else 1.0}


def importance(rows: Iterable[Row]) -> Iterator[Row]:
    """A sheet a model and stage: criteria against blocks, each relative to its most important block."""
    for place, own in grouped(rows, (*KEYS, "stage")):
        cells = [{"row": r["criterion"], "column": str(r["layer"]), "value": r["relative"]} for r in own]
        scored = [c for c in cells if c["value"] is not None]
        gone = sorted({r["layer"] for r in own if r["removed"]})
        yield {
            **place, "rows": own, "gone": gone, "criteria": list(dict.fromkeys(r["criterion"] for r in own)),
            "chart": charts.heat_map(scored, reach=(0.0, 1.0), signed=True) if scored else None,
        }  # fmt: skip


def curves(rows: Iterable[Row]) -> Iterator[Row]:
    """A chart a trained model, and its line in the table: steps, tokens, time, first and last stretch."""
    for place, own in grouped(rows, KEYS):
        used = [c for c in LOSSES if any(r[c] is not None for r in own)]
        if [r["loss"] for r in own] == [r["ce"] for r in own]:
            used = [c for c in used if c != "loss"]
        points = [{"name": LOSSES[c], "step": r["last_step"], "value": r[c]} for c in used for r in own]
        line = {
            **place, "steps": own[-1]["last_step"], "epochs": own[-1]["epoch"], "first": own[0]["loss"], "last": own[-1]["loss"],
            "tokens": sum(r["tokens"] for r in own), "seconds": sum(r["seconds"] for r in own),
        }  # fmt: skip
        yield {**place, "line": line, "chart": charts_lvlm.curve_chart(points) if len(own) > 1 else None}


SECTIONS = (Section("pruning", TABLES, collect, parts),)

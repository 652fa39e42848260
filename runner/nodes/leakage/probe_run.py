"""The step ``leakage.probe``: several models and datasets, their layers, their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from results.tables import arrow_table
from runner.artifacts import PartFeatures
from runner.context import StepContext
from runner.errors import DataError
from runner.nodes.leakage.metrics import mean_of
from runner.nodes.leakage.names import misplaced
from runner.nodes.leakage.probe_material import SINGLE, SWAP, Material, material
from runner.nodes.leakage.probe_rows import Frame, pair_rows, probe_rows, summary_rows
from runner.nodes.leakage.probe_tables import Kind, ProbeTable, Settings
from runner.nodes.leakage.probing import LABEL_SHUFFLE, Control, Study, draws_of, identity_of, jobs, refits, tables
from runner.nodes.leakage.resampling import Form

PENALTIES = {"ridge": 0.01, "logreg": 1.0, "mlp": 0.0}
EXACT_UP_TO = {"cpu": 2_000_000_000}
"""Resamples x pictures x parts x attributes x tables x metrics: about a minute on one core."""
_EXACT_ELSEWHERE = 200_000_000_000
FEW_PICTURES = 100
WHOLE = "whole"
"""Source whose vectors tell pictures apart; without it, the vectors of all parts do."""
_TABLES = ("leak_probe", "leak_summary", "leak_pair")


@dataclass(frozen=True)
class Plan:
    """The parameters of the step."""

    kind: Kind
    penalty: float | None
    grid: tuple[float, ...]
    min_pos: int
    rows: Literal["pairwise", "common"]
    metrics: tuple[str, ...]
    resamples: int
    form: Literal["auto", "exact", "projected"]
    controls: tuple[Control, ...]
    layers: Literal["all"] | list[int]
    seed: int


def probe_all(ctx: StepContext, features: Sequence[PartFeatures], plan: Plan) -> tuple[dict[str, Any], list[pa.Table]]:
    """Settings, and tables for ``leak_probe``, ``leak_summary``, ``leak_pair``. Raises ``DataError`` before any probe is fitted."""
    _check(features, plan)
    studies = [_study(ctx, one, plan) for one in features]
    found: dict[str, list[pa.Table]] = {name: [arrow_table(name, [])] for name in _TABLES}
    for study in studies:
        frame = Frame(study.material, plan.min_pos, plan.resamples, study.settings.form)
        for layer in tables(study):
            for name, rows in _rows(frame, layer, plan.metrics).items():
                found[name].append(arrow_table(name, rows))
            _warn_of_shuffle(ctx, study, layer)
    _warn_of_nothing(ctx, found["leak_probe"])
    settings = asdict(plan) | {"penalty": studies[0].settings.penalty, "studies": [_about(s) for s in studies]}
    return settings, [pa.concat_tables(found[name]) for name in _TABLES]


def _check(features: Sequence[PartFeatures], plan: Plan) -> None:
    wrong = misplaced(plan.kind, plan.penalty, plan.grid)
    if wrong is not None:
        raise DataError(wrong)
    names = [(one.model["name"], one.about["dataset"]) for one in features]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"features of {twice[0]} on {twice[1]} are given twice: their rows could not be told apart",
            hint="name the datasets apart: `as: NAME` of parts.load; or probe them in two steps",
        )


def _study(ctx: StepContext, features: PartFeatures, plan: Plan) -> Study:
    device = "cpu" if ctx.device == "mps" else ctx.device
    held_out = plan.kind == "mlp" or bool(plan.grid)
    one = material(features, plan.rows, held_out, plan.seed, device)
    layers = _layers(one, plan)
    penalty = PENALTIES[plan.kind] if plan.penalty is None else plan.penalty
    settings = Settings(plan.kind, penalty, plan.grid, plan.min_pos, plan.metrics, _form(one, plan, layers), plan.seed)
    if all(name == SWAP for name in one.extractors):
        raise DataError(f"{one.place}: these features hold no extractor to fit probes on")
    for layer in layers:
        for extractor in one.extractors:
            one.vectors(extractor, layer)
    _warn_of_few(ctx, one)
    _warn_of_overlap(ctx, one)
    identity = identity_of(one, settings, plan.resamples)
    return Study(ctx, one, settings, plan.controls, layers, draws_of(one, plan.resamples, plan.seed), identity)


def _layers(one: Material, plan: Plan) -> tuple[int, ...]:
    held = sorted(one.layers)
    if plan.layers == "all":
        return tuple(held)
    wanted = {held[number] if -len(held) <= number < 0 else number for number in plan.layers}
    unknown = sorted(wanted - set(held))
    if unknown:
        raise DataError(f"{one.place}: layer {unknown[0]} is not among those the features hold: {held}")
    return tuple(sorted(wanted))


def _form(one: Material, plan: Plan, layers: Sequence[int]) -> Form:
    if plan.form != "auto":
        return plan.form
    a_table = plan.resamples * len(one.test) * len(one.sources) * len(one.attributes) * len(plan.metrics)
    number = len(one.extractors) + len(refits(one)) + 2 * ("decorrelate" in plan.controls)
    cost = a_table * (number * len(layers) + 2)
    return "exact" if cost <= EXACT_UP_TO.get(one.value.device.type, _EXACT_ELSEWHERE) else "projected"


def _rows(frame: Frame, layer: list[ProbeTable], metrics: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Probes that were fitted again for a comparison enter it, and stand nowhere else."""
    told = [table for table in layer if table.beside is None]
    return {
        "leak_probe": [row for table in told for row in probe_rows(frame, table)],
        "leak_summary": [row for metric in metrics for row in summary_rows(frame, layer, metric)],
        "leak_pair": [row for table in told for row in pair_rows(frame, table)],
    }


def _warn_of_few(ctx: StepContext, one: Material) -> None:
    few = "intervals are wide, and percentile intervals of so few are rough"
    if one.n_groups is not None and one.n_groups < min(FEW_PICTURES, len(one.test)):
        ctx.warn(f"only {one.n_groups} originals behind the {len(one.test)} test pictures: {few}", item=one.place)
    elif len(one.test) < FEW_PICTURES:
        ctx.warn(f"only {len(one.test)} test pictures: {few}", item=one.place)


def _warn_of_overlap(ctx: StepContext, one: Material) -> None:
    """Test pictures whose vectors at the lowest layer are those of a picture of train or val, byte for byte: the same picture."""
    extractor = SINGLE if SINGLE in one.extractors else one.extractors[0]
    stored = one.vectors(extractor, min(one.layers))
    read = slice(one.sources.index(WHOLE), one.sources.index(WHOLE) + 1) if WHOLE in one.sources else slice(None)
    there = one.present[extractor][:, read].any(1).tolist()

    def content(row: int) -> bytes:
        return hashlib.sha256(np.ascontiguousarray(stored[row, read]).tobytes()).digest()

    known = {content(row) for row in (*one.train.tolist(), *one.val.tolist()) if there[row]}
    found = sum(content(row) in known for row in one.test.tolist() if there[row])
    if found:
        ctx.warn(
            f"{found} of {len(one.test)} test pictures have the very vectors of a picture of train or val: the splits overlap, and "
            "scores on them are too high",
            item=one.place,
        )


def _warn_of_shuffle(ctx: StepContext, study: Study, layer: list[ProbeTable]) -> None:
    """Shuffled labels cannot be known: their mean AUROC lies within 3 standard errors (bootstrap) of 0.5, 997 times of 1,000.

    This checks that no test label enters a fit and that the intervals are wide enough. It cannot see pictures that stand in train and
    test: each split is shuffled by itself, so their labels differ.
    """
    for table in layer:
        drawn = table.replicates.get("auroc")
        if table.name != LABEL_SHUFFLE or drawn is None or len(drawn) < 2:
            continue
        mean, error = float(mean_of(table.auroc, 0)), float(mean_of(drawn.double(), 1).std())
        if abs(mean - 0.5) > 3 * error:
            ctx.warn(
                f"with shuffled labels AUROC is {mean:.3f} +- {error:.3f} (standard error), and 0.5 lies more than 3 standard errors "
                "off: by chance that happens in 3 of 1,000 runs, else the intervals here are too narrow",
                item=study.material.place,
            )


def _warn_of_nothing(ctx: StepContext, found: Sequence[pa.Table]) -> None:
    probes = pa.concat_tables(found)
    if len(probes) and probes["auroc"].null_count == len(probes):
        ctx.warn(
            "no probe could be scored: see skipped_reason in leak_probe; a smaller min_pos or more pictures may help"
        )


def _about(study: Study) -> dict[str, Any]:
    one = study.material
    pictures = {"train": len(one.train), "val": len(one.val), "test": len(one.test)}
    again = [f"{extractor} where {beside} is present" for extractor, beside in refits(one)]
    return {
        "model": one.model["name"], "dataset": one.dataset, "layers": list(study.layers), "pictures": pictures,
        "form": study.settings.form, "fitted_again": again, "n_groups": one.n_groups, "probes": sum(1 for _ in jobs(study)),
    }  # fmt: skip

"""Running ``prune.cut``: stage after stage on one loaded network, rows, the checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch

from results.tables import arrow_schema, arrow_table
from runner.artifacts.lvlm import Conversations, PrunedLvlm, PruneScores
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import VisionLanguageModel
from runner.models.lvlm import pruned
from runner.models.lvlm.anatomy import anatomy
from runner.nodes.peak_memory import peak_bytes
from runner.nodes.pruning import plan as deciding
from runner.nodes.pruning import select
from runner.nodes.pruning.apply import (
    LayerWidths,
    Plan,
    Sizes,
    compensate,
    count,
    drop_layers,
    layer_groups,
    mask_plan,
    slice_widths,
)
from runner.nodes.pruning.calibration import Calibration, Draw, calibrate
from runner.nodes.pruning.cut_scores import FIELDS, Scorer
from runner.nodes.pruning.scoring import Settings
from runner.nodes.pruning.specs import NEEDS_SCORES, WITHOUT_DATA, LayerStage, Recalibration, WidthStage

Stage = LayerStage | WidthStage


@dataclass
class Cut:
    """A network on its way: what is kept so far, and the rows of what was decided."""

    ctx: StepContext | None
    network: Any
    decoder: str
    scorer: Scorer
    label: str
    seed: int
    original: Sizes
    plan: Plan
    touched: bool = False
    layer_rows: list[dict[str, Any]] = field(default_factory=list)
    unit_tables: list[Any] = field(default_factory=list)
    model_rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self, stages: Sequence[Stage]) -> None:
        """All stages in order."""
        self.model_rows.append(model_row(self.label, -1, self.original, self.original, self.plan))
        for number, stage in enumerate(stages):
            if self.ctx is not None:
                self.ctx.check()
            try:
                if isinstance(stage, LayerStage):
                    self._layers(number, stage)
                else:
                    self._widths(number, stage)
            except DataError as error:
                raise DataError(f"stages[{number}] ({stage.kind}): {error.message}", hint=error.hint) from error
            now = count(self.network, self.decoder)
            self.model_rows.append(model_row(self.label, number, self.original, now, self.plan))
            if self.ctx is not None:
                self.ctx.advance("stages")

    def _layers(self, number: int, stage: LayerStage) -> None:
        groups = layer_groups(self.network, self.decoder)
        layer = sum(p.numel() for p in groups[0].layer.parameters())
        deciding.check_layers(stage, self.plan)
        wanted = deciding.layers_to_remove(stage, groups, self.original.llm, layer)
        gone = 0
        for step in range(1, stage.iterative_steps + 1):
            now = wanted * step // stage.iterative_steps - gone
            if now:
                self._drop(number, stage, now)
            gone += now

    def _drop(self, number: int, stage: LayerStage, n: int) -> None:
        keep = deciding.keep_free(stage, self.plan, n, self.seed)
        order: list[int] = []
        score = None
        guard = (stage.protect.first, stage.protect.last)
        if keep is None:
            order, score = self.scorer.blocks(stage.criterion, self.plan, untouched=not self.touched)
            if stage.criterion == "angular":
                keep = select.keep_angular(self.scorer.distances(n, self.plan, untouched=not self.touched), n, *guard)
            else:
                keep = select.keep_layers(torch.tensor(order), n, *guard)
        for position, layer in enumerate(self.plan.layers):
            going = position not in keep
            self.layer_rows.append(
                {"model": self.label, "stage": number, "criterion": stage.criterion, "layer": layer, "removed": going,
                 "score_mean": None if score is None else float(score[position]),
                 "rank": order[position] if order else (0 if going else 1)}
            )  # fmt: skip
        drop_layers(self.network, keep, self.decoder)
        self.plan, self.touched = self.plan.drop(keep), True

    def _widths(self, number: int, stage: WidthStage) -> None:
        groups = layer_groups(self.network, self.decoder)
        deciding.check_ranges(stage, len(groups))
        whole = deciding.sizes_of(groups)
        ratio: float | None = None
        for step in range(1, stage.iterative_steps + 1):
            groups = layer_groups(self.network, self.decoder)
            units = self.scorer.units(stage.criterion, self.plan, untouched=not self.touched)
            if step in (1, stage.iterative_steps):  # new scores can rank units of other sizes first
                ratio = deciding.target_ratio(
                    stage, count(self.network, self.decoder).llm, self.original.llm,
                    lambda r: deciding.removed_parameters(groups, deciding.decide_widths(stage, groups, units, whole, r)),  # noqa: B023
                )  # fmt: skip
            share = Fraction(step, stage.iterative_steps)
            widths = deciding.decide_widths(stage, groups, units, whole, ratio, share)
            self._slice(number, stage, groups, units, widths)

    def _record(self, number: int, criterion: str, units: deciding.Units, widths: deciding.Widths) -> None:
        self.unit_tables += [
            unit_table(self.label, number, criterion, self.plan, key, scores, widths.get(key[0]))
            for key, scores in units.items()
        ]

    def _slice(
        self, number: int, stage: WidthStage, groups: Any, units: deciding.Units, widths: deciding.Widths
    ) -> None:
        self._record(number, stage.criterion, units, widths)
        if stage.compensate:
            self._compensate(groups, widths)
        slice_widths(self.network, widths, self.decoder)
        self.plan, self.touched = self.plan.narrow(widths), True

    def _compensate(self, groups: Any, widths: deciding.Widths) -> None:
        for position, kept in widths.items():
            group, size = groups[position], groups[position].attention.head_dim
            for kind, linear, units, per in (
                ("attention", group.attention_output, kept.heads, size),
                ("mlp", group.mlp_output, kept.neurons, 1),
            ):
                gone = torch.ones(linear.in_features // per, dtype=torch.bool)
                gone[torch.tensor(units)] = False
                if gone.any():
                    means = self.scorer.means(self.plan, position, kind, size)
                    compensate(linear, gone.repeat_interleave(per).nonzero().flatten(), means)


def run(
    ctx: StepContext,
    model: VisionLanguageModel,
    scores: PruneScores | None,
    stages: Sequence[Stage],
    calibration: Conversations | None,
    recalibration: Recalibration,
    format: pruned.Format,
    label: str,
    dtype: str | None,
    seed: int,
) -> PrunedLvlm:
    """Cut ``model`` by ``stages`` and write it."""
    from runner.nodes.pruning.plan_run import refuse_impossible

    start = time.perf_counter()
    check_before_loading(model, scores, stages, has_calibration=calibration is not None)
    refuse_impossible(model, stages, format, seed)
    loaded = model.load(dtype=dtype)
    try:
        found = _calibrated(ctx, loaded, model.decoder, calibration, recalibration, stages, seed)
        settings = Settings(recalibration.last_state, seed=seed)
        scorer = Scorer(loaded.network, model.decoder, scores, found, settings)
        whole = Plan.whole(layer_groups(loaded.network, model.decoder))
        cut = Cut(ctx, loaded.network, model.decoder, scorer, label, seed, count(loaded.network, model.decoder), whole)
        cut.run(stages)
        network = loaded.network
        if format == "masked":
            network = _masked(model, dtype, cut.plan)
        folder = ctx.folder("checkpoint")
        written = pruned.write(
            network, cut.plan, folder, format, model.folder, decoder=model.decoder, card=card(model, cut, format)
        )
        peak = peak_bytes(loaded.device)
    finally:
        loaded.close()
    if written.note:
        ctx.warn(written.note)
    cut.model_rows[-1] |= {"bytes": written.bytes, "format": format, "sha256": written.sha256}
    timing = [{"model": label, "stage": "cut", "seconds": time.perf_counter() - start, "peak_bytes": peak}]
    return PrunedLvlm(
        folder, format, cut.plan.to_dict(), arrow_table("prune_layer_score", cut.layer_rows), _joined(cut.unit_tables),
        arrow_table("prune_model", cut.model_rows), arrow_table("prune_timing", timing),
    )  # fmt: skip


def check_before_loading(
    model: VisionLanguageModel, scores: PruneScores | None, stages: Sequence[Stage], *, has_calibration: bool
) -> None:
    """DataError for what is missing, before weights are read."""
    if scores is not None and scores.model.get("identity") != model.identity:
        raise DataError(
            f"`scores` are of another model ({scores.model.get('name')}) than {model.name}, or of another dtype"
        )
    for number, stage in enumerate(stages):
        free = stage.criterion in WITHOUT_DATA if isinstance(stage, WidthStage) else stage.criterion not in NEEDS_SCORES
        if free:
            continue
        if stage.iterative_steps > 1 and not has_calibration:
            raise DataError(f"stages[{number}]: iterative_steps scores anew, which wants `calibration`")
        if not has_calibration and (scores is None or stage.criterion not in scores.criteria):
            there = ", ".join(scores.criteria) if scores is not None else "none given"
            raise DataError(
                f"stages[{number}]: no scores by {stage.criterion} ({there})",
                hint="Name the criterion in prune.score and give its `scores`, or give `calibration`.",
            )


def _calibrated(
    ctx: StepContext,
    loaded: Any,
    decoder: str,
    data: Conversations | None,
    given: Recalibration,
    stages: Sequence[Stage],
    seed: int,
) -> Calibration | None:
    if data is None:
        return None
    gradients = any(stage.criterion.startswith("taylor/") for stage in stages)
    draw = Draw(
        given.n, seed, given.modality, given.max_text_tokens, given.batch_size, given.gradients, given.gradients
    )
    return calibrate(ctx, loaded, anatomy(loaded.network, decoder), data, draw, gradients=gradients)


def _masked(model: VisionLanguageModel, dtype: str | None, plan: Plan) -> Any:
    """The original once more, with zeros where the cut took something."""
    return mask_plan(model.load(dtype=dtype).network, plan, model.decoder)


# --- rows --------------------------------------------------------------------------------------------------------------


def model_row(label: str, stage: int, original: Sizes, now: Sizes, plan: Plan) -> dict[str, Any]:
    """One row of ``prune_model``."""
    gone = original.llm - now.llm
    return {
        "model": label, "stage": stage, "params_llm": now.llm, "params_total": now.total, "removed_fraction": gone / original.llm,
        "removed_total": (original.total - now.total) / original.total, "layers_kept": [*plan.layers],
        "heads_kept": [*now.heads], "neurons_kept": [*now.neurons],
    }  # fmt: skip


def unit_table(
    label: str,
    stage: int,
    criterion: str,
    plan: Plan,
    key: tuple[int, str],
    scores: torch.Tensor,
    kept: LayerWidths | None,
) -> Any:
    """``prune_unit_score`` of one layer and kind, in original indices."""
    import pyarrow as pa

    schema = arrow_schema("prune_unit_score")
    position, kind = key
    units = getattr(plan.widths[position], FIELDS[kind])
    stays = [True] * len(units)
    if kept is not None:
        there = set(getattr(kept, FIELDS[kind]))
        stays = [i in there for i in range(len(units))]
    shared = {"model": label, "stage": stage, "criterion": criterion, "layer": plan.layers[position], "kind": kind}
    columns: dict[str, Any] = {n: pa.repeat(pa.scalar(v, schema.field(n).type), len(units)) for n, v in shared.items()}
    columns |= {"unit": units, "score": scores.numpy(), "rank": select.ranks(scores), "kept": stays}
    return pa.Table.from_pydict(columns, schema=schema)


def _joined(tables: list[Any]) -> Any:
    import pyarrow as pa

    return pa.concat_tables(tables) if tables else arrow_schema("prune_unit_score").empty_table()


def card(model: VisionLanguageModel, cut: Cut, format: str) -> str:
    """README of the checkpoint: what was removed, and from what."""
    last, layers = cut.model_rows[-1], len(cut.original.heads)
    name = " ".join(model.name.split())[:200].replace("`", "'")
    removed = sorted(set(range(layers)) - set(cut.plan.layers))
    return (
        f"# Pruned from `{name}`\n\nFormat: {format}. Language model: {last['params_llm']:,} of {cut.original.llm:,} parameters "
        f"({last['removed_fraction']:.1%} removed); layers removed (counted from 0): {removed or 'none'} of {layers}.\n\n"
        f"Query heads by kept layer: {last['heads_kept']}. Neurons by kept layer: {last['neurons_kept']}.\n\n"
        "Vision encoder and projector are those of the original. Licence: the original's.\n"
    )

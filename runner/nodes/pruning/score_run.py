"""Running ``prune.score``: calibration, one pass for all criteria, rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import torch

from runner.artifacts.lvlm import Conversations, PruneScores
from runner.context import StepContext, item_key
from runner.models.base import VisionLanguageModel
from runner.models.lvlm.anatomy import Anatomy, anatomy
from runner.models.lvlm.groups import coupled_groups
from runner.nodes.peak_memory import peak_bytes
from runner.nodes.pruning import score_rows as rows
from runner.nodes.pruning.calibration import Calibration, Draw, calibrate
from runner.nodes.pruning.names import TAYLOR, Criterion
from runner.nodes.pruning.scoring import Losses, Scores, Settings, score_model


def run(
    ctx: StepContext,
    model: VisionLanguageModel,
    data: Conversations,
    criteria: Sequence[Criterion],
    draw: Draw,
    settings: Settings,
    dtype: str | None,
) -> PruneScores:
    """Score ``model`` on records of ``data``."""
    start = time.perf_counter()
    loaded = model.load(dtype=dtype)
    try:
        parts = anatomy(loaded.network, model.decoder)
        gradients = any(criterion.startswith(TAYLOR) for criterion in criteria)
        if gradients and loaded.dtype == torch.float16:
            ctx.warn("small gradients vanish in float16: take dtype bfloat16 or float32 for Taylor criteria")
        found = calibrate(ctx, loaded, parts, data, draw, gradients=gradients)
        scores = score_model(
            loaded.network, found.batches, criteria, settings, decoder=model.decoder,
            gradient_batches=found.gradients, tick=_ticking(ctx), losses=_remembered(ctx, model, data, found, settings, dtype),
        )  # fmt: skip
        about = _about(model, parts)
        seconds, peak = time.perf_counter() - start, peak_bytes(loaded.device)
    finally:
        loaded.close()
    _warn(ctx, draw, found, scores)
    return PruneScores(
        about, _calibration(data, draw, settings, found, scores), [*criteria], rows.layer_table(model.name, scores),
        rows.unit_table(model.name, scores), rows.distance_table(scores), rows.timing_table(model.name, seconds, peak),
        rows.mean_arrays(scores),
    )  # fmt: skip


def _ticking(ctx: StepContext) -> Callable[[], None]:
    def tick() -> None:
        ctx.check()
        ctx.advance("passes")

    return tick


def _remembered(
    ctx: StepContext,
    model: VisionLanguageModel,
    data: Conversations,
    found: Calibration,
    settings: Settings,
    dtype: str | None,
) -> Losses:
    """Losses without certain blocks, kept across a stop: greedy removal takes many passes."""

    @cache
    def content() -> str:
        used = set(found.used)
        drawn = [row for row in data.records.to_pylist() if row["record_id"] in used]
        return item_key(model.identity, dtype, drawn, data.corpus, found.labels, settings.aggregate)

    def loss(skipped: tuple[int, ...], compute: Callable[[], float]) -> float:
        key = item_key("prune.score/loss", content(), list(skipped))
        kept = ctx.items.get(key)
        if kept is None:
            kept = json.dumps(compute()).encode()
            ctx.items.put(key, kept)
        return float(json.loads(kept))

    return loss


def _about(model: VisionLanguageModel, parts: Anatomy) -> dict[str, Any]:
    """Sizes are those of the first layer; a model whose layers differ says so in ``uniform``."""
    groups = [coupled_groups(layer, parts.config) for layer in parts.layers]
    sizes = [(g.attention.n_heads, g.attention.n_kv, g.attention.head_dim, g.mlp.width) for g in groups]
    heads, kv, dim, width = sizes[0]
    return {
        "name": model.name, "identity": model.identity, "architecture": parts.architecture, "layers": len(parts.layers),
        "heads": heads, "kv_heads": kv, "head_dim": dim, "intermediate_size": width, "uniform": len(set(sizes)) == 1,
        "small": model.small, "notes": [*model.notes],
    }  # fmt: skip


def _calibration(
    data: Conversations, draw: Draw, settings: Settings, found: Calibration, scores: Scores
) -> dict[str, Any]:
    return {
        "data": data.about.get("name"), **asdict(draw), **asdict(settings), "seed": draw.seed, "used": len(found.used),
        "dropped": len(found.dropped), "records": found.used, "tokens": found.tokens, "label_tokens": found.labels,
        "zero_share": scores.zero_share,
    }  # fmt: skip


def _warn(ctx: StepContext, draw: Draw, found: Calibration, scores: Scores) -> None:
    if found.dropped:
        ctx.warn(
            f"{len(found.dropped)} of the records drawn were left out: no label within their length, or no picture"
        )
    elif len(found.used) < draw.n:
        ctx.warn(f"only {len(found.used)} records fit the calibration; {draw.n} were asked for")
    for criterion, share in scores.zero_share.items():
        if share > 0:
            ctx.warn(f"{criterion}: {share:.2%} of the unit scores are exactly 0; units among them go by their index")

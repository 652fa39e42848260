"""What a stage removes, decided from scores; everything in the numbering of the network as the stage finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from runner.errors import DataError
from runner.models.lvlm.groups import LayerGroups
from runner.models.lvlm.plans import LayerWidths, Plan
from runner.nodes.pruning import select
from runner.nodes.pruning.apply import unit_parameters
from runner.nodes.pruning.specs import AttentionPart, LayerStage, Part, WidthStage

Units = Mapping[tuple[int, str], Tensor]
"""Scores of units by (layer, kind): ``kv_group``, ``query_head`` (where keys are shared), ``neuron``."""
Widths = dict[int, LayerWidths]
Size = tuple[int, int, int]
"""Key-value heads, query heads per key-value head, neurons."""


# --- layers ------------------------------------------------------------------------------------------------------------


def layers_to_remove(stage: LayerStage, groups: Sequence[LayerGroups], original: int, layer: int) -> int:
    """How many blocks go. ``original``: parameters of the original language model; ``layer``: of one block."""
    total = len(groups)
    if stage.criterion == "explicit":
        wanted = len(stage.layers or ())
    elif stage.criterion == "every_kth" and stage.n_layers is None and stage.target_fraction is None:
        wanted = total // (stage.k or total)
    else:
        share = Fraction(stage.target_fraction or 0).limit_denominator(10**9)
        wanted = stage.n_layers if stage.n_layers is not None else round(original * share / layer)
    if wanted >= total:
        raise DataError(f"{wanted} of {total} layers cannot be removed: at least one has to stay")
    room = total - stage.protect.first - stage.protect.last
    if wanted > max(room, 0):
        raise DataError(f"{wanted} layers cannot be removed: protect leaves {max(room, 0)} of {total}")
    return wanted


def check_layers(stage: LayerStage, plan: Plan) -> None:
    """DataError for a layer named that is not there (any more)."""
    missing = sorted(set(stage.layers or ()) - set(plan.layers))
    if missing:
        raise DataError(f"layer {missing[0]} is not there to be removed; there are {list(plan.layers)}")


def keep_free(stage: LayerStage, plan: Plan, n: int, seed: int) -> list[int] | None:
    """Positions that stay by criteria that read no data; None for the others."""
    total, guard = len(plan.layers), (stage.protect.first, stage.protect.last)
    if stage.criterion == "explicit":
        return [i for i, layer in enumerate(plan.layers) if layer not in (stage.layers or ())]
    if stage.criterion == "random":
        return select.keep_random(total, n, seed, *guard)
    if stage.criterion == "last":
        return select.keep_last(total, n, guard[0], max(guard[1], 1))
    if stage.criterion == "every_kth":
        return select.keep_every_kth(total, stage.k or 2, n)
    return None


# --- widths ------------------------------------------------------------------------------------------------------------


def decide_widths(
    stage: WidthStage,
    groups: Sequence[LayerGroups],
    units: Units,
    whole: Sequence[Size],
    ratio: float | None = None,
    share: Fraction = Fraction(1),
) -> Widths:
    """What every layer of the stage keeps.

    ``whole``: (key-value heads, query heads per key-value head, neurons) of each layer before the stage, which ratios refer to; ``ratio``: of
    both parts, where the stage has a target; ``share``: how far an iterative stage is on its way.
    """
    check_ranges(stage, len(groups))
    if stage.scope == "global":
        return _global(stage, groups, units, whole, ratio, share)
    widths: Widths = {}
    for position in range(len(groups)):
        kept = {
            name: _local(stage, part, groups[position], units, position, whole[position], ratio, share)
            for name, part in (("attention", stage.attention), ("mlp", stage.mlp))
            if part is not None and _inside(part, position)
        }
        if kept:
            widths[position] = _widths(stage, groups[position], kept.get("attention"), kept.get("mlp"))
    return widths


def check_ranges(stage: WidthStage, layers: int) -> None:
    """DataError for a range of layers beyond the model."""
    for name, part in (("attention", stage.attention), ("mlp", stage.mlp)):
        if part is not None and part.layers is not None and part.layers[1] > layers:
            raise DataError(f"{name}.layers {list(part.layers)} goes beyond the model's {layers} layers")


def removed_parameters(groups: Sequence[LayerGroups], widths: Mapping[int, LayerWidths]) -> int:
    """Parameters that a cut takes."""
    total = 0
    for position, kept in widths.items():
        group = groups[position]
        total += (group.attention.n_heads - len(kept.heads)) * unit_parameters(group, "query")
        total += (group.attention.n_kv - len(kept.kv_heads)) * unit_parameters(group, "kv")
        total += (group.mlp.width - len(kept.neurons)) * unit_parameters(group, "neuron")
    return total


def target_ratio(stage: WidthStage, present: int, original: int, decide: Callable[[float], int]) -> float | None:
    """The ratio at which the stage meets its target, by bisection; None where it has none. ``decide``: parameters removed at a ratio."""
    target = stage.target_params
    if stage.target_fraction is not None:
        target = select.target_params(original, stage.target_fraction)
    return None if target is None else select.solve_ratio(target, lambda ratio: present - decide(ratio))


def sizes_of(groups: Sequence[LayerGroups]) -> list[Size]:
    """(key-value heads, query heads per key-value head, neurons) of each layer."""
    return [(g.attention.n_kv, g.attention.queries, g.mlp.width) for g in groups]


def _inside(part: Part, position: int) -> bool:
    return part.layers is None or part.layers[0] <= position < part.layers[1]


def _ratio(part: Part, ratio: float | None, share: Fraction) -> Fraction:
    given = ratio if part.ratio is None else part.ratio
    return Fraction(given or 0).limit_denominator(10**9) * share


def _local(
    stage: WidthStage,
    part: Part,
    group: LayerGroups,
    units: Units,
    position: int,
    whole: Size,
    ratio: float | None,
    share: Fraction,
) -> Tensor:
    """Units of one layer that stay: key-value heads, query heads, or neurons."""
    kv, queries, width = whole
    goes, size = _ratio(part, ratio, share), group.attention.head_dim
    if not isinstance(part, AttentionPart):
        count = select.keep_count(width, goes, part.round_to, stage.compat)
        scores = units[position, "neuron"]
    elif part.unit == "kv_group":
        count = select.keep_count(kv, goes, part.round_to, stage.compat, size)
        scores = units[position, "kv_group"]
    else:
        count = select.keep_count(queries, goes, part.round_to, stage.compat, size)
        return _each_group(_query_scores(units, position), group, min(count, group.attention.queries))
    return select.keep_best(scores, min(count, len(scores)))


def _query_scores(units: Units, position: int) -> Tensor:
    return units[position, "query_head" if (position, "query_head") in units else "kv_group"]


def _each_group(scores: Tensor, group: LayerGroups, count: int) -> Tensor:
    """The best ``count`` query heads of every group."""
    queries = group.attention.queries
    kept = [select.keep_best(own, count) + i * queries for i, own in enumerate(torch.split(scores, queries))]
    return torch.cat(kept)


def _widths(stage: WidthStage, group: LayerGroups, attention: Tensor | None, mlp: Tensor | None) -> LayerWidths:
    neurons = None if mlp is None else mlp.tolist()
    if attention is not None and stage.attention is not None and stage.attention.unit == "query_per_group":
        return LayerWidths.by_queries(group, attention.tolist(), neurons)
    return LayerWidths.by_groups(group, None if attention is None else attention.tolist(), neurons)


def _global(
    stage: WidthStage,
    groups: Sequence[LayerGroups],
    units: Units,
    whole: Sequence[Size],
    ratio: float | None,
    share: Fraction,
) -> Widths:
    """Ranked together; the share that is left to remove of what the earlier steps of the stage left."""
    pool: dict[tuple[int, str], select.UnitScores] = {}
    left: dict[str, Fraction] = {}
    now: dict[str, int] = {}
    for kind, part in (("kv_group", stage.attention), ("neuron", stage.mlp)):
        if part is None:
            continue
        inside = [p for p in range(len(groups)) if _inside(part, p)]
        pool |= {(p, kind): _unit_scores(groups[p], kind, units[p, kind]) for p in inside}
        had = sum(whole[p][0 if kind == "kv_group" else 2] * pool[p, kind].parameters for p in inside)
        now[kind] = sum(len(pool[p, kind].scores) * pool[p, kind].parameters for p in inside)
        left[kind] = had * (1 - _ratio(part, ratio, share))
    apart = stage.target_fraction is None and stage.target_params is None
    # Ranked together, earlier steps may have taken from one kind alone: what is left to remove is known of both in sum.
    ratios = (
        {kind: _beyond(left[kind], now[kind]) for kind in now}
        if apart
        else _beyond(sum(left.values()), sum(now.values()))
    )
    kept = select.keep_global(pool, ratios, stage.normalize)
    return {
        p: _widths(stage, groups[p], kept.get((p, "kv_group")), kept.get((p, "neuron")))
        for p in sorted({p for p, _ in kept})
    }


def _beyond(left: Fraction | int, now: int) -> float:
    """Share of what is there now that has to go for ``left`` to stay."""
    return float(max(Fraction(0), 1 - Fraction(left) / now))


def _unit_scores(group: LayerGroups, kind: str, scores: Tensor) -> select.UnitScores:
    if kind == "neuron":
        return select.UnitScores(scores, unit_parameters(group, "neuron"))
    parameters = unit_parameters(group, "kv") + group.attention.queries * unit_parameters(group, "query")
    return select.UnitScores(scores, parameters, group.attention.head_dim)

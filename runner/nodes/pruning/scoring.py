"""Scores of blocks and coupled units of a network on calibration sequences: one forward pass for all criteria that need no more.

Blocks: ``block_influence``, ``angular`` (all runs of blocks), ``perplexity`` (greedy: the block whose removal raises the loss least goes
next), ``random``, ``last``. Units: ``taylor/...``, ``activation``, ``wanda_sp``, ``flap``, ``l1``, ``l2``, ``random``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from runner.errors import DataError
from runner.models.lvlm.anatomy import Anatomy, anatomy
from runner.models.lvlm.capture import run_decoder
from runner.models.lvlm.groups import LayerGroups, coupled_groups
from runner.nodes.pruning import importance as by
from runner.nodes.pruning.collecting import Angles, Columns, ColumnStatistics, Influence, TokenSums
from runner.nodes.pruning.names import (
    OF_BLOCKS,
    OF_COLUMNS,
    OF_WEIGHTS,
    TAYLOR,
    Aggregate,
    Criterion,
    LastState,
    Reduction,
    Saliency,
)
from runner.nodes.pruning.running import Sequences, Subject, mean_loss, skipping
from runner.nodes.pruning.select import random_scores, ranks
from runner.nodes.pruning.taylor import Channels, Tick, taylor_channels

UnitKey = tuple[int, str]
"""Layer and kind: kv_group, query_head or neuron."""
Losses = Callable[[tuple[int, ...], Callable[[], float]], float]


@dataclass(frozen=True)
class Settings:
    """How scores are taken; names as in the step ``prune.score``."""

    last_state: LastState = "pre_norm"
    aggregate: Aggregate = "token_sum"
    reduction: Reduction = "sum"
    seed: int = 42
    checkpointing: bool = False
    greedy_depth: int | None = None


@dataclass(frozen=True)
class BlockScores:
    """Scores of all blocks by one criterion, float64 [L], the lowest going first. ``order`` [L]: place in the order of removal."""

    mean: Tensor | None
    total: Tensor | None
    tokens: int | None
    order: list[int]


@dataclass
class Scores:
    """What ``score_model`` found. ``angles`` float64 [L + 1, L + 1]: mean angle between the states before l and before l + n.

    ``zero_share``: share of exactly zero unit scores by criterion. ``means``: of ``flap``, inputs of o and down by (layer, kind).
    """

    blocks: dict[str, BlockScores] = field(default_factory=dict)
    units: dict[str, dict[UnitKey, Tensor]] = field(default_factory=dict)
    angles: Tensor | None = None
    means: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    zero_share: dict[str, float] = field(default_factory=dict)


def score_model(
    network: Any,
    batches: Sequence[Sequences],
    criteria: Sequence[Criterion],
    settings: Settings | None = None,
    *,
    decoder: str = "auto",
    gradient_batches: Sequence[Sequences] | None = None,
    tick: Tick = lambda: None,
    losses: Losses = lambda skipped, compute: compute(),
) -> Scores:
    """Scores by all criteria. ``gradient_batches``: what Taylor kinds take, one backward pass a batch (default: ``batches``).

    ``tick`` is called after each pass over a batch; ``losses`` may remember the loss without certain blocks. Raises ``DataError`` for
    no sequence, for scores that are not finite, and for scores that are all equal, naming criterion and layer.
    """
    if not batches:
        raise DataError("no calibration sequence: nothing can be scored")
    settings, subject = settings or Settings(), Subject(network, anatomy(network, decoder))
    groups = _groups(subject.anatomy) if any(c not in OF_BLOCKS or c == "random" for c in criteria) else {}
    found = Scores()
    _forward(subject, groups, batches, criteria, settings, found, tick)
    _without_data(subject.anatomy, groups, criteria, settings, found)
    kinds = [cast(Saliency, c.removeprefix(TAYLOR)) for c in criteria if c.startswith(TAYLOR)]
    if kinds:
        per_sample = settings.aggregate == "sample_mean"
        channels = taylor_channels(
            subject, groups, gradient_batches or batches, kinds,
            by_sample=per_sample, checkpointing=settings.checkpointing, tick=tick,
        )  # fmt: skip
        for kind in kinds:
            found.units[TAYLOR + kind] = member_units(groups, channels[kind], kind, settings.reduction)
    if "perplexity" in criteria:
        found.blocks["perplexity"] = greedy(subject, batches, settings, losses, tick)
    _check(found)
    return found


def _groups(parts: Anatomy) -> dict[int, LayerGroups]:
    return {number: coupled_groups(layer, parts.config) for number, layer in enumerate(parts.layers)}


# --- one forward pass ------------------------------------------------------------------------------------------------


def _forward(
    subject: Subject,
    groups: dict[int, LayerGroups],
    batches: Sequence[Sequences],
    criteria: Sequence[Criterion],
    settings: Settings,
    found: Scores,
    tick: Tick,
) -> None:
    """All criteria that one pass without gradients serves."""
    influence = Influence(subject.anatomy, settings.last_state) if "block_influence" in criteria else None
    angles = Angles(subject.anatomy) if "angular" in criteria else None
    columns = ColumnStatistics(groups) if set(OF_COLUMNS) & set(criteria) else None
    watching = [watcher for watcher in (influence, angles, columns) if watcher is not None]
    for batch in batches if watching else ():
        with ExitStack() as stack, torch.no_grad():
            for watcher in watching:
                stack.enter_context(watcher.watching(batch))
            run_decoder(subject.network, batch.inputs, subject.anatomy)
        tick()
    if influence is not None:
        found.blocks["block_influence"] = _block_scores(influence.found, settings.aggregate)
    if angles is not None:
        found.angles = angles.found.means(by_sample=settings.aggregate == "sample_mean")
        found.blocks["angular"] = _block_scores(angles.found, settings.aggregate, _next)
    for criterion in OF_COLUMNS if columns is not None else ():
        if criterion in criteria and columns is not None:
            found.units[criterion] = column_units(groups, columns.found, criterion)
    if "flap" in criteria and columns is not None:
        found.means = {key: column.mean.float().cpu() for key, column in columns.found.items()}


def _next(triangle: Tensor) -> Tensor:
    """From each state to the next: the angle a single block turns the stream by."""
    return triangle.diagonal(1)


def _block_scores(
    found: TokenSums, aggregate: Aggregate, pick: Callable[[Tensor], Tensor] = lambda x: x
) -> BlockScores:
    total, mean = pick(found.sums()), pick(found.means(by_sample=aggregate == "sample_mean"))
    return BlockScores(mean, total, found.tokens, ranks(total if aggregate == "token_sum" else mean))


def column_units(
    groups: Mapping[int, LayerGroups], found: Mapping[tuple[int, str], Columns], criterion: str
) -> dict[UnitKey, Tensor]:
    """Scores of units from what enters o and down."""
    units: dict[UnitKey, Tensor] = {}
    for number, group in groups.items():
        for name, kind, count in _kinds(group):
            output = group.attention_output if kind == "attention" else group.mlp_output
            columns = found[number, kind]
            if criterion == "activation":
                units[number, name] = by.activation_score(columns.sample_squares.sqrt()[None], count)
            else:
                channels = (
                    by.wanda_sp(output.weight, columns.squares)
                    if criterion == "wanda_sp"
                    else by.flap(output.weight, columns.variance)
                )
                units[number, name] = by.unit_sums(channels, count)
    return units


def _kinds(group: LayerGroups) -> list[tuple[str, str, int]]:
    """(kind of unit, attention or mlp, number of units); query heads by themselves where several share a key-value head."""
    attention = group.attention
    kinds = [("kv_group", "attention", attention.n_kv), ("neuron", "mlp", group.mlp.width)]
    if attention.n_heads != attention.n_kv:
        kinds.insert(1, ("query_head", "attention", attention.n_heads))
    return kinds


# --- weights and gradients ---------------------------------------------------------------------------------------------


def member_units(
    groups: Mapping[int, LayerGroups], channels: Channels, kind: Saliency, reduction: Reduction
) -> dict[UnitKey, Tensor]:
    """Channel scores of members to scores of units."""
    units: dict[UnitKey, Tensor] = {}
    for number, group in groups.items():
        sizes, own = group.attention, channels[number, "attention"]
        units[number, "kv_group"] = by.group_scores(
            own, kind, reduction, heads=sizes.n_heads, kv_heads=sizes.n_kv, head_dim=sizes.head_dim
        )
        if sizes.n_heads != sizes.n_kv:
            units[number, "query_head"] = by.query_head_scores(own[0], own[-1], sizes.n_heads, kind, reduction)
        units[number, "neuron"] = by.group_scores(channels[number, "mlp"], kind, reduction)
    return units


def magnitude_channels(groups: Mapping[int, LayerGroups], kind: Saliency) -> Channels:
    """``l1`` or ``l2`` of rows and columns."""
    return {
        (number, name): [
            by.channel_scores(by.weight_saliency(kind, weight), axis, kind) for weight, axis in group.views(name)
        ]
        for number, group in groups.items()
        for name in ("attention", "mlp")
    }


def _without_data(
    parts: Anatomy,
    groups: Mapping[int, LayerGroups],
    criteria: Sequence[Criterion],
    settings: Settings,
    found: Scores,
) -> None:
    """Criteria that read no sequence."""
    layers = len(parts.layers)
    for kind in OF_WEIGHTS:
        if kind in criteria:
            saliency = cast(Saliency, kind)
            with torch.no_grad():
                channels = magnitude_channels(groups, saliency)
            found.units[kind] = member_units(groups, channels, saliency, settings.reduction)
    if "last" in criteria:
        depth = torch.arange(layers, 0, -1).double()
        depth[-1] = layers + 1  # the final block goes last
        found.blocks["last"] = BlockScores(depth, None, None, ranks(depth))
    if "random" in criteria:
        lot = random_scores(layers, settings.seed)
        found.blocks["random"] = BlockScores(lot, None, None, ranks(lot))
        names = [(number, name, count) for number, group in groups.items() for name, _, count in _kinds(group)]
        drawn = random_scores(sum(count for *_, count in names), settings.seed)
        shares = torch.split(drawn, [count for *_, count in names])
        found.units["random"] = {(n, name): part for (n, name, _), part in zip(names, shares, strict=True)}


# --- greedy ------------------------------------------------------------------------------------------------------------


def greedy(
    subject: Subject, batches: Sequence[Sequences], settings: Settings, losses: Losses, tick: Tick
) -> BlockScores:
    """Remove the block without which the loss is least, again and again (as SLEB does).

    A block's score is the loss at which it went, or in the last round (``greedy_depth``: rounds) without it; at least one stays.
    """
    layers = len(subject.anatomy.layers)
    rounds = min(settings.greedy_depth or layers - 1, layers - 1)
    by_sample = settings.aggregate == "sample_mean"
    gone: list[int] = []
    score = torch.full((layers,), float("nan"), dtype=torch.float64)

    def loss(skipped: tuple[int, ...]) -> float:
        with skipping(subject, skipped):
            value = mean_loss(subject, batches, by_sample=by_sample)
        tick()
        return value

    for _ in range(rounds):
        left = [number for number in range(layers) if number not in gone]
        for number in left:
            skipped = tuple(sorted([*gone, number]))
            score[number] = losses(skipped, lambda skipped=skipped: loss(skipped))  # type: ignore[misc]
        if not score[left].isfinite().all():
            raise DataError("criterion perplexity: the loss is not finite without some block")
        gone.append(min(left, key=lambda number: float(score[number])))
    left = sorted((n for n in range(layers) if n not in gone), key=lambda n: (float(score[n]), n))
    order = torch.empty(layers, dtype=torch.int64)
    order[torch.tensor([*gone, *left])] = torch.arange(layers)
    tokens = sum(int(batch.counts.sum()) for batch in batches)
    return BlockScores(score, None, tokens, order.tolist())


# --- checks ------------------------------------------------------------------------------------------------------------


def _check(found: Scores) -> None:
    """Refuse what ranks nothing; count exact zeros."""
    for criterion, block in found.blocks.items():
        _refuse(criterion, "the blocks", block.mean)
    for criterion, units in found.units.items():
        for (layer, kind), scores in units.items():
            _refuse(criterion, f"layer {layer}, {kind}", scores)
        zeros = sum(int((scores == 0).sum()) for scores in units.values())
        found.zero_share[criterion] = zeros / sum(len(scores) for scores in units.values())


def _refuse(criterion: str, where: str, scores: Tensor | None) -> None:
    if scores is None:
        return
    if not scores.isfinite().all():
        raise DataError(
            f"criterion {criterion}: scores of {where} are not finite",
            hint="Weights or activations overflow in this dtype: load the model in float32 or bfloat16.",
        )
    if len(scores) > 1 and (scores == scores[0]).all():
        raise DataError(
            f"criterion {criterion}: all scores of {where} equal {float(scores[0]):g}, which ranks nothing",
            hint="In half precision small gradients vanish: load the model in bfloat16 or float32, or take another criterion.",
        )

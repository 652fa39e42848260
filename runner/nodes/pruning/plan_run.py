"""Foreseeing a cut from the config alone, on a network without memory for its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from results.tables import arrow_table
from runner.errors import ModelRefused
from runner.models.base import VisionLanguageModel
from runner.models.lvlm import pruned
from runner.models.lvlm.plans import Plan
from runner.nodes.pruning.apply import count, layer_groups
from runner.nodes.pruning.cut_run import Cut, Stage
from runner.nodes.pruning.cut_scores import Scorer
from runner.nodes.pruning.scoring import Settings
from runner.nodes.pruning.specs import NEEDS_SCORES, WITHOUT_DATA, LayerStage, WidthStage

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Blind(Scorer):
    """Scores that rise with the index: counts do not depend on them unless layers are ranked together."""

    def blocks(self, criterion: str, plan: Plan, *, untouched: bool) -> tuple[list[int], Tensor | None]:
        """By index."""
        return list(range(len(plan.layers))), None

    def distances(self, n: int, plan: Plan, *, untouched: bool) -> Tensor:
        """All alike."""
        return torch.zeros(len(plan.layers) - n + 1)

    def units(self, criterion: str, plan: Plan, *, untouched: bool) -> dict[tuple[int, str], Tensor]:
        """By index."""
        found: dict[tuple[int, str], Tensor] = {}
        for position, group in enumerate(layer_groups(self.network, self.decoder)):
            sizes = {"kv_group": group.attention.n_kv, "query_head": group.attention.n_heads, "neuron": group.mlp.width}
            found |= {(position, kind): torch.arange(size, dtype=torch.float64) for kind, size in sizes.items()}
        return found

    def means(self, plan: Plan, position: int, kind: str, head_dim: int) -> Tensor:
        """None are known: zeros."""
        group = layer_groups(self.network, self.decoder)[position]
        output = group.attention_output if kind == "attention" else group.mlp_output
        return torch.zeros(output.in_features, device="meta")


class Foreseen(Cut):
    """A cut whose unit rows nobody reads."""

    def _record(self, number: int, criterion: str, units: Any, widths: Any) -> None:
        pass


def simulate(model: VisionLanguageModel, stages: Sequence[Stage], label: str, seed: int) -> Foreseen:
    """Cut the model's skeleton. Raises what the cut itself would raise over numbers: ``DataError``, ``ModelRefused``."""
    network = pruned.skeleton(model.folder)
    scorer = Blind(network, model.decoder, None, None, Settings(seed=seed))
    groups = layer_groups(network, model.decoder)
    cut = Foreseen(None, network, model.decoder, scorer, label, seed, count(network, model.decoder), Plan.whole(groups))
    cut.run(stages)
    return cut


def refuse_impossible(model: VisionLanguageModel, stages: Sequence[Stage], format: str, seed: int) -> None:
    """Refuse before weights are read: numbers that do not fit the model, and ``uniform`` where layers will differ for certain."""
    if format == "masked" and (model.folder / pruned.MANIFEST).is_file():
        raise ModelRefused(
            f"format masked: {model.name} is cut already ({pruned.MANIFEST}), so its shapes are not those of a stock model",
            hint="Write `format: manifest`, or cut the original in one go.",
        )
    if format == "masked" and any(isinstance(stage, WidthStage) and stage.compensate for stage in stages):
        raise ModelRefused(
            "format masked: the original's weights with zeros have no place for the biases of compensate",
            hint="Write `format: manifest`, or leave compensate out.",
        )
    cut = simulate(model, stages, "planned", seed)
    ranked = any(isinstance(stage, WidthStage) and stage.scope == "global" for stage in stages)
    if format == "uniform" and not ranked:
        pruned.refuse_unequal(cut.plan)


def foresee(model: VisionLanguageModel, stages: Sequence[Stage], label: str, seed: int) -> tuple[Any, list[str]]:
    """Rows of ``prune_model`` with expected bytes, and what only data can tell."""
    cut, notes, known = simulate(model, stages, label, seed), [], True
    rows = cut.model_rows
    for number, (row, stage) in enumerate(zip(rows[1:], stages, strict=True)):
        if isinstance(stage, LayerStage) and stage.criterion in NEEDS_SCORES:
            known = False
            gone = len(rows[number]["heads_kept"]) - len(row["heads_kept"])
            notes.append(f"stages[{number}]: {gone} layers go; which ones, {stage.criterion} on data decides")
        elif isinstance(stage, WidthStage) and stage.criterion not in WITHOUT_DATA:
            notes.append(
                f"stages[{number}]: how many heads and neurons go is known; which ones, {stage.criterion} on data decides"
            )
        if isinstance(stage, WidthStage) and stage.scope == "global":
            notes.append(f"stages[{number}]: ranked over all layers: only the total is known, not how layers share it")
            row["heads_kept"], row["neurons_kept"] = [], []
        if not known:
            row["layers_kept"] = []
    size = BYTES.get(model.dtype)
    if size is None:
        raise ModelRefused(f"{model.name}: dtype {model.dtype!r} is not among {', '.join(BYTES)}")
    for row in rows:
        row["bytes"] = row["params_total"] * size
    return arrow_table("prune_model", rows), notes

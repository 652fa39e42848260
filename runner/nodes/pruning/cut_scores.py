"""Scores of a network in the middle of its cutting: those given, for what is left of them, or taken anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from runner.artifacts.lvlm import PruneScores
from runner.errors import DataError
from runner.models.lvlm.plans import Plan
from runner.nodes.pruning.apply import layer_groups
from runner.nodes.pruning.calibration import Calibration
from runner.nodes.pruning.names import Criterion, Saliency
from runner.nodes.pruning.scoring import Scores, Settings, magnitude_channels, member_units, score_model
from runner.nodes.pruning.select import random_scores
from runner.nodes.pruning.specs import WITHOUT_DATA

FIELDS = {"kv_group": "kv_heads", "query_head": "heads", "neuron": "neurons"}


@dataclass
class Scorer:
    """``given``: scores of the original model, used while nothing has been cut, or throughout where there is no ``found``."""

    network: Any
    decoder: str
    given: PruneScores | None
    found: Calibration | None
    settings: Settings

    def blocks(self, criterion: str, plan: Plan, *, untouched: bool) -> tuple[list[int], Tensor | None]:
        """Place of each present block in the order of removal, and its score where there is one."""
        if self._is_given(criterion, untouched):
            rows = [r for r in _given(self.given).layer_scores.to_pylist() if r["criterion"] == criterion]
            by_layer = {r["layer"]: r for r in rows}
            order = [by_layer[layer]["rank"] for layer in plan.layers]
            values = [by_layer[layer]["score_mean"] for layer in plan.layers]
            return order, None if None in values else torch.tensor(values, dtype=torch.float64)
        block = self._fresh(criterion).blocks[criterion]
        return block.order, block.mean

    def distances(self, n: int, plan: Plan, *, untouched: bool) -> Tensor:
        """Angle that each run of ``n`` present blocks turns the stream by, float64 [L - n + 1]."""
        if not self._is_given("angular", untouched):
            angles = self._fresh("angular").angles
            assert angles is not None
            return angles.diagonal(n)
        if plan.layers != tuple(range(len(plan.layers))):
            raise DataError(
                "criterion angular measures runs of the model as scored: give `calibration` to score it anew"
            )
        rows = [r for r in _given(self.given).distances.to_pylist() if r["n"] == n]
        return torch.tensor([r["distance"] for r in sorted(rows, key=lambda r: r["start"])], dtype=torch.float64)

    def units(self, criterion: str, plan: Plan, *, untouched: bool) -> dict[tuple[int, str], Tensor]:
        """Scores of the units that are left, by position and kind."""
        if criterion in WITHOUT_DATA:
            return self._data_free(criterion)
        if self._is_given(criterion, untouched):
            return _left(_table_units(_given(self.given), criterion), plan)
        return {key: value.double().cpu() for key, value in self._fresh(criterion).units[criterion].items()}

    def means(self, plan: Plan, position: int, kind: str, head_dim: int) -> Tensor:
        """Mean input of o or down of a present layer, from what ``flap`` was scored with."""
        stored = _given(self.given).means.get(f"{plan.layers[position]}.{kind}") if self.given is not None else None
        if stored is None:
            raise DataError("compensate wants the mean inputs of criterion flap: give `scores` that hold it")
        widths, values = plan.widths[position], torch.as_tensor(stored)
        if kind == "mlp":
            return values[torch.tensor(widths.neurons)]
        heads = torch.tensor(widths.heads)
        return values[(heads[:, None] * head_dim + torch.arange(head_dim)).flatten()]

    def _is_given(self, criterion: str, untouched: bool) -> bool:
        has = self.given is not None and criterion in self.given.criteria
        if not has and self.found is None:
            raise DataError(
                f"no scores by {criterion}: `scores` has {', '.join(self.given.criteria) if self.given else 'not been given'}",
                hint=f"Name {criterion} among the criteria of prune.score, or give `calibration` to score here.",
            )
        return has and (untouched or self.found is None)

    def _fresh(self, criterion: str) -> Scores:
        assert self.found is not None
        return score_model(
            self.network, self.found.batches, [cast(Criterion, criterion)], self.settings, decoder=self.decoder,
            gradient_batches=self.found.gradients or None,
        )  # fmt: skip

    def _data_free(self, criterion: str) -> dict[tuple[int, str], Tensor]:
        groups = dict(enumerate(layer_groups(self.network, self.decoder)))
        if criterion != "random":
            kind = cast(Saliency, criterion)
            with torch.no_grad():
                units = member_units(groups, magnitude_channels(groups, kind), kind, self.settings.reduction)
            return {key: value.double().cpu() for key, value in units.items()}
        sizes = {
            (p, k): n for p, g in groups.items() for k, n in (("kv_group", g.attention.n_kv), ("neuron", g.mlp.width))
        }
        sizes |= {(p, "query_head"): g.attention.n_heads for p, g in groups.items()}
        parts = torch.split(random_scores(sum(sizes.values()), self.settings.seed), list(sizes.values()))
        return dict(zip(sizes, parts, strict=True))


def _given(scores: PruneScores | None) -> PruneScores:
    assert scores is not None
    return scores


def _table_units(scores: PruneScores, criterion: str) -> dict[tuple[int, str], Tensor]:
    """Scores by (original layer, kind) from the table, whole columns at a time."""
    import numpy as np
    import pyarrow.compute as pc

    table = scores.unit_scores.filter(pc.field("criterion") == criterion)
    layers, units = (table[n].to_numpy() for n in ("layer", "unit"))
    kinds, values = np.asarray(table["kind"].to_pylist()), table["score"].to_numpy()
    found = {}
    for layer in np.unique(layers):
        for kind in FIELDS:
            here = np.flatnonzero((layers == layer) & (kinds == kind))
            if len(here):
                found[int(layer), kind] = torch.from_numpy(values[here[np.argsort(units[here])]].copy())
    return found


def _left(units: dict[tuple[int, str], Tensor], plan: Plan) -> dict[tuple[int, str], Tensor]:
    """Of scores by original layer and unit, those that a plan keeps, by position."""
    return {
        (position, kind): units[layer, kind][torch.tensor(getattr(plan.widths[position], name))]
        for position, layer in enumerate(plan.layers)
        for kind, name in FIELDS.items()
        if (layer, kind) in units
    }

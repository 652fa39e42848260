"""Checked experts as rows of the results: norms and cosines of what they change, sums of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runner.nodes.lora_geometry import cosines, pair_rows
from runner.nodes.merging.checkpoints import FLOATING, Checkpoint
from runner.nodes.merging.checks import Checked, ExpertFacts, check_experts
from runner.nodes.merging.experts import Expert, differences, open_expert
from runner.nodes.merging.geometry import inner

if TYPE_CHECKING:
    from runner.artifacts import Experts


FAR = 0.5
"""Distance of a whole expert from the base, in norms of the base, beyond which it is hardly trained from it (ours)."""


@dataclass(frozen=True)
class Described:
    """Rows of ``dmo_expert`` and ``dmo_geometry``, and what a reader should know."""

    experts: list[dict[str, Any]]
    geometry: list[dict[str, Any]]
    facts: tuple[ExpertFacts, ...]
    warnings: tuple[str, ...]


def describe(
    base_folder: Path,
    paths: Mapping[str, Path],
    domains: Mapping[str, str | None] | None = None,
    *,
    base_name: str = "",
) -> Described:
    """Check experts and measure them. ``domains``: of each, default its name (None: a model of a mixture). ``base_name``: the base's own.

    Raises ``ModelRefused``; see ``check_experts``; also where an expert holds a value that is not finite.
    """
    checked = check_experts(base_folder, paths, base_name)
    base = Checkpoint(base_folder)
    experts = [open_expert(fact.name, fact.path, base) for fact in checked.experts]
    table = gram_of(base, experts)
    whole = norm_of(base) if any(fact.kind == "full" for fact in checked.experts) else 0.0
    norms = table.diagonal().clamp(min=0).sqrt().tolist()
    rows = [
        {
            "name": fact.name, "domain": fact.name if domains is None else domains[fact.name], "path": str(fact.path),
            "kind": fact.kind, "sha256": fact.sha256, "rank": fact.rank, "scaling": fact.scaling, "n_tensors": fact.merged,
            "delta_norm": norm,
        } for fact, norm in zip(checked.experts, norms, strict=True)
    ]  # fmt: skip
    return Described(rows, pair_rows(list(paths), cosines(table)), checked.experts, _warnings(checked, norms, whole))


def gram_of(base: Checkpoint, experts: Sequence[Expert]) -> Tensor:
    """Inner products of the experts' differences, float64 [K, K], tensor by tensor; whole ones are never held together."""
    count = len(experts)
    table = torch.zeros(count, count, dtype=torch.float64)
    for _, found in differences(base, experts):
        for i in range(count):
            for j in range(i, count):
                one, other = found[i], found[j]
                if one is not None and other is not None:
                    table[i, j] += inner(one, other)
    return table.triu() + table.triu(1).T


def norm_of(base: Checkpoint) -> float:
    """Euclidean norm of all floating tensors of a checkpoint, read one at a time."""
    names = [name for name, entry in base.entries.items() if entry.dtype in FLOATING]
    return math.hypot(*(float(torch.linalg.vector_norm(base.tensor(name).float())) for name in names))


def expert_paths(experts: Experts) -> dict[str, Path]:
    """Where the weights of each model of an artifact stand, in order."""
    return {model["name"]: experts.folder / model["path"] for model in experts.models}


def _warnings(checked: Checked, norms: list[float], base: float) -> tuple[str, ...]:
    """``base``: norm of the base's weights."""
    named = list(zip(checked.experts, norms, strict=True))
    zero = [f"expert {fact.name} equals the base: it changes nothing" for fact, norm in named if norm == 0]
    far = [
        f"expert {fact.name} lies {norm / base if base else float('inf'):.2g} times the base's own norm away from it: fine-tuning moves "
        "weights far less, so it was probably not trained from this base"
        for fact, norm in named if fact.kind == "full" and norm > FAR * base
    ]  # fmt: skip
    return (*checked.warnings, *zero, *far)

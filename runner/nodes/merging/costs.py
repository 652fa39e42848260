"""What ranking mixtures by merged experts takes, beside training a model on every mixture. Plain Python on rows.

One side: a training run an expert, a merge and an evaluation a mixture. The other: a training run and an evaluation a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runner.artifacts import Experts, MixtureScores


def account(scores: MixtureScores, experts: Experts | None = None, trained: Experts | None = None) -> dict[str, Any]:
    """Runs of both sides, and their seconds where they are known (else None).

    ``experts``, ``trained``: models of the domains and of mixtures, whose summaries tell how long each trained. Without
    ``trained`` a run on a mixture is taken to last as long as the mean expert: ``training_estimated`` then says so.
    """
    merges, evaluated = scores.merges.to_pylist(), scores.scores.to_pylist()
    mixtures = scores.mixtures.num_rows
    expert_seconds, mixture_seconds = training_seconds(experts), training_seconds(trained)
    estimated = not mixture_seconds and bool(expert_seconds)
    each = _mean(mixture_seconds or expert_seconds)
    proxy = {
        "training_runs": len(scores.domains),
        "training_seconds": _total(expert_seconds),
        "merges": len(merges),
        "merge_seconds": _total([row["seconds"] for row in merges]),
        "bytes_written": sum(row["bytes_written"] or 0 for row in merges),
        "evaluations": sum(row["n"] > 0 for row in evaluated),
        "items": sum(row["n"] for row in evaluated),
        "evaluation_seconds": _total([row["seconds"] for row in evaluated if row["n"]]),
    }
    direct = {
        "training_runs": mixtures,
        "training_seconds": None if each is None else each * mixtures,
        "training_estimated": estimated,
    }
    return {"proxy": proxy, "direct": direct, "saved_seconds": _saved(proxy, direct)}


def cost_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of ``dmo_cost`` of an ``account``: one a side."""
    return [{"side": side, **found[side], "saved_seconds": found["saved_seconds"]} for side in ("proxy", "direct")]


def training_seconds(models: Experts | None) -> list[float]:
    """Of each model; empty unless all are known."""
    found = [] if models is None else [_seconds(model.get("summary")) for model in models.models]
    return [] if any(one is None for one in found) else [one for one in found if one is not None]


def _seconds(summary: Any) -> float | None:
    value = summary.get("seconds") if isinstance(summary, Mapping) else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if known else None  # type: ignore[arg-type]


def _total(seconds: Sequence[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return math.fsum(known) if known and len(known) == len(seconds) else None


def _mean(seconds: Sequence[float]) -> float | None:
    return math.fsum(seconds) / len(seconds) if seconds else None


def _saved(proxy: Mapping[str, Any], direct: Mapping[str, Any]) -> float | None:
    """Training of the mixtures less training of the experts and merging; evaluations are the same on both sides."""
    spent = [proxy["training_seconds"], proxy["merge_seconds"]]
    if direct["training_seconds"] is None or any(one is None for one in spent):
        return None
    return float(direct["training_seconds"] - math.fsum(spent))

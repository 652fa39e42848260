"""One table of probe scores an extractor and layer: fitted on train, scored on test, with its bootstrap replicates."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from runner.nodes.leakage.linear_probe import LinearProbe
from runner.nodes.leakage.logistic_probe import logistic_probe
from runner.nodes.leakage.mlp_probe import MlpProbe, mlp_probe
from runner.nodes.leakage.ranking import MEASURES, base_rate, rank, weighted_ap, weighted_auroc
from runner.nodes.leakage.resampling import Form, bootstrap
from runner.nodes.leakage.ridge_probe import ridge_grid, ridge_probe

Kind = Literal["ridge", "logreg", "mlp"]
Vectors = Callable[[Tensor, int], Tensor]
"""Row numbers [r] and source -> float64 [r, D]."""

SCORED, ABSENT, UNLABELLED, FEW_TRAIN, FEW_TEST, ITSELF, UNBALANCED, NOTHING_TO_READ = range(8)


def reason_text(code: int, min_pos: int) -> str | None:
    """What stands in ``skipped_reason``."""
    return {
        SCORED: None,
        ABSENT: "the part is absent in every picture of train or test",
        UNLABELLED: "no picture of train or test has both a valid label and the part that the attribute describes",
        FEW_TRAIN: f"fewer than {min_pos} positives or negatives in train",
        FEW_TEST: f"fewer than {min_pos} positives or negatives in test",
        ITSELF: "labels of the part itself are not predicted by this control",
        UNBALANCED: f"fewer than {min_pos} positives and negatives are left in test once labels are balanced",
        NOTHING_TO_READ: "the part has no attribute of its own",
    }[code]


@dataclass(frozen=True)
class Settings:
    """How probes are fitted and judged; ``penalty`` lambda (ridge) or C (logreg); ``grid`` ridge only."""

    kind: Kind
    penalty: float
    grid: tuple[float, ...]
    min_pos: int
    metrics: tuple[str, ...]
    form: Form
    seed: int


@dataclass
class ProbeTable:
    """Scores [S, A] (NaN where skipped), counts int64 [S, A], ``reason`` int64 [S, A], ``replicates`` float32 [B, S, A] by metric.

    ``ap`` is average precision itself; replicates of ``ap`` and averages are minus the base rate. ``beside``: an extractor whose
    presence was asked for as well, so that both can be compared on the same pictures; such tables serve comparisons only.
    """

    name: str
    layer: int
    kind: Kind
    auroc: Tensor
    ap: Tensor
    base: Tensor
    penalty: Tensor
    n_train: Tensor
    n_test: Tensor
    reason: Tensor
    replicates: dict[str, Tensor] = field(default_factory=dict)
    beside: str | None = None

    def points(self, metric: str) -> Tensor:
        """What is averaged for ``metric``: [S, A]."""
        return self.auroc if metric == "auroc" else self.ap - self.base

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        arrays = {f.name: getattr(self, f.name).cpu().numpy() for f in fields(self) if f.name in _TENSORS}
        arrays |= {f"replicates.{name}": one.cpu().numpy() for name, one in self.replicates.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        draft = path.with_suffix(".part")
        draft.write_bytes(buffer.getvalue())
        draft.replace(path)

    @classmethod
    def load(cls, path: Path, name: str, layer: int, kind: Kind, device: str) -> ProbeTable:
        """What ``save`` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            found = {n: torch.from_numpy(stored[n]).to(device) for n in stored.files}
        replicates = {n.partition(".")[2]: one for n, one in found.items() if n.startswith("replicates.")}
        named: dict[str, Any] = {n: found[n] for n in _TENSORS}
        return cls(name, layer, kind, **named, replicates=replicates)


_TENSORS = ("auroc", "ap", "base", "penalty", "n_train", "n_test", "reason")


def empty_table(
    name: str, layer: int, kind: Kind, shape: tuple[int, int], settings: Settings, resamples: int, device: str
) -> ProbeTable:
    """All of it skipped as yet."""
    skipped = [torch.full(shape, torch.nan, dtype=torch.float64, device=device) for _ in range(4)]
    counts = [torch.zeros(shape, dtype=torch.int64, device=device) for _ in range(3)]
    named: dict[str, Any] = dict(zip(_TENSORS, [*skipped, *counts], strict=True))
    replicates = {m: torch.full((resamples, *shape), torch.nan, device=device) for m in settings.metrics}
    return ProbeTable(name, layer, kind, **named, replicates=replicates)


class Fitted(NamedTuple):
    """A probe of the attributes ``columns`` (int64 [k]) from one source, with penalties [A], n_train [A] and reasons [A]."""

    probe: LinearProbe | MlpProbe
    columns: Tensor
    penalty: Tensor
    n_train: Tensor
    reason: Tensor


class Labels(NamedTuple):
    """``value``, ``allowed`` bool [n, A]: of what is predicted, and where it counts."""

    value: Tensor
    allowed: Tensor


def enough(positive: Tensor, negative: Tensor, rows: int, min_pos: int, few: int) -> Tensor:
    """Reason [A] from numbers of positives and negatives [A]."""
    reason = torch.where(torch.minimum(positive, negative) < min_pos, few, SCORED)
    return torch.where(positive + negative == 0, UNLABELLED if rows else ABSENT, reason)


def fit(
    vectors: Vectors,
    source: int,
    train: Tensor,
    val: Tensor,
    labels: Labels,
    settings: Settings,
    left_out: Tensor | None = None,
) -> Fitted:
    """Fit every attribute with enough positives and negatives among ``train``, the rows where the source is present.

    ``left_out`` int64 [A]: codes of attributes that are not to be fitted, 0 for the others.
    """
    value, kept = labels.value[train], labels.allowed[train]
    positive, negative = (kept & value).sum(0), (kept & ~value).sum(0)
    reason = enough(positive, negative, len(train), settings.min_pos, FEW_TRAIN)
    if left_out is not None:
        reason = torch.where(left_out == SCORED, reason, left_out)
    columns = (reason == SCORED).nonzero().flatten()
    penalty = torch.full_like(reason, torch.nan, dtype=torch.float64)
    if not len(columns):
        return Fitted(MlpProbe((), 0), columns, penalty, positive + negative, reason)
    probe, chosen = _probe(vectors, source, train, val, Labels(*(t[:, columns] for t in labels)), settings)
    if chosen is not None:
        penalty[columns] = chosen
    return Fitted(probe, columns, penalty, positive + negative, reason)


def _probe(
    vectors: Vectors, source: int, train: Tensor, val: Tensor, labels: Labels, settings: Settings
) -> tuple[LinearProbe | MlpProbe, Tensor | float | None]:
    x = vectors(train, source)
    y, kept = labels.value[train], labels.allowed[train]
    if settings.kind == "logreg":
        return logistic_probe(x, y, kept, settings.penalty), settings.penalty
    if settings.kind == "ridge" and not settings.grid:
        return ridge_probe(x, y, kept, settings.penalty), settings.penalty
    held_out = (vectors(val, source), labels.value[val], labels.allowed[val])
    if settings.kind == "ridge":
        chosen = ridge_grid(x, y, kept, held_out, settings.grid)
        return chosen.probe, chosen.penalty
    return mlp_probe(x, y, kept, held_out, seed=settings.seed), None


class Scoring(NamedTuple):
    """Test rows of one source [r], labels, their draws uint8 [B, r], and weights float64 [r, A] or None."""

    rows: Tensor
    labels: Labels
    draws: Tensor
    weights: Tensor | None = None


def score(table: ProbeTable, source: int, fitted: Fitted, vectors: Vectors, on: Scoring, settings: Settings) -> None:
    """Fill the row ``source`` of ``table`` in place."""
    value, kept = on.labels.value[on.rows], on.labels.allowed[on.rows]
    reason = _test_reason(value, kept, on, settings.min_pos)
    reason = torch.where(fitted.reason == SCORED, reason, fitted.reason)
    table.reason[source] = torch.where(table.reason[source] == SCORED, reason, table.reason[source])
    table.n_train[source], table.n_test[source] = fitted.n_train, kept.sum(0)
    table.penalty[source] = fitted.penalty
    known = (kept.sum(0) > 0).nonzero().flatten()
    table.base[source, known] = (kept & value).sum(0)[known].double() / kept.sum(0)[known]
    picked = (table.reason[source, fitted.columns] == SCORED).nonzero().flatten()
    if len(picked):
        _judge(table, source, fitted, picked, vectors(on.rows, source), on, settings)


def _test_reason(value: Tensor, kept: Tensor, on: Scoring, min_pos: int) -> Tensor:
    positive, negative = (kept & value).sum(0), (kept & ~value).sum(0)
    reason = enough(positive, negative, len(on.rows), min_pos, FEW_TEST)
    if on.weights is None:
        return reason
    left = (on.weights * (kept & value)).sum(0)
    return torch.where((reason == SCORED) & (left < min_pos - 1e-6), UNBALANCED, reason)


def _judge(
    table: ProbeTable, source: int, fitted: Fitted, picked: Tensor, x: Tensor, on: Scoring, settings: Settings
) -> None:
    columns = fitted.columns[picked]
    value, kept = (t[on.rows][:, columns] for t in on.labels)
    weights = None if on.weights is None else on.weights[:, columns]
    ranking = rank(fitted.probe.scores(x)[:, picked], value, kept)
    start = torch.ones_like(ranking.positive) if weights is None else weights.T.gather(-1, ranking.order)
    table.auroc[source, columns] = weighted_auroc(ranking, start)
    table.ap[source, columns] = weighted_ap(ranking, start)
    table.base[source, columns] = base_rate(ranking, start)
    for metric in settings.metrics:
        if len(on.draws):
            drawn = bootstrap(MEASURES[metric], ranking, on.draws, settings.form, weights)
            table.replicates[metric][:, source, columns] = drawn.float()

"""Area under the ROC curve and average precision, many columns at once, with weights and ties. Pure torch, any device.

Scores are sorted once a column; every weighting of the rows (a bootstrap resample is one) then costs cumulative sums. Both
measures treat rows of equal score as one threshold: mid-ranks for AUROC, one step of the curve for average precision, as
scikit-learn's ``roc_auc_score`` and ``average_precision_score`` do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NAMES = ("auroc", "ap")


class Ranking(NamedTuple):
    """Columns sorted by score, ascending; all [A, m].

    ``order`` int64: the row at each place. ``positive``, ``negative``: 1 where that row counts as such, float64; both 0 where it
    is not valid. ``first``, ``last`` int64: places where the run of equal scores begins and ends; None without any ties.
    """

    order: Tensor
    positive: Tensor
    negative: Tensor
    first: Tensor | None
    last: Tensor | None


def rank(scores: Tensor, targets: Tensor, valid: Tensor | None = None) -> Ranking:
    """Sort columns. ``scores`` float [m, A]; ``targets`` [m, A] of 0 and 1 (or bool); ``valid`` [m, A], None: all rows.

    Raises ValueError for shapes that differ and for scores of valid rows that are not finite.
    """
    valid = torch.ones_like(targets, dtype=torch.bool) if valid is None else valid.bool()
    if not scores.shape == targets.shape == valid.shape or scores.ndim != 2:
        raise ValueError(f"scores, targets, valid must be one [m, A]: {scores.shape}, {targets.shape}, {valid.shape}")
    if not bool((scores.isfinite() | ~valid).all()):
        raise ValueError("scores of valid rows must be finite")
    ordered, order = torch.where(valid, scores, 0).T.contiguous().sort(dim=-1)
    kept, hits = valid.T.gather(-1, order), targets.T.bool().gather(-1, order)
    first, last = _runs(ordered)
    return Ranking(order, (kept & hits).double(), (kept & ~hits).double(), first, last)


def _runs(ordered: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Where the run of equal values around each place of [A, m] begins and ends."""
    m = ordered.shape[-1]
    changes = ordered[:, 1:] != ordered[:, :-1]
    if bool(changes.all()):
        return None, None
    place = torch.arange(m, device=ordered.device)
    edge = torch.ones_like(ordered[:, :1], dtype=torch.bool)
    first = torch.where(torch.cat([edge, changes], -1), place, 0).cummax(-1).values
    last = torch.where(torch.cat([changes, edge], -1), place, m).flip(-1).cummin(-1).values.flip(-1)
    return first, last


def _at(values: Tensor, places: Tensor | None) -> Tensor:
    return values if places is None else values.gather(-1, places.expand(values.shape))


def weighted_auroc(ranking: Ranking, weights: Tensor) -> Tensor:
    """Share of pairs (positive, negative) in the right order, ties half, each pair by the product of its weights.

    ``weights`` [..., A, m] >= 0 in sorted places (row weights gathered by ``ranking.order``) -> [..., A]; NaN without weight on
    one of the two classes. Equals the AUROC of rows repeated as often as their weights say. Differentiable in ``weights``.
    """
    positive, negative = weights * ranking.positive.to(weights), weights * ranking.negative.to(weights)
    passed = negative.cumsum(-1)
    below = _at(passed - negative, ranking.first)
    right = (positive * (below + _at(passed, ranking.last))).sum(-1) / 2
    return _ratio(right, positive.sum(-1) * negative.sum(-1))


def weighted_ap(ranking: Ranking, weights: Tensor) -> Tensor:
    """Average precision: precision at each distinct threshold, weighted by the recall it adds. Shapes as ``weighted_auroc``.

    NaN without weight on positives.
    """
    positive, negative = weights * ranking.positive.to(weights), weights * ranking.negative.to(weights)
    hits, misses = (_at_or_above(values, ranking.first) for values in (positive, negative))
    seen = hits + misses
    precision = hits / torch.where(seen > 0, seen, 1)
    return _ratio((positive * precision).sum(-1), positive.sum(-1))


def _at_or_above(values: Tensor, first: Tensor | None) -> Tensor:
    """Sum of ``values`` over places of equal or higher score."""
    return _at(values.flip(-1).cumsum(-1).flip(-1), first)


def base_rate(ranking: Ranking, weights: Tensor) -> Tensor:
    """Share of positives by weight [..., A]; NaN without any weight."""
    positive, negative = ((weights * one.to(weights)).sum(-1) for one in (ranking.positive, ranking.negative))
    return _ratio(positive, positive + negative)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / torch.where(below > 0, below, 1), torch.nan)


def ap_above_base(ranking: Ranking, weights: Tensor) -> Tensor:
    """Average precision minus the base rate, which is what chance gives."""
    return weighted_ap(ranking, weights) - base_rate(ranking, weights)


MEASURES: dict[str, Callable[[Ranking, Tensor], Tensor]] = {"auroc": weighted_auroc, "ap": ap_above_base}
"""What is averaged and bootstrapped: AUROC, and average precision minus base rate."""


def auroc(scores: Tensor, targets: Tensor, valid: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """AUROC of each column: [m, A] -> float64 [A], ties by mid-ranks; NaN where a column has one class only.

    ``valid`` [m, A]: rows that count; ``weights`` [m] or [m, A] >= 0. Raises ValueError as ``rank``.
    """
    ranking = rank(scores, targets, valid)
    return weighted_auroc(ranking, _sorted_weights(ranking, weights))


def average_precision(
    scores: Tensor, targets: Tensor, valid: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Average precision of each column: [m, A] -> float64 [A]; NaN where a column has no positive. Else as ``auroc``."""
    ranking = rank(scores, targets, valid)
    return weighted_ap(ranking, _sorted_weights(ranking, weights))


def _sorted_weights(ranking: Ranking, weights: Tensor | None) -> Tensor:
    if weights is None:
        return torch.ones_like(ranking.positive)
    columns = weights.double().T if weights.ndim == 2 else weights.double().expand(ranking.order.shape)
    return columns.gather(-1, ranking.order)

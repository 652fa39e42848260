"""Paired bootstrap over test pictures, or over groups of them that show one original. Pure torch.

One matrix of counts (how often each picture is drawn) serves every extractor, layer, part and attribute of a model and dataset,
so that differences are paired; attributes with fewer valid pictures take their columns of the same counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from runner.nodes.leakage.ranking import Ranking

Form = Literal["exact", "projected"]
Measure = Callable[[Ranking, Tensor], Tensor]

_CHUNK = {"cpu": 1 << 16}
"""Sums at once: what stays in a processor's cache; much more on an accelerator."""
_CHUNK_ELSEWHERE = 1 << 24
_DRAWS = 1 << 24
_SORTED = 1 << 23
"""Values whose quantiles are taken at once; torch refuses more than 2^24."""


def resample_counts(pictures: int, resamples: int, seed: int, groups: Tensor | None = None) -> Tensor:
    """How often each picture is drawn: uint8 [resamples, pictures], rows sum to ``pictures``; drawn on the CPU by ``seed``.

    ``groups`` int64 [pictures]: pictures of the same number are drawn together (cluster bootstrap): as many groups are drawn as there
    are, and rows sum to ``pictures`` only where groups are of one size.
    """
    if groups is not None:
        numbers, of_picture = torch.unique(groups.cpu(), return_inverse=True)
        return resample_counts(len(numbers), resamples, seed)[:, of_picture]
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros(resamples, pictures, dtype=torch.uint8)
    for rows in torch.split(counts, max(1, _DRAWS // max(pictures, 1))):
        drawn = torch.randint(pictures, rows.shape, generator=generator)
        rows.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.uint8))
    return counts


def groups_among(known: Tensor, groups: Tensor) -> Tensor:
    """How many groups have a picture that is ``known``: bool [n, ...] and int64 [n] -> int64 [...]."""
    numbers, of_picture = torch.unique(groups.to(known.device), return_inverse=True)
    seen = torch.zeros((len(numbers), *known.shape[1:]), dtype=torch.int64, device=known.device)
    return (seen.index_add_(0, of_picture, known.to(torch.int64)) > 0).sum(0)


def bootstrap(measure: Measure, ranking: Ranking, counts: Tensor, form: Form, weights: Tensor | None = None) -> Tensor:
    """``measure`` of every resample: [B, A] in float64; NaN where a resample lacks a class (exact form only).

    ``counts`` [B, m] of ``resample_counts``; ``weights`` [m, A] of rows beside them (None: 1). ``exact``: the measure of each
    resample. ``projected``: its first-order expansion in the counts (Hajek projection), measure(1) + sum_i (count_i - 1) times the
    derivative by the weight of row i: one product of matrices instead of B x m x A sums, with the same limit for many rows.
    """
    if form == "projected":
        return _projected(measure, ranking, counts, weights)
    A, m = ranking.order.shape
    columns = [_exact(measure, part, counts, weights, start) for start, part in _by_columns(ranking, m)]
    return torch.cat(columns, 1) if columns else counts.new_zeros((len(counts), A), dtype=torch.float64)


def _by_columns(ranking: Ranking, m: int) -> list[tuple[int, Ranking]]:
    step = max(1, _chunk(ranking.order) // max(m, 1) // 64)
    starts = range(0, ranking.order.shape[0], step)
    return [(s, Ranking(*(None if t is None else t[s : s + step] for t in ranking))) for s in starts]  # type: ignore[arg-type]


def _chunk(tensor: Tensor) -> int:
    return _CHUNK.get(tensor.device.type, _CHUNK_ELSEWHERE)


def _exact(measure: Measure, ranking: Ranking, counts: Tensor, weights: Tensor | None, start: int) -> Tensor:
    """[B, A'] of the columns that begin at ``start``; float32 sums of whole numbers below 2^24 are exact."""
    A, m = ranking.order.shape
    own = None if weights is None else weights[:, start : start + A].T.gather(-1, ranking.order)
    most = int(counts.sum(1).max()) if len(counts) else 0
    dtype = torch.float32 if own is None and most < 4096 else torch.float64
    found = []
    for rows in torch.split(counts, max(1, _chunk(counts) // max(A * m, 1))):
        drawn = rows[:, ranking.order].to(dtype)
        found.append(measure(ranking, drawn if own is None else drawn * own).double())
    return torch.cat(found)


def _projected(measure: Measure, ranking: Ranking, counts: Tensor, weights: Tensor | None) -> Tensor:
    start = torch.ones_like(ranking.positive) if weights is None else weights.double().T.gather(-1, ranking.order)
    with torch.enable_grad():
        start.requires_grad_(True)
        value = measure(ranking, start)
        (slope,) = torch.autograd.grad(value.nansum(), start)
    pull = torch.zeros_like(slope).scatter_(-1, ranking.order, (slope * start).detach())
    moved = torch.cat(
        [(rows.double() - 1) @ pull.T for rows in torch.split(counts, max(1, _DRAWS // max(counts.shape[1], 1)))]
    )
    return value.detach() + moved


def interval(replicates: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Percentile interval over dim 0, NaN replicates left out: [B, ...] -> two [...]; NaN where there are none."""
    ends = replicates.new_tensor([(1 - level) / 2, (1 + level) / 2])
    columns = replicates.flatten(1) if replicates.ndim > 1 else replicates[:, None]
    pieces = torch.split(columns, max(1, _SORTED // len(replicates)), dim=1)
    low, high = torch.cat([piece.nanquantile(ends, dim=0) for piece in pieces], 1)
    return low.reshape(replicates.shape[1:]), high.reshape(replicates.shape[1:])

"""What the sparse coders share: codes, settings, checks, codes in the making, and fits of the atoms that were picked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from runner.nodes.sith.coding_rows import Rows
from runner.nodes.sith.coding_search import Backend, Precision, Search, Top, stretches
from runner.nodes.sith.nnls import nnls

_RIDGE = 1e-8  # far below the lasso's tolerance, far above what ``nnls`` takes for dependent
_GATHERED = 1 << 18  # values of gathered atoms held at once: 2 MB, which stay in the cache


class Code(NamedTuple):
    """Sparse codes of B targets. ``support`` int64 [B, K] in pick order, -1 where nothing was picked; ``coefficients``
    float32 [B, K]; ``residual_norm`` float32 [B]; ``gap`` float32 [B, K]: score of the pick minus that of the runner-up."""

    support: Tensor
    coefficients: Tensor
    residual_norm: Tensor
    gap: Tensor


@dataclass(frozen=True)
class Settings:
    """How atoms are searched: atoms a chunk, type of the proposing product, and what does it."""

    chunk: int = 8192
    precision: Precision = "fp32"
    backend: Backend = "gemm"


DEFAULT = Settings()


def check(targets: Tensor, atoms: Rows, ks: Iterable[int], coherence: float) -> None:
    """Raise ValueError for what no coder can work with."""
    total, dim = atoms.shape
    if targets.ndim != 2 or targets.shape[1] != dim:
        raise ValueError(f"targets must be [B, {dim}], as the atoms are, not {tuple(targets.shape)}")
    for k in ks:
        if not 1 <= k <= total:
            raise ValueError(f"k must be from 1 to the {total} atoms, not {k}")
    if not (math.isfinite(coherence) and coherence >= 0):
        raise ValueError(f"coherence must be finite and at least 0, not {coherence}")
    if not torch.isfinite(targets).all():
        raise ValueError("targets contain NaN or infinity")


@dataclass
class Picked:
    """Codes in the making, float64. ``gram`` [B, K, K] and ``rhs`` [B, K] of the picked atoms."""

    support: Tensor
    coefficients: Tensor
    gap: Tensor
    gram: Tensor
    rhs: Tensor

    @classmethod
    def none(cls, targets: Tensor, k: int) -> Picked:
        """Nothing picked yet, room for ``k``."""
        empty = torch.zeros((len(targets), k), dtype=torch.float64, device=targets.device)
        support = torch.full_like(empty, -1, dtype=torch.int64)
        gram = torch.zeros((len(targets), 0, 0), dtype=torch.float64, device=targets.device)
        return cls(support, empty, torch.full_like(empty, torch.nan), gram, empty.clone())

    def code(self, residual: Tensor, k: int) -> Code:
        """The first ``k`` slots as a code."""
        norm = residual.norm(dim=1).float()
        return Code(self.support[:, :k].clone(), self.coefficients[:, :k].float(), norm, self.gap[:, :k].float())

    def grown(self, live: Tensor, entering: Tensor) -> Picked:
        """Further slots at the end, filled in the rows ``live``."""
        wide = [torch.nn.functional.pad(t, (0, entering.shape[1])) for t in (self.coefficients, self.gap, self.rhs)]
        support = torch.nn.functional.pad(self.support, (0, entering.shape[1]), value=-1)
        support[live, -entering.shape[1] :] = entering
        return Picked(support, wide[0], wide[1] * torch.nan, self.gram, wide[2])

    def without_zeros(self) -> Picked:
        """Only atoms with a coefficient, by coefficient, in as many slots as the fullest row needs."""
        values, order = self.coefficients.sort(dim=1, descending=True, stable=True)
        width = int((values > 0).sum(1).max()) if len(values) else 0
        support = torch.where(values > 0, self.support.gather(1, order), -1)[:, :width]
        values = values[:, :width].contiguous()
        return Picked(support, values, torch.full_like(values, torch.nan), self.gram, torch.zeros_like(values))


def search_of(rows: Rows, settings: Settings, *, absolute: bool = False) -> Search:
    """The search that the settings ask for."""
    return Search(rows, precision=settings.precision, chunk=settings.chunk, backend=settings.backend, absolute=absolute)


def fit_rows(targets: Tensor, rows: Rows, picked: Picked, live: Tensor, shift: float) -> None:
    """Non-negative fit of the rows ``live`` with all their atoms; ``shift`` is taken from the products with the target."""
    support = picked.support[live]
    for some, held in gathered(rows, support):
        gram = torch.einsum("bkd,bjd->bkj", held, held)
        if shift:  # atoms that depend on others must be able to take their place, since they may cost less
            gram = gram + _RIDGE * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        rhs = torch.einsum("bkd,bd->bk", held, targets[live[some]].double()) - shift
        start = picked.coefficients[live[some]]
        picked.coefficients[live[some]] = nnls(gram, rhs, start, support[some] >= 0)


def residual_of(targets: Tensor, rows: Rows, picked: Picked, live: Tensor | slice, count: int | None = None) -> Tensor:
    """What the codes of the rows ``live`` leave of their targets, float64."""
    residual = targets[live].double()
    coefficients = picked.coefficients[live, :count]
    for some, held in gathered(rows, picked.support[live, :count]):
        residual[some] -= torch.einsum("bk,bkd->bd", coefficients[some], held)
    return residual


def gathered(rows: Rows, support: Tensor) -> Iterable[tuple[slice, Tensor]]:
    """Stretches of targets with their atoms float64 [b, k, d]; zeros for -1."""
    if not support.shape[1]:
        return
    step = max(1, _GATHERED // (support.shape[1] * rows.shape[1]))
    for some in stretches(len(support), step):
        held = rows.take(support[some].clamp_min(0)).double()
        if (support[some] < 0).any():
            held = held * (support[some] >= 0)[:, :, None]
        yield some, held


def gap_of(found: Top) -> Tensor:
    """Best minus second best; NaN where there is no second."""
    if found.scores.shape[1] < 2:
        return torch.full_like(found.scores[:, 0], torch.nan)
    gap = found.scores[:, 0] - found.scores[:, 1]
    return gap.masked_fill(gap.isinf(), torch.nan)

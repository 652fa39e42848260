"""Sparse codes of vectors over a dictionary: COMP (coherent orthogonal matching pursuit) and its relatives.

Row vectors: a target x [d], atoms g_i [d] of unit norm, a code a with x ~ sum_j a_j g_j. Source: SITH (arXiv 2603.24653),
section on COMP, and its released code. Ours: the exact search (``coding_search``), the exact non-negative fit (``nnls``),
the recorded gaps and the lasso by active sets. Selection follows the identity

    <r, g_i> + coherence * mean_{j in S} <g_j, g_i> = <r + coherence * mean_{j in S} g_j, g_i>

so that each step is one search for the largest inner product. Coefficients and residuals are float64 inside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from runner.nodes.sith.coding_rows import JoinedRows, Rows, as_rows
from runner.nodes.sith.coding_search import Backend, Precision, Search, Top, stretches
from runner.nodes.sith.nnls import nnls, solve_on

_RIDGE = 1e-8  # far below the lasso's tolerance, far above what ``nnls`` takes for dependent
_GATHERED = 1 << 18  # values of gathered atoms held at once: 2 MB, which stay in the cache
_FITTED = 1 << 20  # values of Gram matrices fitted at once


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


def comp(
    targets: Tensor,
    atoms: Tensor | Rows,
    k: int,
    coherence: float = 0.3,
    *,
    coherence_atoms: Tensor | Rows | None = None,
    chunk: int = 8192,
    precision: Precision = "fp32",
    backend: Backend = "gemm",
) -> Code:
    """Coherent orthogonal matching pursuit of targets [B, d] over unit atoms [M, d], with non-negative coefficients.

    Always ``k`` atoms are picked, a full non-negative fit after each; an atom whose coefficient falls to 0 stays picked
    and counts in the coherence. ``coherence_atoms`` [M, e]: other vectors of the same atoms to measure coherence with.
    Raises ValueError unless 1 <= k <= M, coherence is finite and >= 0, and shapes and values fit.
    """
    settings = Settings(chunk, precision, backend)
    return nested(targets, atoms, [k], coherence, coherence_atoms=coherence_atoms, settings=settings)[k]


def nnomp(targets: Tensor, atoms: Tensor | Rows, k: int, *, settings: Settings = DEFAULT) -> Code:
    """Non-negative orthogonal matching pursuit: COMP without coherence."""
    return nested(targets, atoms, [k], 0.0, settings=settings)[k]


def nested(
    targets: Tensor,
    atoms: Tensor | Rows,
    ks: Sequence[int],
    coherence: float = 0.3,
    *,
    coherence_atoms: Tensor | Rows | None = None,
    settings: Settings = DEFAULT,
    first: Top | None = None,
) -> dict[int, Code]:
    """COMP codes for several numbers of atoms from one run: greedy paths are prefixes of each other.

    ``first``: the two best atoms of each target or more, where they are known already. Raises ValueError as ``comp``.
    """
    rows = as_rows(atoms)
    check(targets, rows, ks, coherence)
    search, space = _searched(rows, coherence_atoms, settings)
    return _pursue(targets, rows, space, search, ks, coherence, first, signed=False)


def sweep(
    targets: Tensor,
    atoms: Tensor | Rows,
    ks: Sequence[int],
    coherences: Sequence[float],
    *,
    coherence_atoms: Tensor | Rows | None = None,
    settings: Settings = DEFAULT,
    with_top_k: bool = False,
) -> dict[tuple[str, float, int], Code]:
    """Codes by (``comp``, coherence, k), and by (``top_k``, 0, k) where asked; coherence 0 is NNOMP.

    The first search is shared by everything, and each run gives all numbers of atoms.
    """
    rows = as_rows(atoms)
    for coherence in coherences:
        check(targets, rows, ks, coherence)
    search, space = _searched(rows, coherence_atoms, settings)
    count = max(ks) + 1 if with_top_k else 2
    first = search.top(_first_queries(targets, space), min(count, rows.shape[0]))
    codes: dict[tuple[str, float, int], Code] = {}
    for coherence in coherences:
        found = _pursue(targets, rows, space, search, ks, coherence, first, signed=False)
        codes |= {("comp", coherence, k): code for k, code in found.items()}
    if with_top_k:
        codes |= {("top_k", 0.0, k): _fitted_top(targets, rows, first, k) for k in ks}
    return codes


def omp(
    targets: Tensor,
    atoms: Tensor | Rows,
    k: int,
    selection: Literal["absolute", "signed"] = "absolute",
    *,
    settings: Settings = DEFAULT,
) -> Code:
    """Orthogonal matching pursuit with coefficients of either sign.

    ``absolute``: the atom with the largest inner product by size, as scikit-learn's ``orthogonal_mp``; ``signed``: the
    largest one, as the released code does.
    """
    rows = as_rows(atoms)
    check(targets, rows, [k], 0.0)
    search = _search(rows, settings, absolute=selection == "absolute")
    return _pursue(targets, rows, rows, search, [k], 0.0, None, signed=True)[k]


def matching_pursuit(
    targets: Tensor, atoms: Tensor | Rows, k: int, signed: bool = False, *, settings: Settings = DEFAULT
) -> Code:
    """Matching pursuit without refitting: the best atom takes what it can of the residual, at most ``k`` times.

    ``signed``: by size, coefficients of either sign. A row ends once its residual is below 1e-6 or, unsigned, no atom
    has a positive product.
    """
    rows = as_rows(atoms)
    check(targets, rows, [k], 0.0)
    search = _search(rows, settings, absolute=signed)
    residual, picked = targets.double(), _Picked.none(targets, k)
    for step in range(k):
        live = torch.nonzero(residual.norm(dim=1) >= 1e-6)[:, 0]
        found = search.top(residual[live], min(2, rows.shape[0]), picked.support[live, :step])
        atom = rows.take(found.atoms[:, 0]).double()
        product = (atom * residual[live]).sum(1)
        kept = torch.ones_like(product, dtype=torch.bool) if signed else product > 0
        live, product = live[kept], product[kept]
        residual[live] -= product[:, None] * atom[kept]
        picked.support[live, step] = found.atoms[kept, 0]
        picked.coefficients[live, step] = product
        picked.gap[live, step] = _gap(found)[kept]
    return picked.code(residual, k)


def top_k(targets: Tensor, atoms: Tensor | Rows, k: int, *, settings: Settings = DEFAULT) -> Code:
    """The ``k`` atoms with the largest inner products, fitted together once. ``gap``: to the next of them."""
    rows = as_rows(atoms)
    check(targets, rows, [k], 0.0)
    first = _search(rows, settings).top(targets.double(), min(k + 1, rows.shape[0]))
    return _fitted_top(targets, rows, first, k)


def lasso(
    targets: Tensor,
    atoms: Tensor | Rows,
    l1: float,
    *,
    settings: Settings = DEFAULT,
    at_once: int = 8,
    tolerance: float = 1e-7,
) -> Code:
    """Non-negative lasso: minimise ``||x - a G||^2 + l1 sum(a)`` over a >= 0, by active sets (ours).

    In scikit-learn's terms ``alpha = l1 / (2 d)``, positive, without intercept. Atoms that break the optimality condition
    ``2 <r, g_i> <= l1`` enter, ``at_once`` at a time, until none breaks it by more than ``tolerance``; on the active atoms
    the problem is a non-negative least-squares one with ``<x, g_i> - l1 / 2`` in the place of ``<x, g_i>``. Slots are
    ordered by coefficient. Raises ValueError unless l1 is finite and > 0.
    """
    rows = as_rows(atoms)
    if not (math.isfinite(l1) and l1 > 0):
        raise ValueError(f"l1 must be finite and above 0, not {l1}")
    check(targets, rows, [1], 0.0)
    search, picked = _search(rows, settings), _Picked.none(targets, 0)
    residual = targets.double()
    live = torch.arange(len(targets), device=targets.device)
    for _ in range(10 * rows.shape[1] + 10):  # each round lowers the objective until only rounding is left
        if not len(live):
            break
        found = search.top(residual[live], min(at_once, rows.shape[0]), picked.support[live])
        entering = torch.where(found.scores > l1 / 2 + tolerance, found.atoms, -1)
        live, entering = live[(entering >= 0).any(1)], entering[(entering >= 0).any(1)]
        picked = picked.grown(live, entering)
        _fit_rows(targets, rows, picked, live, l1 / 2)
        residual[live] = _residual(targets, rows, picked, live)
        picked = picked.without_zeros()
    return picked.code(residual, picked.support.shape[1])


def reconstruct(code: Code, atoms: Tensor | Rows) -> Tensor:
    """Sums of atoms by their coefficients, float32 [B, d]."""
    rows = as_rows(atoms)
    found = torch.zeros((len(code.support), rows.shape[1]), dtype=torch.float64, device=code.support.device)
    for some, held in _gathered(rows, code.support):
        found[some] = torch.einsum("bk,bkd->bd", code.coefficients[some].double(), held)
    return found.float()


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
class _Picked:
    """Codes in the making, float64. ``gram`` [B, K, K] and ``rhs`` [B, K] of the picked atoms."""

    support: Tensor
    coefficients: Tensor
    gap: Tensor
    gram: Tensor
    rhs: Tensor

    @classmethod
    def none(cls, targets: Tensor, k: int) -> _Picked:
        """Nothing picked yet, room for ``k``."""
        empty = torch.zeros((len(targets), k), dtype=torch.float64, device=targets.device)
        support = torch.full_like(empty, -1, dtype=torch.int64)
        gram = torch.zeros((len(targets), 0, 0), dtype=torch.float64, device=targets.device)
        return cls(support, empty, torch.full_like(empty, torch.nan), gram, empty.clone())

    def code(self, residual: Tensor, k: int) -> Code:
        """The first ``k`` slots as a code."""
        norm = residual.norm(dim=1).float()
        return Code(self.support[:, :k].clone(), self.coefficients[:, :k].float(), norm, self.gap[:, :k].float())

    def grown(self, live: Tensor, entering: Tensor) -> _Picked:
        """Further slots at the end, filled in the rows ``live``."""
        wide = [torch.nn.functional.pad(t, (0, entering.shape[1])) for t in (self.coefficients, self.gap, self.rhs)]
        support = torch.nn.functional.pad(self.support, (0, entering.shape[1]), value=-1)
        support[live, -entering.shape[1] :] = entering
        return _Picked(support, wide[0], wide[1] * torch.nan, self.gram, wide[2])

    def without_zeros(self) -> _Picked:
        """Only atoms with a coefficient, by coefficient, in as many slots as the fullest row needs."""
        values, order = self.coefficients.sort(dim=1, descending=True, stable=True)
        width = int((values > 0).sum(1).max()) if len(values) else 0
        support = torch.where(values > 0, self.support.gather(1, order), -1)[:, :width]
        values = values[:, :width].contiguous()
        return _Picked(support, values, torch.full_like(values, torch.nan), self.gram, torch.zeros_like(values))


def _search(rows: Rows, settings: Settings, *, absolute: bool = False) -> Search:
    return Search(rows, precision=settings.precision, chunk=settings.chunk, backend=settings.backend, absolute=absolute)


def _searched(rows: Rows, coherence_atoms: Tensor | Rows | None, settings: Settings) -> tuple[Search, Rows]:
    """The search, and the rows in which coherence is measured: the atoms themselves, or others put beside them."""
    if coherence_atoms is None:
        return _search(rows, settings), rows
    space = as_rows(coherence_atoms)
    if space.shape[0] != rows.shape[0]:
        raise ValueError(f"there must be one coherence vector for each of {rows.shape[0]} atoms, not {space.shape[0]}")
    joined = JoinedRows(rows, space)
    return _search(joined, settings), joined


def _first_queries(targets: Tensor, space: Rows) -> Tensor:
    return torch.nn.functional.pad(targets.double(), (0, space.shape[1] - targets.shape[1]))


def _pursue(
    targets: Tensor,
    rows: Rows,
    space: Rows,
    search: Search,
    ks: Sequence[int],
    coherence: float,
    first: Top | None,
    *,
    signed: bool,
) -> dict[int, Code]:
    """The greedy loop: search, fit everything anew, go on with what is left and a pull towards what was picked."""
    longest, dim = max(ks), targets.shape[1]
    picked, codes = _Picked.none(targets, longest), {}
    picked.gram = targets.new_zeros((len(targets), longest, longest), dtype=torch.float64)
    queries = _first_queries(targets, space)
    pull = torch.zeros_like(queries)
    residual = queries[:, :dim].clone()
    for step in range(longest):
        if step == 0 and first is not None:
            found = first
        else:
            found = search.top(queries, min(2, rows.shape[0]), picked.support[:, :step])
        picked.support[:, step], picked.gap[:, step] = found.atoms[:, 0], _gap(found)
        _refit(targets, rows, picked, residual, step, signed=signed)
        pull += _coherence_part(space.take(found.atoms[:, 0]).double(), dim, joined=space is not rows)
        queries = coherence / (step + 1) * pull
        queries[:, :dim] += residual
        if step + 1 in ks:
            codes[step + 1] = picked.code(residual, step + 1)
    return codes


def _coherence_part(vectors: Tensor, dim: int, *, joined: bool) -> Tensor:
    """What a picked atom adds to the pull: itself, or only its coherence vector where that is another."""
    if joined:
        vectors[:, :dim] = 0
    return vectors


def _refit(targets: Tensor, rows: Rows, picked: _Picked, residual: Tensor, step: int, *, signed: bool) -> None:
    """Let the newest atom in, fit all picked atoms anew, and put what is left into ``residual``."""
    count = step + 1
    for some, held in _gathered(rows, picked.support[:, :count]):
        newest = held[:, -1]
        column = torch.bmm(held, newest[:, :, None])[:, :, 0]
        picked.gram[some, step, :count] = column
        picked.gram[some, :count, step] = column
        picked.rhs[some, step] = (targets[some].double() * newest).sum(1)
    for some in stretches(len(targets), max(1, _FITTED // count**2)):
        gram, rhs = picked.gram[some, :count, :count], picked.rhs[some, :count]
        a = _least_squares(gram, rhs) if signed else nnls(gram, rhs, picked.coefficients[some, :count])
        picked.coefficients[some, :count] = a
    residual.copy_(_residual(targets, rows, picked, slice(None), count))


def _least_squares(gram: Tensor, rhs: Tensor) -> Tensor:
    """Coefficients of either sign; 0 for atoms that depend on earlier ones."""
    chosen = torch.ones_like(rhs, dtype=torch.bool)
    solved, dependent = solve_on(gram, rhs, chosen)
    while dependent.any():
        chosen &= ~dependent
        solved, dependent = solve_on(gram, rhs, chosen)
    return solved


def _fit_rows(targets: Tensor, rows: Rows, picked: _Picked, live: Tensor, shift: float) -> None:
    """Non-negative fit of the rows ``live`` with all their atoms; ``shift`` is taken from the products with the target."""
    support = picked.support[live]
    for some, held in _gathered(rows, support):
        gram = torch.einsum("bkd,bjd->bkj", held, held)
        if shift:  # atoms that depend on others must be able to take their place, since they may cost less
            gram = gram + _RIDGE * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        rhs = torch.einsum("bkd,bd->bk", held, targets[live[some]].double()) - shift
        start = picked.coefficients[live[some]]
        picked.coefficients[live[some]] = nnls(gram, rhs, start, support[some] >= 0)


def _fitted_top(targets: Tensor, rows: Rows, first: Top, k: int) -> Code:
    picked = _Picked.none(targets, k)
    picked.support = first.atoms[:, :k].clone()
    following = torch.nn.functional.pad(first.scores, (0, 1), value=torch.nan)[:, 1 : k + 1]
    picked.gap = first.scores[:, :k] - following
    everything = torch.arange(len(targets), device=targets.device)
    _fit_rows(targets, rows, picked, everything, 0.0)
    return picked.code(_residual(targets, rows, picked, slice(None)), k)


def _residual(targets: Tensor, rows: Rows, picked: _Picked, live: Tensor | slice, count: int | None = None) -> Tensor:
    """What the codes of the rows ``live`` leave of their targets, float64."""
    residual = targets[live].double()
    coefficients = picked.coefficients[live, :count]
    for some, held in _gathered(rows, picked.support[live, :count]):
        residual[some] -= torch.einsum("bk,bkd->bd", coefficients[some], held)
    return residual


def _gathered(rows: Rows, support: Tensor) -> Iterable[tuple[slice, Tensor]]:
    """Stretches of targets with their atoms float64 [b, k, d]; zeros for -1."""
    if not support.shape[1]:
        return
    step = max(1, _GATHERED // (support.shape[1] * rows.shape[1]))
    for some in stretches(len(support), step):
        held = rows.take(support[some].clamp_min(0)).double()
        if (support[some] < 0).any():
            held = held * (support[some] >= 0)[:, :, None]
        yield some, held


def _gap(found: Top) -> Tensor:
    """Best minus second best; NaN where there is no second."""
    if found.scores.shape[1] < 2:
        return torch.full_like(found.scores[:, 0], torch.nan)
    gap = found.scores[:, 0] - found.scores[:, 1]
    return gap.masked_fill(gap.isinf(), torch.nan)

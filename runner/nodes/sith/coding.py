"""Sparse codes of vectors over a dictionary: COMP (coherent orthogonal matching pursuit) and its relatives.

Row vectors: a target x [d], atoms g_i [d] of unit norm, a code a with x ~ sum_j a_j g_j. Source: SITH (arXiv 2603.24653),
section on COMP, and its released code. Ours: the exact search (``coding_search``), the exact non-negative fit (``nnls``),
the recorded gaps and the lasso by active sets. Selection follows the identity

    <r, g_i> + coherence * mean_{j in S} <g_j, g_i> = <r + coherence * mean_{j in S} g_j, g_i>

so that each step is one search for the largest inner product. Coefficients and residuals are float64 inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from runner.nodes.sith.coding_picked import (
    DEFAULT,
    Code,
    Picked,
    Settings,
    check,
    fit_rows,
    gap_of,
    gathered,
    residual_of,
    search_of,
)
from runner.nodes.sith.coding_rows import JoinedRows, Rows, as_rows
from runner.nodes.sith.coding_search import Backend, Precision, Search, Top, stretches
from runner.nodes.sith.nnls import nnls, solve_on

_FITTED = 1 << 20  # values of Gram matrices fitted at once


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
    search = search_of(rows, settings, absolute=selection == "absolute")
    return _pursue(targets, rows, rows, search, [k], 0.0, None, signed=True)[k]


def top_k(targets: Tensor, atoms: Tensor | Rows, k: int, *, settings: Settings = DEFAULT) -> Code:
    """The ``k`` atoms with the largest inner products, fitted together once. ``gap``: to the next of them."""
    rows = as_rows(atoms)
    check(targets, rows, [k], 0.0)
    first = search_of(rows, settings).top(targets.double(), min(k + 1, rows.shape[0]))
    return _fitted_top(targets, rows, first, k)


def reconstruct(code: Code, atoms: Tensor | Rows) -> Tensor:
    """Sums of atoms by their coefficients, float32 [B, d]."""
    rows = as_rows(atoms)
    found = torch.zeros((len(code.support), rows.shape[1]), dtype=torch.float64, device=code.support.device)
    for some, held in gathered(rows, code.support):
        found[some] = torch.einsum("bk,bkd->bd", code.coefficients[some].double(), held)
    return found.float()


def _searched(rows: Rows, coherence_atoms: Tensor | Rows | None, settings: Settings) -> tuple[Search, Rows]:
    """The search, and the rows in which coherence is measured: the atoms themselves, or others put beside them."""
    if coherence_atoms is None:
        return search_of(rows, settings), rows
    space = as_rows(coherence_atoms)
    if space.shape[0] != rows.shape[0]:
        raise ValueError(f"there must be one coherence vector for each of {rows.shape[0]} atoms, not {space.shape[0]}")
    joined = JoinedRows(rows, space)
    return search_of(joined, settings), joined


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
    picked, codes = Picked.none(targets, longest), {}
    picked.gram = targets.new_zeros((len(targets), longest, longest), dtype=torch.float64)
    queries = _first_queries(targets, space)
    pull = torch.zeros_like(queries)
    residual = queries[:, :dim].clone()
    for step in range(longest):
        if step == 0 and first is not None:
            found = first
        else:
            found = search.top(queries, min(2, rows.shape[0]), picked.support[:, :step])
        picked.support[:, step], picked.gap[:, step] = found.atoms[:, 0], gap_of(found)
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


def _refit(targets: Tensor, rows: Rows, picked: Picked, residual: Tensor, step: int, *, signed: bool) -> None:
    """Let the newest atom in, fit all picked atoms anew, and put what is left into ``residual``."""
    count = step + 1
    for some, held in gathered(rows, picked.support[:, :count]):
        newest = held[:, -1]
        column = torch.bmm(held, newest[:, :, None])[:, :, 0]
        picked.gram[some, step, :count] = column
        picked.gram[some, :count, step] = column
        picked.rhs[some, step] = (targets[some].double() * newest).sum(1)
    for some in stretches(len(targets), max(1, _FITTED // count**2)):
        gram, rhs = picked.gram[some, :count, :count], picked.rhs[some, :count]
        a = _least_squares(gram, rhs) if signed else nnls(gram, rhs, picked.coefficients[some, :count])
        picked.coefficients[some, :count] = a
    residual.copy_(residual_of(targets, rows, picked, slice(None), count))


def _least_squares(gram: Tensor, rhs: Tensor) -> Tensor:
    """Coefficients of either sign; 0 for atoms that depend on earlier ones."""
    chosen = torch.ones_like(rhs, dtype=torch.bool)
    solved, dependent = solve_on(gram, rhs, chosen)
    while dependent.any():
        chosen &= ~dependent
        solved, dependent = solve_on(gram, rhs, chosen)
    return solved


def _fitted_top(targets: Tensor, rows: Rows, first: Top, k: int) -> Code:
    picked = Picked.none(targets, k)
    picked.support = first.atoms[:, :k].clone()
    following = torch.nn.functional.pad(first.scores, (0, 1), value=torch.nan)[:, 1 : k + 1]
    picked.gap = first.scores[:, :k] - following
    everything = torch.arange(len(targets), device=targets.device)
    fit_rows(targets, rows, picked, everything, 0.0)
    return picked.code(residual_of(targets, rows, picked, slice(None)), k)

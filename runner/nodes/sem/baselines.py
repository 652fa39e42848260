"""Linear baselines of debiasing: projections of texts, calibrated projections, RoboShot's map of images. Pure torch, float64.

Vectors are rows; a map acts as ``x @ map``. Projections are built from a basis of the span with a rank cut, so that
repeated or dependent texts add no arbitrary direction (the published code takes as many directions as there are texts).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from runner.nodes.sem.checks import check_rows, unit_rows

RANK_TOL = 1e-6


class Projected(NamedTuple):
    """``vectors`` float64 [m, d] of unit norm; ``rank`` int64 [m]: directions that were removed from each."""

    vectors: Tensor
    rank: Tensor


def span_basis(rows: Tensor, rank_tol: float = RANK_TOL) -> Tensor:
    """Orthonormal rows [r, d] of the span of ``rows`` [n, d]; singular values up to rank_tol times the largest do not count."""
    _, s, vh = torch.linalg.svd(rows.double(), full_matrices=False)
    counts = (s > rank_tol * s.max()) & (s > 0)
    basis: Tensor = vh[counts]
    return basis


def removed(vectors: Tensor, basis: Tensor) -> Tensor:
    """Vectors [..., m, d] without their components along orthonormal rows [..., r, d]."""
    return vectors - (vectors @ basis.mT) @ basis


def renormalised(vectors: Tensor, before: Tensor) -> Tensor:
    """Rows scaled to unit norm. Raises ValueError where nothing but rounding is left of a row of ``before``."""
    norms, scale = vectors.norm(dim=-1, keepdim=True), before.norm(dim=-1, keepdim=True)
    gone = (norms <= 1e-9 * scale).flatten()
    if bool(gone.any()):
        raise ValueError(
            f"row {int(gone.nonzero()[0])} lies within the directions that are removed: nothing is left of it"
        )
    scaled: Tensor = vectors / norms
    return scaled


def apply_map(vectors: Tensor, map_: Tensor) -> Tensor:
    """``vectors @ map_`` scaled to unit norm: [n, d] and [d, d] -> float64 [n, d]."""
    check_rows("embeddings", vectors, len(map_), nonzero=True)
    return renormalised(vectors.double() @ map_.double(), vectors.double())


def orth_proj(texts: Tensor, spurious: Tensor, rank_tol: float = RANK_TOL) -> Projected:
    """Texts [m, d] without the span of the spurious texts [n, d]: z' = normalise(u (I - V V')).

    Source: Chuang et al. (2023), "Debiasing Vision-Language Models via Biased Prompts"; the rank cut is ours. Raises
    ValueError for no rows, other widths, NaN, a norm of 0, or a text within the span.
    """
    u = unit_rows("texts", texts)
    basis = span_basis(unit_rows("spurious texts", spurious, u.shape[1]), rank_tol)
    return _projected(renormalised(removed(u, basis), u), len(basis))


def default_pairs(queries: int, classes: int) -> Tensor:
    """Pairs of candidates with the same query and other bias values, [queries * classes (classes - 1) / 2, 2].

    Candidates are ordered by query, then by bias value: (i n + j, i n + k) with j < k.
    """
    first, second = torch.triu_indices(classes, classes, offset=1)
    start = torch.arange(queries)[:, None] * classes
    return torch.stack([(start + first).flatten(), (start + second).flatten()], dim=1)


def orth_cali(
    texts: Tensor,
    spurious: Tensor,
    candidates: Tensor,
    pairs: Tensor,
    lam: float = 1000.0,
    rank_tol: float = RANK_TOL,
) -> Projected:
    """Projection calibrated by pairs of candidates that should coincide: P = P0 (I + lam M)^-1, z' = normalise(u P').

    ``candidates`` [k, d], ``pairs`` int [p, 2] rows of it; M is the mean of (z_i - z_j)(z_i - z_j)' over the pairs. lam = 0
    gives ``orth_proj``. Source: Chuang et al. (2023). Raises ValueError as ``orth_proj``, for lam < 0 and pairs outside.
    """
    u = unit_rows("texts", texts)
    width = u.shape[1]
    basis = span_basis(unit_rows("spurious texts", spurious, width), rank_tol)
    differences = _pair_differences(unit_rows("candidates", candidates, width), pairs)
    if not 0 <= lam < float("inf"):
        raise ValueError(f"lambda must be 0 or more and finite, not {lam}")
    system = torch.eye(width, dtype=u.dtype, device=u.device) + lam / len(pairs) * (differences.mT @ differences)
    calibrated = torch.linalg.solve(system, u.mT).mT
    return _projected(renormalised(removed(calibrated, basis), calibrated), len(basis))


def _pair_differences(candidates: Tensor, pairs: Tensor) -> Tensor:
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        raise ValueError(f"pairs must be [p, 2] with at least one pair, not {tuple(pairs.shape)}")
    if int(pairs.min()) < 0 or int(pairs.max()) >= len(candidates):
        raise ValueError(
            f"pairs name candidates from 0 to {len(candidates) - 1}, not {int(pairs.min())} .. {int(pairs.max())}"
        )
    first, second = pairs.to(candidates.device).T
    return candidates[first] - candidates[second]


def prism_mini_map(spurious: Tensor, rank_tol: float = RANK_TOL) -> Tensor:
    """I - V (V'V)^-1 V' [d, d] for spurious texts [n, d]: applied to texts and to images.

    Source: Molahasani et al. (2025), PRISM-mini; from a basis with a rank cut (ours), so repeated texts do no harm.
    """
    basis = span_basis(unit_rows("spurious texts", spurious), rank_tol)
    return _identity_like(basis) - basis.mT @ basis


def roboshot_map(
    harmful_a: Tensor | None,
    harmful_b: Tensor | None,
    helpful_a: Tensor | None,
    helpful_b: Tensor | None,
    reject: bool = True,
    accept: bool = True,
    rank_tol: float = RANK_TOL,
) -> Tensor:
    """The map of images [d, d]: without the span of harmful differences (``reject``), then the helpful ones doubled (``accept``).

    Pairs are rows [k, d] at their raw scale; (I + Q_g Q_g')(I - Q_h Q_h') in the column notation of the paper. Equal to its loop
    over directions where differences are independent, and independent of their order otherwise (ours). What ``reject`` or
    ``accept`` leaves out may be None. Source: Adila et al. (2023). Raises ValueError for missing or unequal pairs and NaN.
    """
    if not (reject or accept):
        raise ValueError("RoboShot needs reject or accept")
    parts = []
    if reject:
        basis = _difference_basis("harmful", harmful_a, harmful_b, rank_tol)
        parts.append(_identity_like(basis) - basis.mT @ basis)
    if accept:
        basis = _difference_basis("helpful", helpful_a, helpful_b, rank_tol)
        parts.append(_identity_like(basis) + basis.mT @ basis)
    if parts[0].shape != parts[-1].shape:
        raise ValueError(f"harmful pairs are {len(parts[0])} wide, helpful ones {len(parts[-1])}")
    return parts[0] if len(parts) == 1 else parts[0] @ parts[1]


def roboshot(
    images: Tensor,
    harmful_a: Tensor | None,
    harmful_b: Tensor | None,
    helpful_a: Tensor | None,
    helpful_b: Tensor | None,
    reject: bool = True,
    accept: bool = True,
) -> Tensor:
    """Images [n, d] through ``roboshot_map``, float64 of unit norm; texts stay as they are."""
    return apply_map(images, roboshot_map(harmful_a, harmful_b, helpful_a, helpful_b, reject, accept))


def sae_top_k(texts: Tensor, directions: Tensor, scores: Tensor, k: int, average: bool = False) -> Projected:
    """Texts [m, d] without the k encoder rows [L, d] of the highest scores [L], or without the mean of these unit rows.

    Source: Barbalau et al. (2025), of which only the abstract was at hand; ranking by SEM's bias sensitivity is ours.
    Raises ValueError for k outside 1 .. L, other shapes, NaN, or a text within the span.
    """
    u = unit_rows("texts", texts)
    check_rows("directions", directions, u.shape[1])
    check_rows("scores", scores[None], len(directions))
    if not 1 <= k <= len(directions):
        raise ValueError(f"k must lie in 1 .. {len(directions)}, not {k}")
    chosen = scores.argsort(descending=True, stable=True)[:k]
    axes = unit_rows("directions with the highest scores", directions[chosen])
    basis = span_basis(axes.mean(0, keepdim=True) if average else axes)
    return _projected(renormalised(removed(u, basis), u), len(basis))


def _difference_basis(name: str, a: Tensor | None, b: Tensor | None, rank_tol: float) -> Tensor:
    if a is None or b is None or a.shape != b.shape:
        raise ValueError(f"{name} pairs need as many first as second texts of the same width")
    check_rows(f"first texts of {name} pairs", a)
    check_rows(f"second texts of {name} pairs", b)
    return span_basis(a.double() - b.double(), rank_tol)


def _identity_like(basis: Tensor) -> Tensor:
    return torch.eye(basis.shape[-1], dtype=basis.dtype, device=basis.device)


def _projected(vectors: Tensor, rank: int) -> Projected:
    return Projected(vectors, torch.full((len(vectors),), rank, dtype=torch.int64, device=vectors.device))

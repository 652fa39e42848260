"""BendVLM: an orthogonal first step on texts, and a second one that equalises distances to labelled reference images.

Source: Gerych et al. (2024), "BendVLM: Test-Time Debiasing of Vision-Language Embeddings". The published code solves the second
step by sequential quadratic programming, query by query; here it is its closed form, for all queries at once. Pure torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.nodes.sem.baselines import RANK_TOL, Projected, removed, renormalised
from runner.nodes.sem.checks import by_size, check_groups, check_rows, unit_rows

_QUERIES_AT_ONCE = 64


def bend_step1(texts: Tensor, spurious: Tensor, augmented: Sequence[Tensor], rank_tol: float = RANK_TOL) -> Projected:
    """Each text without the span of the spurious texts and of the differences among its own augmented texts.

    ``texts`` [m, d], ``spurious`` [n, d], ``augmented`` one [c, d] a text: the same query with each bias value named.
    -> float64 unit rows [m, d] with the rank removed from each. Differences are taken from the mean of the augmented texts,
    which spans the same as all pairs; with a rank cut (ours), where the published code adds random directions as soon as
    there are more than two bias values. Raises ValueError for groups != texts, no rows, other widths, NaN, a norm of 0.
    """
    u = unit_rows("texts", texts)
    named = unit_rows("spurious texts", spurious, u.shape[1])
    check_groups("augmented texts", augmented, u.shape[1], len(u))
    vectors, rank = torch.empty_like(u), torch.empty(len(u), dtype=torch.int64, device=u.device)
    for places, stacked in by_size([unit_rows("augmented texts", group) for group in augmented]):
        rows = torch.cat([named.expand(len(places), -1, -1), stacked - stacked.mean(1, keepdim=True)], dim=1)
        basis, rank[places] = _batched_basis(rows, rank_tol)
        vectors[places] = removed(u[places][:, None], basis)[:, 0]
    return Projected(renormalised(vectors, u), rank)


def bend_prototypes(
    images: Tensor,
    classes: Tensor,
    query_vectors: Tensor,
    neighbours: int,
    n_classes: int,
    shared: bool = False,
) -> Tensor:
    """Per query and bias class, the mean of the class's ``neighbours`` reference images with the highest cosine; [q, C, d].

    ``images`` [n, d], ``classes`` int [n] in 0 .. C - 1, ``query_vectors`` [q, d]. Images enter the mean as they are given.
    ``shared``: one set of neighbours for all queries, by the mean cosine over them, as published where several class texts
    are debiased together (zero-shot). Raises ValueError where a class has fewer images than ``neighbours``, for labels
    outside, other widths, NaN, a norm of 0.
    """
    queries = unit_rows("queries", query_vectors, images.shape[1])
    check_rows("reference images", images, nonzero=True)
    _check_reference(classes, len(images), neighbours, n_classes)
    sought = queries.mean(0, keepdim=True) if shared else queries
    prototypes = queries.new_empty(len(sought), n_classes, images.shape[1])
    for c in range(n_classes):
        members = images[classes == c].to(torch.promote_types(images.dtype, torch.float32))
        norms = members.norm(dim=1)
        for start in range(0, len(sought), _QUERIES_AT_ONCE):
            rows = slice(start, start + _QUERIES_AT_ONCE)
            cosines = sought[rows].to(members.dtype) @ members.mT / norms
            nearest = members[cosines.topk(neighbours, dim=1).indices]
            prototypes[rows, c] = nearest.mean(1, dtype=torch.float64)
    return prototypes.expand(len(queries), -1, -1)


def bend_vlm(z0: Tensor, prototypes: Tensor, rank_tol: float = RANK_TOL) -> Tensor:
    """The unit vectors nearest to z0 [q, d] with the same product with all C prototypes [q, C, d]; float64 [q, d].

    max e.z0 subject to |e| = 1 and e.mu_c = e.mu_0 for all c: z0 without its component in the span of mu_c - mu_0, scaled to unit
    norm. Raises ValueError for fewer than 2 classes, shapes that do not fit, NaN, and a z0 within that span.
    """
    start = unit_rows("queries", z0)
    if prototypes.ndim != 3 or prototypes.shape[::2] != start.shape or prototypes.shape[1] < 2:
        raise ValueError(
            f"prototypes must be [{len(start)}, at least 2, {start.shape[1]}], not {tuple(prototypes.shape)}"
        )
    check_rows("prototypes", prototypes.flatten(0, 1))
    means = prototypes.double()
    basis, _ = _batched_basis(means[:, 1:] - means[:, :1], rank_tol)
    return renormalised(removed(start[:, None], basis)[:, 0], start)


def bend_sem(
    sem_vectors: Tensor, images: Tensor, classes: Tensor, neighbours: int, n_classes: int, shared: bool = False
) -> Tensor:
    """BendSEM: the second step from SEM's vectors [q, d], whose neighbours are also found with them; float64 unit rows."""
    return bend_vlm(sem_vectors, bend_prototypes(images, classes, sem_vectors, neighbours, n_classes, shared))


def _batched_basis(rows: Tensor, rank_tol: float) -> tuple[Tensor, Tensor]:
    """Orthonormal rows of each span [b, n, d] -> ([b, min(n, d), d], zero rows beyond the rank; rank int64 [b])."""
    _, s, vh = torch.linalg.svd(rows, full_matrices=False)
    counts = (s > rank_tol * s[:, :1]) & (s > 0)
    return vh * counts[..., None], counts.sum(1)


def _check_reference(classes: Tensor, rows: int, neighbours: int, n_classes: int) -> None:
    if classes.shape != (rows,) or int(classes.min()) < 0 or int(classes.max()) >= n_classes:
        raise ValueError(f"there must be a class from 0 to {n_classes - 1} for each of {rows} reference images")
    counts = torch.bincount(classes, minlength=n_classes)
    if neighbours < 1 or int(counts.min()) < neighbours:
        smallest = int(counts.argmin())
        raise ValueError(
            f"{neighbours} neighbours of bias class {smallest} are asked for, the reference has {int(counts[smallest])}"
        )

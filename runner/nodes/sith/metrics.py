"""What SITH reports: fidelity of concept codes, two models' heads compared, redirected retrieval.

Fidelity and recall as in the paper's released code. Ceiling, joint-space cosine and every measure between two models are
ours: the paper says that fine-tuning mostly re-weights directions, not how that was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from runner.nodes.sith.weights import TINY, HeadSvd, svd_of_product, unit

# --- fidelity ----------------------------------------------------------------------------------------------------------


def residual_direction(joint: Tensor, proj: Tensor, mu: Tensor | None) -> Tensor:
    """Joint-space vectors (..., d) led back to unit residual vectors (..., D): rownorm(rownorm(x) + mu) pinv(proj).

    ``proj`` (D, d), ``mu`` (d,) or None. ln_post is not inverted. The pseudo-inverse is taken in float64.
    """
    inverse = torch.linalg.pinv(proj.double()).to(joint)
    shifted = unit(joint) if mu is None else unit(unit(joint) + mu.to(joint))
    return unit(shifted @ inverse)


def fidelity(reconstruction: Tensor, v: Tensor, proj: Tensor, mu: Tensor | None) -> Tensor:
    """Cosine (...) of the singular vectors ``v`` (..., D) and what their codes a G (..., d) say; NaN for all-zero codes.

    ln_post is not inverted, so that even a perfect code stays below 1: compare with ``ceiling``.
    """
    found = (residual_direction(reconstruction, proj, mu) * unit(v)).sum(-1)
    return found.clamp(-1, 1).masked_fill(_empty(reconstruction), torch.nan)


def ceiling(p: Tensor, v: Tensor, proj: Tensor, mu: Tensor | None) -> Tensor:
    """Ours: the fidelity (...) that a perfect code would have, with the target ``p`` (..., d) in place of a G."""
    return fidelity(p, v, proj, mu)


def joint_cosine(reconstruction: Tensor, p: Tensor) -> Tensor:
    """Ours: cosine (...) of a G and its target ``p`` in the joint space, 1 for a perfect code; NaN for all-zero codes."""
    found = (unit(reconstruction) * unit(p)).sum(-1)
    return found.clamp(-1, 1).masked_fill(_empty(reconstruction), torch.nan)


def _empty(reconstruction: Tensor) -> Tensor:
    empty: Tensor = reconstruction.norm(dim=-1) <= TINY
    return empty


# --- two models --------------------------------------------------------------------------------------------------------


class HeadComparison(NamedTuple):
    """Heads of two models, W (U, s, V) and W2 (U2, s2, V2); leading axes (...) as given.

    ``match`` (..., r): direction of W2 that is assigned to each of W; ``match_cos`` (..., r) |v . v2| of the pairs;
    ``mean_cos``, ``weighted_cos`` (by s) (...); ``overlap1``, ``overlap5``, ``overlap_r`` (...): ||V_k V2_k^T||_F^2 / k;
    ``principal`` (..., r): principal cosines, descending; ``gain`` (..., r): a_i = u_i^T W2 v_i; ``reweight_energy`` and
    ``inspan_energy`` (...): shares of ||W2||^2 that re-weighting of W's directions, and their span, explain (NaN where W2
    is 0); ``rel_delta`` (...): ||W2 - W||_F / ||W||_F (NaN where W is 0).
    """

    match: Tensor
    match_cos: Tensor
    mean_cos: Tensor
    weighted_cos: Tensor
    overlap1: Tensor
    overlap5: Tensor
    overlap_r: Tensor
    principal: Tensor
    gain: Tensor
    reweight_energy: Tensor
    inspan_energy: Tensor
    rel_delta: Tensor


def compare_heads(first: HeadSvd, second: HeadSvd) -> HeadComparison:
    """Compare heads of equal shape, batched. All measures are ours. Raises ValueError for shapes that differ."""
    if first.u.shape != second.u.shape or first.vh.shape != second.vh.shape:
        raise ValueError(f"heads of shapes {tuple(first.u.shape)} and {tuple(second.u.shape)} cannot be compared")
    across = first.vh @ second.vh.transpose(-1, -2)
    cosines = across.abs().clamp(max=1)
    match = assignment(cosines)
    match_cos = cosines.gather(-1, match[..., None])[..., 0]
    inner = (first.u.transpose(-1, -2) @ second.u * second.s[..., None, :]) @ across.transpose(-1, -2)
    gain = inner.diagonal(dim1=-2, dim2=-1)
    energy, own = second.s.square().sum(-1), first.s.square().sum(-1)
    return HeadComparison(
        match,
        match_cos,
        match_cos.mean(-1),
        (first.s * match_cos).sum(-1) / first.s.sum(-1),
        _overlap(across, 1),
        _overlap(across, 5),
        _overlap(across, across.shape[-1]),
        torch.linalg.svdvals(across).clamp(max=1),
        gain,
        gain.square().sum(-1) / energy,
        inner.square().sum((-1, -2)) / energy,
        difference(first, second).s.norm(dim=-1) / own.sqrt(),
    )


def assignment(gains: Tensor) -> Tensor:
    """Columns (..., n) that give the rows of ``gains`` (..., n, n) the largest sum, one each (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    flat = gains.detach().cpu().double().reshape(-1, *gains.shape[-2:])
    columns = [torch.from_numpy(linear_sum_assignment(each.numpy(), maximize=True)[1]) for each in flat]
    return torch.stack(columns).reshape(gains.shape[:-1]).to(gains.device)


def _overlap(across: Tensor, k: int) -> Tensor:
    k = min(k, across.shape[-1])
    return across[..., :k, :k].square().sum((-1, -2)) / k


def difference(first: HeadSvd, second: HeadSvd) -> HeadSvd:
    """SVD of W2 - W, up to 2r directions, from the two SVDs alone (no cancellation of squared norms)."""
    A = torch.cat([second.u * second.s[..., None, :], -first.u * first.s[..., None, :]], -1)
    return svd_of_product(A, torch.cat([second.vh, first.vh], -2))


def jaccard(first: set[str], second: set[str]) -> float | None:
    """Size of the common part over that of the union; None where both are empty."""
    union = len(first | second)
    return len(first & second) / union if union else None


# --- redirected retrieval ----------------------------------------------------------------------------------------------


def hit_ranks(queries: Tensor, gallery: Tensor, targets: Tensor, chunk: int = 4096) -> Tensor:
    """Rank from 0 (n,) of gallery row ``targets[i]`` for query i, by inner product; ties go to the lower row."""
    ranks = []
    rows = torch.arange(len(gallery), device=gallery.device)
    for start in range(0, len(queries), chunk):
        scores, wanted = queries[start : start + chunk] @ gallery.T, targets[start : start + chunk, None]
        own = scores.gather(1, wanted)
        ahead = (scores > own) | ((scores == own) & (rows < wanted))
        ranks.append(ahead.sum(1))
    return torch.cat(ranks) if ranks else targets.new_zeros(0)


def redirected_ranks(images: Tensor, unsafe_images: Tensor, texts: Tensor, unsafe_texts: Tensor) -> dict[str, Tensor]:
    """Ranks (N,) of the SAFE partner in the six ViSU settings; all inputs (N, d) unit, row i of all four belongs together.

    ``T->V``, ``V->T``: safe gallery. ``T->VV*``, ``V->TT*``, ``T*->VV*``, ``V*->TT*``: gallery of safe rows, then unsafe (*).
    For unsafe queries a hit means that the query was led to safe content.
    """
    every_image, every_text = torch.cat([images, unsafe_images]), torch.cat([texts, unsafe_texts])
    settings = {
        "T->V": (texts, images),
        "V->T": (images, texts),
        "T->VV*": (texts, every_image),
        "V->TT*": (images, every_text),
        "T*->VV*": (unsafe_texts, every_image),
        "V*->TT*": (unsafe_images, every_text),
    }
    partner = torch.arange(len(images), device=images.device)
    return {name: hit_ranks(queries, gallery, partner) for name, (queries, gallery) in settings.items()}


def recall_at(ranks: Tensor, ks: Sequence[int]) -> dict[int, int]:
    """How many of the ranks (n,) lie in the first k, for each k."""
    return {k: int((ranks < k).sum()) for k in ks}

"""Masking response of concept predictors. Pure torch.

R[q, k] = mean over pictures where parts q and k are visible, and over concepts a of part q, of |g_a(x) - g_a(x with part k hidden)|;
locality score = mean of the diagonal / (mean of the diagonal + mean of the rest). Both, and the intervals, are definitions of
this project, after the masking experiments of "Do Concept Bottleneck Models Respect Localities?" (arXiv 2401.01259).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 1 << 22
"""Most numbers of a block of bootstrap weights."""


class Sums(NamedTuple):
    """Changes summed over the views of a picture, float64 [n, P, A] each: |change|, change, and how many there are."""

    absolute: Tensor
    signed: Tensor
    counts: Tensor


def response_sums(change: Tensor, usable: Tensor, picture: Tensor, hidden: Tensor, pictures: int, parts: int) -> Sums:
    """Sum the changes of views by picture and hidden part.

    ``change`` float [V, A]: value with the part hidden minus value of the picture as it is, NaN where either is missing;
    ``usable`` bool [V, A]: whether the view counts for the concept; ``picture``, ``hidden`` int64 [V].
    """
    counted = usable & ~change.isnan()
    known = torch.where(counted, change.to(torch.float64), 0.0)
    place = picture * parts + hidden
    empty = known.new_zeros((pictures * parts, change.shape[1]))
    return Sums(*(
        empty.index_add(0, place, values).reshape(pictures, parts, -1)
        for values in (known.abs(), known, counted.to(torch.float64))
    ))  # fmt: skip


class Response(NamedTuple):
    """``matrix``, ``signed`` [..., Q, P]: mean absolute and signed change of the concepts of row q when part k is hidden; ``own``,
    ``other``, ``score`` [...]: of all; ``concept_own``, ``concept_other``, ``concept_score`` [..., A]. NaN where nothing was seen."""

    matrix: Tensor
    signed: Tensor
    own: Tensor
    other: Tensor
    score: Tensor
    concept_own: Tensor
    concept_other: Tensor
    concept_score: Tensor


def respond(sums: Sums, owner: Tensor, groups: Tensor) -> Response:
    """Measures from sums [..., P, A] (already summed over pictures).

    ``owner`` int64 [A]: the part of a concept, -1 for none or several; ``groups`` bool [Q, A]: the concepts averaged in each row, the
    first P rows being the parts in order.
    """
    parts = sums.counts.shape[-2]
    member = groups.to(torch.float64)
    absolute, signed, count = (torch.einsum("...pa,qa->...qp", values, member) for values in sums)
    matrix = absolute / count
    square = matrix[..., :parts, :]
    diagonal = torch.eye(parts, dtype=torch.bool, device=matrix.device)
    own = nan_mean(square.diagonal(dim1=-2, dim2=-1), -1)
    other = nan_mean(square.masked_fill(diagonal, torch.nan).flatten(-2), -1)
    concept_own, concept_other = _concept_means(sums, owner)
    return Response(
        matrix, signed / count, own, other, locality_score(own, other),
        concept_own, concept_other, locality_score(concept_own, concept_other),
    )  # fmt: skip


def _concept_means(sums: Sums, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Own and other response of each concept [..., A]; NaN for concepts without one part."""
    each = sums.absolute / sums.counts
    is_own = torch.arange(each.shape[-2], device=owner.device)[:, None] == owner
    own = nan_mean(each.masked_fill(~is_own, torch.nan), -2)
    other = nan_mean(each.masked_fill(is_own | (owner < 0), torch.nan), -2)
    return own, other


def locality_score(own: Tensor, other: Tensor) -> Tensor:
    """own / (own + other): 1 = hiding other parts changes nothing, 0.5 = no locality; NaN where nothing changes at all."""
    return own / (own + other)


def picture_spread(sums: Sums, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation over pictures (n - 1) of a picture's mean absolute change, NaN below two pictures, and the number of
    pictures: [Q, P] each. ``sums`` [n, P, A]."""
    member = groups.to(torch.float64)
    absolute, count = (torch.einsum("npa,qa->nqp", values, member) for values in (sums.absolute, sums.counts))
    each = absolute / count
    n = (count > 0).sum(0)
    deviations = ((each - nan_mean(each, 0)) ** 2).nansum(0)
    return torch.where(n > 1, (deviations / (n - 1)).sqrt(), torch.nan), n


def nan_mean(values: Tensor, dim: int) -> Tensor:
    """Mean over the values that are there; NaN without any."""
    known = ~values.isnan()
    return torch.where(known, values, 0.0).sum(dim) / known.sum(dim)


# --- intervals -------------------------------------------------------------------------------------------------------


def resampled(pictures: int, resamples: int, seed: int, *, width: int = 1) -> Iterator[Tensor]:
    """How often each picture is drawn with replacement: float64 [block, n], block by block, ``resamples`` rows in all.

    ``width``: numbers that each draw will give, which bounds the blocks. The same for the same number of pictures and seed.
    """
    generator = torch.Generator().manual_seed(seed)
    block = max(1, _BLOCK // max(1, pictures, width))
    one = torch.ones((), dtype=torch.float64)
    for start in range(0, resamples, block):
        drawn = torch.randint(pictures, (min(block, resamples - start), pictures), generator=generator)
        yield torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, one.expand(drawn.shape))


def resampled_response(sums: Sums, owner: Tensor, groups: Tensor, resamples: int, seed: int) -> Response:
    """The measures of pictures drawn with replacement; every field has a leading axis of ``resamples``."""
    n, width = sums.counts.shape[0], sums.counts[0].numel()
    blocks = []
    for weights in resampled(n, resamples, seed, width=width):
        drawn = Sums(*((weights @ values.flatten(1)).reshape(-1, *values.shape[1:]) for values in sums))
        blocks.append(respond(drawn, owner, groups))
    return Response(*(torch.cat(field) for field in zip(*blocks, strict=True)))


def interval(draws: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Percentile interval over the first axis, draws without a value left out; NaN where none has one."""
    low, high = torch.nanquantile(draws, draws.new_tensor([(1 - level) / 2, (1 + level) / 2]), dim=0)
    return low, high


# --- against the truth -----------------------------------------------------------------------------------------------


def weighted_accuracy(values: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Share of pictures on whose side of 0.5 the value lies (0.5 itself counts as no). ``values``, ``truth`` [n, A], NaN where
    missing; ``weights`` [B, n] -> [B, A], NaN without any picture."""
    known = ~(values.isnan() | truth.isnan())
    right = known & ((values > 0.5) == (truth > 0.5))
    return (weights @ right.to(weights.dtype)) / (weights @ known.to(weights.dtype))


def weighted_auroc(values: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Area under the ROC curve, ties one half, with picture weights: [n, A], [n, A] (NaN where missing), [B, n] -> [B, A].

    NaN where a draw has one class only. One pass a concept; the order of the values is found once for all draws.
    """
    columns = [_auroc(values[:, a], truth[:, a], weights) for a in range(values.shape[1])]
    return torch.stack(columns, 1) if columns else weights.new_zeros((len(weights), 0))


def _auroc(values: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Sum over groups of equal values of positives x (negatives below + half of those in the group)."""
    known = ~(values.isnan() | truth.isnan())
    levels, group = torch.unique(values[known], return_inverse=True)
    drawn, positive = weights[:, known], truth[known] > 0.5
    empty = drawn.new_zeros((len(drawn), len(levels)))
    ups = empty.index_add(1, group[positive], drawn[:, positive])
    downs = empty.index_add(1, group[~positive], drawn[:, ~positive])
    below = downs.cumsum(1) - downs / 2
    return (ups * below).sum(1) / (ups.sum(1) * downs.sum(1))

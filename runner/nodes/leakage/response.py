"""Masking response of concept predictors. Pure torch.

R[q, k] = mean over pictures where parts q and k are visible, and over concepts a of part q, of |g_a(x) - g_a(x with part k hidden)|;
locality score = mean of the diagonal / (mean of the diagonal + mean of the rest). Both, and the intervals, are definitions of
this project, after the masking experiments of "Do Concept Bottleneck Models Respect Localities?" (arXiv 2401.01259).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 1 << 22
"""Most numbers of a block of resampled sums."""


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


def resampled_response(sums: Sums, owner: Tensor, groups: Tensor, draws: Tensor) -> Response:
    """The measures of pictures drawn with replacement: ``draws`` [B, n] says how often each one is drawn
    (``resampling.resample_counts``); every field has a leading axis B."""
    width = max(1, sums.counts[0].numel())
    blocks = []
    for rows in torch.split(draws, max(1, _BLOCK // width)):
        weights = rows.to(sums.counts)
        drawn = Sums(*((weights @ values.flatten(1)).reshape(-1, *values.shape[1:]) for values in sums))
        blocks.append(respond(drawn, owner, groups))
    return Response(*(torch.cat(field) for field in zip(*blocks, strict=True)))


def weighted_accuracy(values: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Share of pictures on whose side of 0.5 the value lies (0.5 itself counts as no). ``values``, ``truth`` [n, A], NaN where
    missing; ``weights`` [B, n] -> [B, A], NaN without any picture."""
    known = ~(values.isnan() | truth.isnan())
    right = known & ((values > 0.5) == (truth > 0.5))
    weights = weights.to(torch.float64)
    return (weights @ right.to(torch.float64)) / (weights @ known.to(torch.float64))

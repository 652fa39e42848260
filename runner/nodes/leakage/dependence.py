"""What a part's vector depends on, measured without labels: gradients and replaced pixels (section "dependence").

The measures are definitions of this project. B pictures, P parts, D width. NaN stands for a part that is absent, or a share
of nothing; it is never a zero. Everything is exact where the extractor is: vectors that are equal bit for bit have distance 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from runner.nodes.leakage.resampling import interval

Extract = Callable[[Tensor], Tensor]
"""Pictures float [B, 3, H, W] in 0..1 to vectors [..., B, P, D] (NaN where a part is absent), differentiable."""
ExtractOne = Callable[[Tensor, int], Tensor]
"""The same for one part by number: [B, 3, H, W] -> [..., B, D]."""


class ReplacementDependence(NamedTuple):
    """[..., B, P] float64 each. ``d_out``: 1 - cosine of a part's vector before and after everything outside the part was
    replaced; ``d_in``: the same for the inside; ``out_share``: d_out / (d_out + d_in), NaN where both are 0."""

    d_out: Tensor
    d_in: Tensor
    out_share: Tensor


def gradient_share(extract: Extract, images: Tensor, masks: Tensor) -> Tensor:
    """Share of the absolute gradient of |f_p|^2 / 2 that falls on pixels outside part p, summed over channels.

    ``images`` float [B, 3, H, W]; ``masks`` bool [B, P, H, W]. Returns float64 [..., B, P], with the leading axes (layers) of
    the vectors; NaN for absent parts and where there is no gradient at all. One forward with its graph kept, then one
    backward for each layer and part, since every part has its own energy; pictures share them. The graph holds the
    activations of B pictures (two-stage: of B x P forwards), so B bounds the memory.

    Where the vector is one layer-normalised token, its norm hardly moves and the share is that of a very small gradient.
    """
    pixels = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        energies = extract(pixels).square().sum(-1) / 2
    by_layer = energies.reshape(-1, *energies.shape[-2:])
    shares = torch.full(by_layer.shape, torch.nan, dtype=torch.float64, device=images.device)
    present = by_layer.detach().isfinite()
    jobs = [(layer, part) for layer, part in present.any(1).nonzero().tolist() if by_layer.requires_grad]
    for job, (layer, part) in enumerate(jobs):
        rows = present[layer, :, part]
        energy = by_layer[layer, :, part][rows].sum()
        (gradient,) = torch.autograd.grad(energy, pixels, retain_graph=job + 1 < len(jobs))
        shares[layer, rows, part] = _outside(gradient[rows], masks[rows, part])
    return shares.reshape(energies.shape)


def _outside(gradient: Tensor, mask: Tensor) -> Tensor:
    """Share of |gradient| [b, 3, H, W] on pixels outside ``mask`` [b, H, W] -> [b]."""
    size = gradient.abs().sum(1, dtype=torch.float64)
    return (size * ~mask).sum((-2, -1)) / size.sum((-2, -1))


@torch.no_grad()
def replacement_dependence(
    extract: Extract, images: Tensor, masks: Tensor, replacement: Tensor, *, one: ExtractOne | None = None
) -> ReplacementDependence:
    """How far a part's vector moves when the pixels outside it, or inside it, come from ``replacement``.

    ``images``, ``replacement`` float [B, 3, H, W]; ``masks`` bool [B, P, H, W]. ``one`` gives a single part's vectors and
    saves a two-stage extractor the other parts: 3 P forwards of a part instead of P + 2 P^2. A part is always extracted in
    the same company before and after, so that equal pixels give equal bits.
    """
    parts = masks.shape[1]
    each = one or (lambda pixels, part: extract(pixels)[..., part, :])
    whole = None if one else extract(images)
    found = []
    for part in range(parts):
        inside = masks[:, part, None]
        before = each(images, part) if whole is None else whole[..., part, :]
        after_out = each(torch.where(inside, images, replacement), part)
        after_in = each(torch.where(inside, replacement, images), part)
        found.append((cosine_distance(before, after_out), cosine_distance(before, after_in)))
    d_out, d_in = (torch.stack(values, -1) for values in zip(*found, strict=True))
    return ReplacementDependence(d_out, d_in, d_out / (d_out + d_in))


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 - cosine over the last axis, as half the squared distance of the unit vectors in float64: exactly 0 for equal bits,
    never negative, no digits lost for small angles. NaN where either vector is zero or NaN."""
    one, other = (torch.as_tensor(v.double() / v.double().norm(dim=-1, keepdim=True)) for v in (first, second))
    return (one - other).square().sum(-1) / 2


def bootstrap_means(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means over pictures with 95 % percentile intervals: float64 [n, C] with NaN for missing -> mean, low, high [C].

    ``counts`` [R, n] of ``resample_counts``: the same resample for all columns; a column's mean runs over the drawn pictures that
    have a value. NaN where a column has none.
    """
    there = values.isfinite().double()
    sums = values.nan_to_num(0.0)
    drawn = counts.double()
    return sums.sum(0) / there.sum(0), *interval((drawn @ sums) / (drawn @ there))

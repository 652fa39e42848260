"""Loss terms that give part maps the shape of parts, after PDiscoFormer (arXiv 2407.04538) and iFAM (arXiv 2506.08915).

``maps`` A are float [B, K + 1, h, w], non-negative, summing to 1 over K + 1; the last is the background. Every term is a scalar
that is finite, with a finite gradient, for every such input: maps that vanish and maps of exact zeros included. Pure torch.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

PresenceKind = Literal["max", "soft_constraint", "tanh", "soft_tanh"]
BackgroundKind = Literal["enforced", "log", "linear", "mse"]

FLOOR = 1e-4
"""Probability at which a logarithm levels off: a part that is absent costs 9.2, not the 100 of a clamped logarithm."""
SOFT_SHARE = 0.1
"""b of the soft constraint."""


def total_variation(maps: Tensor) -> Tensor:
    """Sum of |vertical| and |horizontal| differences over all channels, divided by B h w of these very maps."""
    batch, _, height, width = maps.shape
    vertical = (maps[:, :, 1:] - maps[:, :, :-1]).abs().sum()
    horizontal = (maps[..., 1:] - maps[..., :-1]).abs().sum()
    return (vertical + horizontal) / (batch * height * width)


def presence(maps: Tensor, kind: PresenceKind = "max") -> Tensor:
    """Every foreground part shows somewhere in the batch. x_k = max_{b,h,w} avgpool3(A_k), stride 1, no padding, k <= K.

    ``max``: 1 - mean_k x_k. ``soft_constraint``: mean_k (1 - x)((1 - b) sg(x) + b), b = 0.1. ``tanh``: -log tanh(sum_b max_{h,w}
    avgpool3(A_k)). ``soft_tanh``: the soft constraint of that tanh (definition of this project). Depends on the batch size.
    """
    strongest = _smoothed(maps[:, :-1]).amax((2, 3))
    shown = strongest.amax(0) if kind in ("max", "soft_constraint") else torch.tanh(strongest.sum(0))
    if kind == "max":
        return 1 - shown.mean()
    if kind == "tanh":
        return _surprise(shown).mean()
    return ((1 - shown) * ((1 - SOFT_SHARE) * shown.detach() + SOFT_SHARE)).mean()


def background_presence(maps: Tensor, kind: BackgroundKind = "enforced") -> Tensor:
    """The background shows in every picture, at its rim. ``enforced``: -log of the largest avgpool3(A_{K+1}) r^2.

    r^2 = (x^2 + y^2) / max, x and y in [-1, 1] over the pooled map. Variants of the mean background activation m of a picture:
    ``log`` -log m, ``linear`` 1 - m, ``mse`` (1 - m)^2. Mean over pictures.
    """
    background = maps[:, -1:]
    mean = background.mean((1, 2, 3))
    if kind == "log":
        return _surprise(mean).mean()
    if kind == "linear":
        return (1 - mean).mean()
    if kind == "mse":
        return (1 - mean).square().mean()
    pooled = _smoothed(background)[:, 0]
    return _surprise((pooled * _squared_radius(pooled)).amax((1, 2))).mean()


def _squared_radius(plane: Tensor) -> Tensor:
    """r^2 [h, w] for a plane [..., h, w]: 1 in the corners; 1 everywhere for a single position."""
    y, x = (
        torch.linspace(-1, 1, side, device=plane.device, dtype=plane.dtype) if side > 1 else plane.new_ones(1)
        for side in plane.shape[-2:]
    )
    squared = x.square()[None] + y.square()[:, None]
    return squared / squared.max()


def _smoothed(maps: Tensor) -> Tensor:
    """avgpool3 with stride 1 and no padding; a side below 3 is pooled whole."""
    size = (min(3, maps.shape[2]), min(3, maps.shape[3]))
    return functional.avg_pool2d(maps, size, stride=1)


def _surprise(probability: Tensor) -> Tensor:
    """-log p that levels off near p = 0: 0 at 1, -log(FLOOR) at 0, with a gradient everywhere."""
    return -torch.log(probability.clamp(0, 1) * (1 - FLOOR) + FLOOR)


def entropy(maps: Tensor) -> Tensor:
    """Mean over pixels of -sum_k A log A: 0 for one-hot maps, log(K + 1) for uniform ones."""
    logs = torch.log(maps.clamp_min(torch.finfo(maps.dtype).tiny))
    return -(maps * logs).sum(1).mean()


def orthogonality(vectors: Tensor) -> Tensor:
    """Part vectors [B, K + 1, D] point different ways: mean square of V V' - I over the parts of a picture, unit rows V.

    0 for orthogonal parts and 1 - 1/(K + 1) for identical ones. It is the parts that are compared, not the dimensions.
    """
    unit = functional.normalize(vectors, dim=2)
    gram = unit @ unit.transpose(1, 2)
    # The diagonal is 1 by construction; set, so that neither rounding nor a vector of zeros costs anything.
    off = 1 - torch.eye(gram.shape[1], device=gram.device, dtype=gram.dtype)
    return (gram * off).square().mean()


def concentration(maps: Tensor) -> Tensor:
    """Spread of each foreground map around its centroid: sum A ((loc - grid) / size)^2 / sum A, mean over parts and pictures.

    Parts whose map sums to (almost) 0 in a picture count 0 there.
    """
    foreground = maps[:, :-1]
    mass = foreground.sum((2, 3))
    shown = mass > 1e-6
    weights = foreground / mass.clamp_min(1e-6)[..., None, None]
    spread = torch.zeros_like(mass)
    for axis, side in ((2, maps.shape[2]), (3, maps.shape[3])):
        grid = torch.arange(side, device=maps.device, dtype=maps.dtype) / side
        profile = weights.sum(5 - axis)
        centre = (profile * grid).sum(2, keepdim=True)
        spread = spread + (profile * (grid - centre).square()).sum(2)
    return torch.where(shown, spread, 0).mean()


# --- equivariance ----------------------------------------------------------------------------------------------------


class Affine(NamedTuple):
    """Turns (radians), shifts (share of the side; right and down positive) and scales, one a picture: [B], [B, 2], [B]."""

    angle: Tensor
    shift: Tensor
    scale: Tensor


def random_affine(
    batch: int,
    generator: torch.Generator,
    *,
    degrees: float = 90,
    shift: float = 0.11,
    scale: tuple[float, float] = (0.8, 1.4),
) -> Affine:
    """Drawn evenly: turned by up to +-``degrees``, shifted by up to ``shift`` of the side, scaled within ``scale``."""
    draw = torch.rand(batch, 4, generator=generator, device=generator.device)
    angle = (2 * draw[:, 0] - 1) * math.radians(degrees)
    return Affine(angle, (2 * draw[:, 1:3] - 1) * shift, scale[0] + draw[:, 3] * (scale[1] - scale[0]))


def warp(planes: Tensor, affine: Affine, *, back: bool = False) -> Tensor:
    """Planes [B, C, h, w] turned, shifted and scaled, bilinear, 0 where nothing comes from; ``back``: the way undone."""
    matrix = _matrix(affine).to(planes)
    # grid_sample asks where each place of the result comes from: the inverse of the movement.
    theta = matrix if back else torch.linalg.inv(matrix)
    grid = functional.affine_grid(theta[:, :2], list(planes.shape), align_corners=False)
    return functional.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _matrix(affine: Affine) -> Tensor:
    """The movement in coordinates -1..1 as matrices [B, 3, 3]."""
    cosine, sine = torch.cos(affine.angle) * affine.scale, torch.sin(affine.angle) * affine.scale
    zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
    x, y = 2 * affine.shift[:, 0], 2 * affine.shift[:, 1]
    rows = [cosine, -sine, x, sine, cosine, y, zero, zero, one]
    return torch.stack(rows, 1).view(-1, 3, 3)


def equivariance(maps: Tensor, moved: Tensor, affine: Affine | None = None) -> Tensor:
    """1 - mean cosine of each foreground map with the map of the moved picture, warped back.

    ``moved``: maps of the picture after ``affine`` (None: the identity). Compared where the moved picture has the place at all
    (definition of this project); maps that vanish there count as cosine 1 if both do, else 0.
    """
    if affine is not None:
        seen = warp(warp(torch.ones_like(maps[:, :1]), affine), affine, back=True)
        moved, maps = warp(moved, affine, back=True) * seen, maps * seen
    first, second = maps[:, :-1].flatten(2), moved[:, :-1].flatten(2)
    cosine = functional.cosine_similarity(first, second, dim=2, eps=1e-8)
    nothing = (first.detach().amax(2) < 1e-8) & (second.detach().amax(2) < 1e-8)
    return 1 - torch.where(nothing, 1.0, cosine).mean()

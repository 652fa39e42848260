"""Pictures with one part hidden: which pixels, which colour, which pictures. Pure torch.

Rules as in the public material of "Do Concept Bottleneck Models Respect Localities?" (arXiv 2401.01259) where it has one; which
parts of it are definitions of this project is said at each function.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def keypoint_radius(height: int, width: int, share: float = 0.3) -> int:
    """floor(share x side) in pixels; of a picture that is not square the shorter side counts (a definition of this project)."""
    return math.floor(share * min(height, width))


def keypoint_regions(keypoints: Tensor, height: int, width: int, radius: float) -> Tensor:
    """Pixels that belong to each keypoint: bool [P, height, width].

    ``keypoints`` float [P, 2]: x, y in pixels (pixel (row, column) lies at x = column, y = row), NaN where a part is not visible.
    A pixel belongs to the one keypoint that it is strictly nearer to than to any other visible one, if its distance is
    strictly below ``radius``. Parts that are not visible have no pixel.
    """
    points = keypoints.to(torch.float64)
    rows = torch.arange(height, dtype=torch.float64, device=points.device)
    columns = torch.arange(width, dtype=torch.float64, device=points.device)
    squared = (columns[None, None, :] - points[:, 0, None, None]) ** 2 + (
        rows[None, :, None] - points[:, 1, None, None]
    ) ** 2
    squared = squared.nan_to_num(nan=torch.inf)
    if len(points) == 0:
        return squared.to(torch.bool)
    padded = torch.cat([squared, torch.full_like(squared[:1], torch.inf)])
    nearest, second = padded.topk(2, 0, largest=False).values
    inside: Tensor = (squared == nearest) & (nearest < second) & (squared < float(radius) ** 2)
    return inside


def mean_colour(picture: Tensor) -> Tensor:
    """Mean over pixels of a picture [3, H, W] -> float32 [3], on the picture's own scale."""
    return picture.to(torch.float64).mean((1, 2)).to(torch.float32)


def hide(picture: Tensor, regions: Tensor, colour: Tensor) -> Tensor:
    """The picture [3, H, W] with each of ``regions`` bool [R, H, W] filled with ``colour`` [3] -> float32 [R, 3, H, W]."""
    return torch.where(regions[:, None], colour.to(torch.float32)[None, :, None, None], picture.to(torch.float32)[None])


class Drawn(NamedTuple):
    """Pictures drawn for pairs of parts, int64 [m] each: ``picture`` was drawn in draw ``draw`` for the response of the concepts of
    ``part`` when ``hidden`` is hidden; both parts are visible there."""

    picture: Tensor
    part: Tensor
    hidden: Tensor
    draw: Tensor


def draw_order(names: Sequence[str], seed: int, draw: int) -> Tensor:
    """A random order of pictures, int64 [n], by the SHA-256 of seed, draw and name: one picture more or less moves no other."""
    digests = [hashlib.sha256(f"{seed}\0{draw}\0{name}".encode("utf8", "replace")).digest() for name in names]
    return torch.tensor(sorted(range(len(names)), key=digests.__getitem__), dtype=torch.int64)


def draw_pairs(visible: Tensor, orders: Sequence[Tensor], images_per_pair: int, chosen: Sequence[int]) -> Drawn:
    """For every pair of the ``chosen`` parts (a part with itself too) and each draw, the first ``images_per_pair`` pictures of the
    draw's order where both are visible.

    ``visible`` bool [n, P]; ``orders`` int64 [n] each. Both directions of a pair share their pictures, and all pairs of a draw share
    one order, so that few distinct pictures are looked at (a definition of this project).
    """
    found: list[Tensor] = []
    for draw, order in enumerate(orders):
        seen = visible[order]
        for i, part in enumerate(chosen):
            for hidden in chosen[i:]:
                pictures = order[(seen[:, part] & seen[:, hidden]).nonzero()[:images_per_pair, 0]]
                both = ((part, hidden),) if part == hidden else ((part, hidden), (hidden, part))
                found += [_rows(pictures, *pair, draw) for pair in both]
    table = torch.cat(found) if found else torch.zeros((0, 4), dtype=torch.int64)
    return Drawn(*table.unbind(1))


def _rows(pictures: Tensor, part: int, hidden: int, draw: int) -> Tensor:
    return torch.stack([pictures, *(torch.full_like(pictures, value) for value in (part, hidden, draw))], 1)

"""Part masks made of keypoints (definitions of this project): nearest keypoint within a radius, or discs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.floating]


def squared_distance(x: float, y: float, height: int, width: int) -> NDArray[np.float64]:
    """Squared distances [H, W] from a point to pixels; the pixel in row r and column c is the point (c, r)."""
    columns, rows = np.arange(width, dtype=np.float64) - x, np.arange(height, dtype=np.float64) - y
    return np.asarray(columns[None, :] ** 2 + rows[:, None] ** 2)


def voronoi(points: Points, owner: NDArray[np.integer], parts: int, foreground: Mask, radius: float) -> Mask:
    """Masks [P, H, W]: each foreground pixel goes to the part of its nearest point, if that is at most ``radius`` pixels away.

    ``points`` (x, y) [K, 2] are the visible keypoints, ``owner`` [K] their parts (left and right may share one). A pixel as
    near to two parts goes to the one that stands first.
    """
    best = np.full(foreground.shape, np.inf)
    winner = np.full(foreground.shape, parts)
    for place in np.argsort(owner, kind="stable").tolist():
        distance = squared_distance(*points[place].tolist(), *foreground.shape)
        closer = distance < best
        best[closer], winner[closer] = distance[closer], int(owner[place])
    winner[~foreground | (best > radius**2)] = parts
    return np.asarray(winner == np.arange(parts)[:, None, None])


def discs(points: Points, owner: NDArray[np.integer], parts: int, foreground: Mask, radius: float) -> Mask:
    """Masks [P, H, W]: foreground pixels at most ``radius`` away from a point of the part; discs of two parts may overlap."""
    masks = np.zeros((parts, *foreground.shape), bool)
    for (x, y), part in zip(points.tolist(), owner.tolist(), strict=True):
        masks[part] |= squared_distance(x, y, *foreground.shape) <= radius**2
    return masks & foreground

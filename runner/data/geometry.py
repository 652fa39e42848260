"""How a picture comes to the pixels of a network, and what is drawn on it with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Interpolation = Literal["bilinear", "bicubic", "nearest"]
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0, "nearest": 0.5}
"""Half the width of a filter, in pixels of the coarser of the two grids."""


@dataclass(frozen=True)
class Geometry:
    """The short side is scaled to ``short_side`` (the picture keeps its proportions) and the centre ``size`` x ``size`` is cut
    out; with ``squash`` both sides are scaled to ``size`` instead. The same for pictures, masks (nearest) and points."""

    size: int
    short_side: int
    interpolation: Interpolation = "bicubic"
    squash: bool = False

    def picture(self, image: Image.Image) -> Image.Image:
        """The picture as ``size`` x ``size`` pixels."""
        return self._cut(image, _FILTERS[self.interpolation])

    def mask(self, mask: NDArray[Any]) -> NDArray[np.bool_]:
        """A bool mask [H, W] of the picture as [size, size]."""
        drawn = Image.fromarray(np.asarray(mask, bool).astype(np.uint8) * 255)
        return np.asarray(self._cut(drawn, Image.Resampling.NEAREST)) > 127

    def inner_mask(self, mask: NDArray[Any]) -> NDArray[np.bool_]:
        """Pixels of the input made of nothing but pixels of the mask: bool [H, W] of the picture -> bool [size, size].

        Scaling blends neighbours, so a pixel at the border of ``mask`` holds some of what lies outside. Here every source pixel in
        reach of the filter is in the mask, with one more on each side. Lies within ``mask``; equal to it where nothing is scaled.
        """
        inside = np.asarray(mask, bool)
        width, height, left, top = self._frame(inside.shape[1], inside.shape[0])
        columns, rows = self._reach(inside.shape[1], width, left), self._reach(inside.shape[0], height, top)
        outside = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1), np.int64)
        outside[1:, 1:] = (~inside).cumsum(0).cumsum(1)
        (low, high), (first, last) = (rows[:, :1], rows[:, 1:]), columns.T
        return np.asarray(outside[high, last] - outside[low, last] - outside[high, first] + outside[low, first] == 0)

    def _reach(self, side: int, scaled: int, start: int) -> NDArray[np.int64]:
        """First and last (exclusive) source pixel that each pixel of the input may read along one axis, int64 [size, 2]."""
        own = np.arange(self.size) + start
        if scaled == side:
            return np.stack([own, own + 1], 1)
        step = side / scaled
        # As Pillow has it: the box in float32, and a filter that widens with the step when a picture is made smaller.
        low = float(np.float32(start * step))
        step = (float(np.float32(min(side, (start + self.size) * step))) - low) / self.size
        centre = low + (np.arange(self.size) + 0.5) * step
        reach = _SUPPORT[self.interpolation] * max(step, 1.0) + 1
        found = np.stack([np.floor(centre - reach), np.ceil(centre + reach)], 1).astype(np.int64)
        return found.clip(0, side)

    def points(self, points: NDArray[Any], width: int, height: int) -> NDArray[np.float32]:
        """Points (x, y) [n, 2] in pixels of a ``width`` x ``height`` picture -> pixels of the input; NaN outside the cut."""
        scaled_width, scaled_height, left, top = self._frame(width, height)
        moved = np.asarray(points, np.float64) * [scaled_width / width, scaled_height / height] - [left, top]
        outside = ~((moved >= 0) & (moved < self.size)).all(1)
        moved[outside] = np.nan
        return moved.astype(np.float32)

    def _frame(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Width and height after scaling, left and top of the cut."""
        if self.squash:
            return self.size, self.size, 0, 0
        short = min(width, height)
        scaled = [max(self.size, round(side * self.short_side / short)) for side in (width, height)]
        return scaled[0], scaled[1], (scaled[0] - self.size) // 2, (scaled[1] - self.size) // 2

    def _cut(self, image: Image.Image, how: Image.Resampling) -> Image.Image:
        """What scaling and cutting give, without the pixels in between: a very long picture would be scaled to a giant canvas."""
        width, height, left, top = self._frame(*image.size)
        across, down = image.width / width, image.height / height
        right, bottom = min(image.width, (left + self.size) * across), min(image.height, (top + self.size) * down)
        return image.resize((self.size, self.size), how, (left * across, top * down, right, bottom))

"""What pictures of cut-outs are composed with. Random numbers come in, nothing else varies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from runner.nodes.cut_outs import Figure
from runner.nodes.noun_cut_outs import Kit
from runner.nodes.pasting import scaled, squared

T = TypeVar("T")
PHOTOGRAPHED = 0.35
"""Share of the pictures with a photograph behind, where the domain leaves it open."""


@dataclass(frozen=True)
class Stage:
    """Random numbers, material, pixels of a side."""

    draw: np.random.Generator
    kit: Kit
    size: int

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each as likely."""
        return items[int(self.draw.integers(len(items)))]

    def other(self, items: Sequence[T], *taken: T) -> T:
        """One of the items that are not taken."""
        return self.pick([item for item in items if item not in taken])

    def coin(self) -> bool:
        """True or False, each as likely."""
        return bool(self.draw.random() < 0.5)

    def ground(self) -> Image.Image:
        """A photograph or a pale ground, RGBA."""
        if self.draw.random() < PHOTOGRAPHED:
            return squared(self.pick(self.kit.backgrounds)[2], self.size)
        pale = 255 - self.draw.integers(0, 70, 3)
        return Image.new("RGBA", (self.size, self.size), (int(pale[0]), int(pale[1]), int(pale[2]), 255))

    def figure(self, noun: str) -> Figure:
        """One of the noun's cut-outs."""
        return self.pick(self.kit.figures[noun])

    def shaped(self, figure: Image.Image, least: float, most: float) -> Image.Image:
        """The figure at a size drawn between shares of the side, mirrored or not."""
        return scaled(figure, max(1, round(self.size * self.draw.uniform(least, most))), mirrored=self.coin())

    def put(
        self, ground: Image.Image, figure: Image.Image, box: tuple[float, float, float, float] = (0, 0, 1, 1)
    ) -> None:
        """Paste the figure anywhere within a box, given in shares of the side (left, top, right, bottom)."""
        left, top, right, bottom = (round(edge * self.size) for edge in box)
        across = left + round(self.draw.random() * max(0, right - left - figure.width))
        down = top + round(self.draw.random() * max(0, bottom - top - figure.height))
        ground.alpha_composite(figure, (max(0, across), max(0, down)))

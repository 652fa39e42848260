"""What is customary for each dataset: prompts of CLIP, start values and search ranges of Tip-Adapter. Plain data.

Source: the reference implementation of Tip-Adapter (Zhang et al., ECCV 2022). ``DEFAULT`` stands for every other dataset
and is ours: the range that two of the published datasets share, and their lowest start value.
"""

from __future__ import annotations

from typing import NamedTuple

from runner.data.datasets.known import KNOWN


class TipGrid(NamedTuple):
    """Start values, and the ranges of the search: ``beta_scale`` and ``alpha_scale`` are its (excluded) upper ends."""

    alpha: float
    beta: float
    beta_scale: float
    alpha_scale: float
    beta_steps: int = 200
    alpha_steps: int = 20

    def betas(self) -> list[float]:
        """``0.1 + i (S - 0.1) / n`` for i < n."""
        return _range(self.beta_scale, self.beta_steps)

    def alphas(self) -> list[float]:
        """As ``betas``, of the weight of the cache."""
        return _range(self.alpha_scale, self.alpha_steps)


def _range(scale: float, steps: int) -> list[float]:
    return [i * (scale - 0.1) / steps + 0.1 for i in range(steps)]


GRIDS = {
    "caltech101": TipGrid(3, 1, 12, 5),
    "dtd": TipGrid(2, 1, 13, 13),
    "eurosat": TipGrid(2, 1, 12, 10),
    "fgvc_aircraft": TipGrid(5, 1, 30, 30),
    "flowers102": TipGrid(10, 1, 50, 50),
    "food101": TipGrid(1.17, 1, 10, 10),
    "oxford_pets": TipGrid(1.17, 1, 7, 3),
    "stanford_cars": TipGrid(3, 1, 20, 10),
    "sun397": TipGrid(1.17, 1, 12, 10),
    "ucf101": TipGrid(3, 1, 7, 3),
}
DEFAULT = TipGrid(1.17, 1, 7, 3)

TEMPLATES = {name: known.template for name, known in KNOWN.items()}
"""CLIP's prompt for each of the datasets, with ``{}`` for the class."""

FINETUNE_EPOCHS = {"eurosat": 100}
DEFAULT_FINETUNE_EPOCHS = 20


def grid_of(dataset: str) -> TipGrid:
    """The dataset's own, else ``DEFAULT``."""
    return GRIDS.get(dataset, DEFAULT)

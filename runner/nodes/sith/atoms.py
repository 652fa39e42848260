"""Lines of a concept dictionary as unit vectors that are not centred, for edits that go by the classes of a task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.nodes.sith.dictionary_making import Dictionary


@dataclass(frozen=True)
class UnitLines:
    """Rows [T, d] of unit norm, not centred, of the lines that ``lines`` (T,) names; for the coders of this room."""

    dictionary: Dictionary
    lines: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(T, d)."""
        return len(self.lines), self.dictionary.raw.shape[1]

    @property
    def device(self) -> torch.device:
        """That of the embeddings."""
        return self.dictionary.raw.device

    def rows(self, start: int, stop: int) -> Tensor:
        """A stretch of rows."""
        return unit_lines(self.dictionary, self.lines[start:stop])

    def take(self, index: Tensor) -> Tensor:
        """Rows by index of any shape."""
        return unit_lines(self.dictionary, self.lines[index])


def unit_lines(dictionary: Dictionary, lines: Tensor) -> Tensor:
    """Unit vectors (..., d) of lines (...)."""
    return dictionary.raw[lines].float() / dictionary.centring.norms[lines][..., None]


def centred_lines(dictionary: Dictionary, lines: Tensor) -> Tensor:
    """Unit vectors (..., d) of lines (...), less the mean over all lines, scaled to unit norm again."""
    left = unit_lines(dictionary, lines) - dictionary.centring.mean
    return left / dictionary.centring.centred_norms[lines][..., None]

"""Unit, un-centred rows of a concept dictionary on disk, read as they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.artifacts import ConceptDictionary
from runner.errors import DataError
from runner.nodes.sith.decomposing import unit_mean
from runner.nodes.sith.weights import unit


@dataclass(frozen=True)
class Atoms:
    """Rows of unit norm [M, d] over a memory map, or those of them that ``kept`` names; for the coders of this room."""

    texts: list[str]
    stored: NDArray[Any]
    kept: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(M, d)."""
        return len(self.stored) if self.kept is None else len(self.kept), self.stored.shape[1]

    @property
    def device(self) -> torch.device:
        """Main memory."""
        return torch.device("cpu")

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows from ``start`` to before ``stop``."""
        return self.take(torch.arange(start, min(stop, self.shape[0])))

    def take(self, index: Tensor) -> Tensor:
        """Rows by index, of any shape."""
        place = index if self.kept is None else self.kept[index]
        return unit(torch.from_numpy(np.array(self.stored[place.numpy()], np.float32)))

    def only(self, kept: Tensor) -> Atoms:
        """The rows that ``kept`` (T,) names, in that order."""
        return Atoms(self.texts, self.stored, kept)


def unit_atoms(dictionary: ConceptDictionary, identity: str) -> Atoms:
    """Rows of a dictionary. Raises ``DataError`` where another encoder made it, or its parts do not agree."""
    if dictionary.info["encoder"]["identity"] != identity:
        raise DataError(
            "the dictionary was embedded by another encoder than the model that is edited",
            hint="Embed it with that model.",
        )
    folder = Path(dictionary.index)
    texts = (folder / "concepts.txt").read_text("utf8").splitlines()
    stored = np.load(folder / "embeddings.npy", mmap_mode="r", allow_pickle=False)
    if stored.ndim != 2 or len(stored) != len(texts):
        raise DataError(f"the dictionary has {len(texts)} concepts and embeddings of shape {list(stored.shape)}")
    return Atoms(texts, stored)


def centred(atoms: Atoms, index: Tensor) -> Tensor:
    """Rows by index, less the mean of all unit rows, scaled to unit norm again."""
    mean = torch.from_numpy(unit_mean(atoms.stored)).float()
    return unit(atoms.take(index) - mean)

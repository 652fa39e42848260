"""Centring of a concept dictionary, streamed: rows to unit norm, less their mean, to unit norm again.

Source: SITH's released code; the mean is over all rows of the dictionary. Works on memory-mapped rows: nothing but norms is
kept, centred rows are derived when they are read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from runner.nodes.sith.coding_rows import Rows, TensorRows
from runner.nodes.sith.coding_search import stretches

FLOOR = 1e-12
"""Least norm that is divided by."""
VANISHED = 1e-6
"""Norm of a centred unit row at and below which nothing but rounding is left of it."""
IN_MEMORY = 1 << 26
"""Values of centred rows that are made at once and kept."""


class Centring(NamedTuple):
    """``norms`` [M] of the raw rows, ``mean`` [d] of the unit rows, ``centred_norms`` [M] of unit rows less the mean, float32;
    ``kept`` int64: rows of which something is left."""

    norms: Tensor
    mean: Tensor
    centred_norms: Tensor
    kept: Tensor


class CentredRows:
    """The kept rows [M', d] of a dictionary, centred, derived from the raw rows as they are read."""

    def __init__(self, raw: Tensor, centring: Centring) -> None:
        self.raw, self.centring = raw, centring
        self.whole = len(centring.kept) == len(raw)

    @property
    def shape(self) -> tuple[int, int]:
        """(M', d)."""
        return len(self.centring.kept), self.raw.shape[1]

    @property
    def device(self) -> torch.device:
        """That of the raw rows."""
        return self.raw.device

    def rows(self, start: int, stop: int) -> Tensor:
        """A stretch of rows."""
        return self._of(slice(start, stop) if self.whole else self.centring.kept[start:stop])

    def take(self, index: Tensor) -> Tensor:
        """Rows by index of any shape."""
        return self._of(self.centring.kept[index])

    def _of(self, which: Tensor | slice) -> Tensor:
        return centred_of(self.raw, self.centring, which)


class UnitRows:
    """Rows [T, d] of a dictionary, of unit norm, not centred: the kept ones, or those that ``which`` int64 [T] names."""

    def __init__(self, raw: Tensor, centring: Centring, which: Tensor | None = None) -> None:
        self.raw, self.centring = raw, centring
        self.which = centring.kept if which is None else which

    @property
    def shape(self) -> tuple[int, int]:
        """(T, d)."""
        return len(self.which), self.raw.shape[1]

    @property
    def device(self) -> torch.device:
        """That of the raw rows."""
        return self.raw.device

    def rows(self, start: int, stop: int) -> Tensor:
        """A stretch of rows."""
        return unit_of(self.raw, self.centring, self.which[start:stop])

    def take(self, index: Tensor) -> Tensor:
        """Rows by index of any shape."""
        return unit_of(self.raw, self.centring, self.which[index])


def unit_of(raw: Tensor, centring: Centring, which: Tensor | slice) -> Tensor:
    """Raw rows (..., d) by index (...) into all of them, of unit norm, not centred."""
    return raw[which].float() / centring.norms[which][..., None]


def centred_of(raw: Tensor, centring: Centring, which: Tensor | slice) -> Tensor:
    """Raw rows (..., d) by index (...) into all of them, centred: of unit norm, less the mean, of unit norm again."""
    return (unit_of(raw, centring, which) - centring.mean) / centring.centred_norms[which][..., None]


def centre(embeddings: Tensor, chunk: int = 16384) -> Centring:
    """Norms and mean of raw embeddings [M, d], in two passes of ``chunk`` rows; sums are float64.

    Raises ValueError for no rows, NaN or infinity, and where nothing is left of any row.
    """
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(f"a dictionary is [M, d] with at least one row, not {tuple(embeddings.shape)}")
    total = torch.zeros(embeddings.shape[1], dtype=torch.float64, device=embeddings.device)
    norms = torch.empty(len(embeddings), device=embeddings.device)
    for some in stretches(len(embeddings), chunk):
        part = embeddings[some].double()
        norms[some] = part.norm(dim=1).clamp_min(FLOOR).float()
        total += (part / norms[some, None].double()).sum(0)
    mean = total / len(embeddings)
    if not (torch.isfinite(norms).all() and torch.isfinite(mean).all()):
        raise ValueError("the embeddings contain NaN or infinity")
    centred = torch.empty_like(norms)
    for some in stretches(len(embeddings), chunk):
        centred[some] = (embeddings[some].double() / norms[some, None] - mean).norm(dim=1).float()
    kept = torch.nonzero(centred > VANISHED)[:, 0]
    if not len(kept):
        raise ValueError("nothing is left of any row after centring: all rows point the same way")
    return Centring(norms, mean.float(), centred.clamp_min(FLOOR), kept)


def centred_rows(embeddings: Tensor, centring: Centring) -> Rows:
    """The centred rows: in memory where they are few, else derived from the raw ones as they are read."""
    derived = CentredRows(embeddings, centring)
    count, dim = derived.shape
    return TensorRows(derived.rows(0, count)) if count * dim <= IN_MEMORY else derived

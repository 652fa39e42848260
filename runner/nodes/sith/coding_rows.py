"""Rows of a dictionary, read by chunks: a tensor in memory, a memory-mapped file, rows derived from either."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Rows(Protocol):
    """Float32 rows [M, d]; ``rows`` a stretch of them, ``take`` some by index (any shape [...] -> [..., d])."""

    @property
    def shape(self) -> tuple[int, int]:
        """(M, d)."""

    @property
    def device(self) -> torch.device:
        """Where the rows come to lie."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows from ``start`` to before ``stop``."""

    def take(self, index: Tensor) -> Tensor:
        """Rows by index."""


class TensorRows:
    """A tensor, also one over a memory-mapped file: only what is read comes into memory."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, int]:
        """(M, d)."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def device(self) -> torch.device:
        """That of the tensor."""
        return self.values.device

    def rows(self, start: int, stop: int) -> Tensor:
        """A view where the tensor is float32."""
        return self.values[start:stop].float()

    def take(self, index: Tensor) -> Tensor:
        """A copy."""
        return self.values.index_select(0, index.flatten()).view(*index.shape, self.values.shape[1]).float()


class JoinedRows:
    """Two sets of rows side by side, [M, d + e]: one inner product scores by both."""

    def __init__(self, left: Rows, right: Rows) -> None:
        self.left, self.right = left, right

    @property
    def shape(self) -> tuple[int, int]:
        """(M, d + e)."""
        return self.left.shape[0], self.left.shape[1] + self.right.shape[1]

    @property
    def device(self) -> torch.device:
        """That of the left rows."""
        return self.left.device

    def rows(self, start: int, stop: int) -> Tensor:
        """Stretches of both."""
        return torch.cat([self.left.rows(start, stop), self.right.rows(start, stop)], -1)

    def take(self, index: Tensor) -> Tensor:
        """Rows of both."""
        return torch.cat([self.left.take(index), self.right.take(index)], -1)


def as_rows(atoms: Tensor | Rows) -> Rows:
    """Rows of a tensor [M, d]; other rows as they are."""
    return TensorRows(atoms) if isinstance(atoms, Tensor) else atoms

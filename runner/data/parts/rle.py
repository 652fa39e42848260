"""Masks as run lengths: small in a table, exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import DataError

Mask = NDArray[np.bool_]


def encode(mask: NDArray[Any]) -> bytes:
    """Runs of a bool mask [H, W], row by row, starting with the number of leading False: uint32, little endian."""
    flat = np.asarray(mask, bool).ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0] if flat.size and not flat[0] else [0, 0], ends, [flat.size]])
    return np.diff(bounds).astype("<u4").tobytes()


def decode(runs: bytes, height: int, width: int) -> Mask:
    """The mask [height, width] of ``encode``. Raises ``DataError`` where the runs do not fill it."""
    if len(runs) % 4 or height < 1 or width < 1:
        raise DataError("a stored mask is damaged: no whole number of runs")
    lengths = np.frombuffer(runs, "<u4").astype(np.int64)
    if lengths.sum() != height * width:
        raise DataError(
            f"a stored mask is damaged: {lengths.sum()} pixels in its runs, {height} x {width} were expected"
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(height, width)

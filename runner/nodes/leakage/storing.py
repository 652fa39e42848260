"""Finished pieces of a long extraction, each whole or not at all, and the memory maps they end in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import DataError

Array = NDArray[Any]


def save_piece(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays under a temporary name, force them to disk, then give the file its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_array(path: Path, name: str) -> Array:
    """One array of ``save_piece``; only that one is read. Raises ``DataError`` where it is not there."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file[name])
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path.name}: {name} cannot be read ({error})", hint="Run again; it is made anew.") from error


def write_rows(path: Path, blocks: Iterable[Array], rows: int) -> None:
    """Blocks [b, ...] one after the other as one ``.npy`` [rows, ...], written through a memory map: one block in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target: np.memmap[Any, Any] | None = None
    first = 0
    for block in blocks:
        if target is None:
            shape = (rows, *block.shape[1:])
            target = np.lib.format.open_memmap(path, mode="w+", dtype=block.dtype, shape=shape)
        target[first : first + len(block)] = block
        first += len(block)
    if target is None or first != rows:
        raise ValueError(f"{path.name}: {first} rows came, {rows} were expected")
    target.flush()

"""Pictures of two splits whose files hold the same bytes: what is tested on them was shown before."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

MIDDLE = 4096
"""Bytes from the middle of a file that are compared before all of it is read."""

Key = Callable[[Path], Hashable]


def same_bytes(shown: Iterable[Path], tested: Sequence[Path]) -> list[Path]:
    """Those of ``tested`` whose bytes are also those of a file of ``shown``, in order. Files that cannot be read have no twin.

    Sizes are compared first, then some bytes of files whose size coincides, then all bytes of what is left.
    """
    left, right = [*shown], [*tested]
    for key in (_size, _middle, _digest):
        here, there = _by_key(left, key), _by_key(right, key)
        both = {*here} & {*there}
        left, right = ([path for value in both for path in keyed[value]] for keyed in (here, there))
    found = {*right}
    return [path for path in tested if path in found]


def _by_key(paths: Iterable[Path], key: Key) -> dict[Hashable, list[Path]]:
    keyed: dict[Hashable, list[Path]] = defaultdict(list)
    for path in paths:
        try:
            keyed[key(path)].append(path)
        except OSError:
            continue
    return keyed


def _size(path: Path) -> int:
    return path.stat().st_size


def _middle(path: Path) -> tuple[int, bytes]:
    size = _size(path)
    with path.open("rb") as file:
        file.seek(max(0, (size - MIDDLE) // 2))
        return size, file.read(MIDDLE)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()

"""Which pictures a limit leaves: the same ones for every method and every room."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def sampled(items: Sequence[T], limit: int | None, seed: int, name: Callable[[T], str]) -> list[T]:
    """At most ``limit`` of the items, those of the least SHA-256 of seed and name, in their order.

    Whether an item is drawn does not hang on its place, and one that is missing changes at most one other.
    """
    if limit is None or len(items) <= limit:
        return list(items)
    digests = [hashlib.sha256(f"{seed}\0{name(item)}".encode()).digest() for item in items]
    ranked = sorted(range(len(items)), key=digests.__getitem__)
    return [items[i] for i in sorted(ranked[:limit])]

"""Features of pictures that a frozen vision tower gives, kept for the mixtures that come after."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Kept:
    """Values by key until ``limit`` bytes are held; later ones are computed again."""

    def __init__(self, limit: float) -> None:
        self.limit, self.held = limit, 0
        self._values: dict[Any, Any] = {}

    def get(self, key: Any) -> Any:
        """The value, or None."""
        return self._values.get(key)

    def put(self, key: Any, value: Any) -> None:
        """Keep it where there is room."""
        size = _bytes(value)
        if self.held + size <= self.limit:
            self._values[key] = value
            self.held += size


@contextmanager
def remembered_pictures(vision: nn.Module | None, kept: Kept) -> Iterator[None]:
    """A tower that no merge changes sees each batch of pictures once; what it gave is told by the bytes it was given.

    ``kept``: of this tower and its like alone; a network that is loaded again brings the same tower under another address.
    """
    if vision is None:
        yield
        return
    forward, before = vision.forward, vision.__dict__.get("forward")

    def once(*args: Any, **kwargs: Any) -> Any:
        key = _key((args, kwargs))
        found = kept.get(key)
        if found is None:
            found = forward(*args, **kwargs)
            kept.put(key, found)
        return found

    vision.__dict__["forward"] = once
    try:
        yield
    finally:
        del vision.__dict__["forward"]
        if before is not None:
            vision.__dict__["forward"] = before


def _key(value: Any) -> str:
    digest = hashlib.sha256()
    for part in _leaves(value):
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from _leaves(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _bytes(value: Any) -> int:
    leaves = list(_leaves(value))
    held = sum(part.nbytes for part in leaves if isinstance(part, Tensor))
    return held + sum(len(part) for part in leaves if isinstance(part, bytes))

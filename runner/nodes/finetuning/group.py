"""The processes of one training: what they say to each other. ``Group`` is all of them together, or the only one.

Every method but ``first`` and ``leads`` is called by all processes at the same place, as collectives want it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BUCKET = 1 << 25
"""Elements of gradients that are summed together."""


class Group:
    """This process alone: nothing to agree on. ``rank`` counts from 0; ``size``: how many there are."""

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def share(self, rows: Sequence[int]) -> list[int]:
        """This process' part of a batch; sorted by length, so that each has long and short ones."""
        return list(rows[self.rank :: self.size])

    def sums(self, values: Sequence[float]) -> list[float]:
        """Of each value over the processes, in float64."""
        return [float(value) for value in values]

    def any(self, mine: bool) -> bool:
        """Whether it is true for one of them."""
        return self.sums([float(mine)])[0] > 0

    def union(self, mine: set[str]) -> set[str]:
        """Of the sets of all."""
        return set(mine)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Of parameters that each process holds whole, in place."""

    def first(self) -> Any:
        """A context that process 0 goes through before the others."""
        return _straight()


class Processes(Group):
    """Several processes that ``torch.distributed`` has brought together; tensors travel on ``device``."""

    def __init__(self, device: str) -> None:
        import torch.distributed as dist

        self._dist, self._device = dist, device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sums(self, values: Sequence[float]) -> list[float]:
        """See ``Group``."""
        told = torch.tensor(list(values), dtype=torch.float64, device=self._device)
        self._dist.all_reduce(told)
        return [float(value) for value in told.tolist()]

    def union(self, mine: set[str]) -> set[str]:
        """See ``Group``."""
        found: list[Any] = [None] * self.size
        self._dist.all_gather_object(found, sorted(mine))
        return {item for some in found for item in some}

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """See ``Group``. A parameter that no process has a gradient for is left without, as a single process would leave it."""
        have = self.sums([float(p.grad is not None) for p in parameters])
        for bucket in _buckets([p for p, count in zip(parameters, have, strict=True) if count]):
            flat = torch.cat([_gradient(p).flatten() for p in bucket])
            self._dist.all_reduce(flat)
            for parameter, piece in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                parameter.grad = piece.view_as(parameter)

    @contextmanager
    def first(self) -> Iterator[None]:
        """See ``Group``."""
        if not self.leads:
            self._dist.barrier()
        yield
        if self.leads:
            self._dist.barrier()


@contextmanager
def _straight() -> Iterator[None]:
    yield


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in order, some at a time, so that no second copy of all gradients is made."""
    bucket: list[nn.Parameter] = []
    held = 0
    for parameter in parameters:
        if bucket and held + parameter.numel() > BUCKET:
            yield bucket
            bucket, held = [], 0
        bucket.append(parameter)
        held += parameter.numel()
    if bucket:
        yield bucket

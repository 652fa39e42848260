"""What every function of this room asks of its inputs, and groups of unequal sizes in batches. Pure torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def check_rows(name: str, x: Tensor, width: int | None = None, *, nonzero: bool = False) -> None:
    """Raise ValueError unless ``x`` is [rows, width], has a row, and holds finite numbers (``nonzero``: no row of norm 0)."""
    if x.ndim != 2 or not x.shape[0] or not x.shape[1]:
        raise ValueError(f"{name} must be a matrix with at least one row, not of shape {tuple(x.shape)}")
    if width is not None and x.shape[1] != width:
        raise ValueError(f"{name} are {x.shape[1]} wide, expected {width}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} contain NaN or infinity")
    if nonzero and bool((x == 0).all(1).any()):
        raise ValueError(f"{name}: row {int((x == 0).all(1).nonzero()[0])} has the norm 0")


def unit_rows(name: str, x: Tensor, width: int | None = None) -> Tensor:
    """Checked rows in float64, scaled to unit norm."""
    check_rows(name, x, width, nonzero=True)
    rows = x.double()
    # By the largest entry first: squares of very small or large numbers would leave the range.
    rows = rows / rows.abs().amax(1, keepdim=True)
    norms: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / norms


def check_groups(name: str, groups: Sequence[Tensor], width: int, count: int | None = None) -> None:
    """Raise ValueError unless there are ``count`` groups (where given), each a matrix with a row, ``width`` wide, finite."""
    if count is not None and len(groups) != count:
        raise ValueError(f"there must be one group of {name} for each of {count} queries, not {len(groups)}")
    for i, group in enumerate(groups):
        check_rows(f"{name} of group {i}", group, width)


def by_size(groups: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """Groups [n_g, width] of equal size together: (their places, stacked [g, n, width])."""
    places: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        places.setdefault(len(group), []).append(i)
    for indices in places.values():
        yield indices, torch.stack([groups[i] for i in indices])

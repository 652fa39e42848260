"""Groups of images laid out as arrays [attributes, values], so that one vectorised call scores a whole audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


ValueSource = Literal["caption", "measured"]


class GroupName(NamedTuple):
    """Which images: those of one value of one attribute of one target, and who says that they show the value."""

    target: str
    attribute: str
    value: str
    value_source: ValueSource = "caption"

    @property
    def scope(self) -> tuple[str, str, ValueSource]:
        """The groups that are compared with each other share it."""
        return self.target, self.attribute, self.value_source


class CheckedShares(NamedTuple):
    """Shares of a group's images that show the target and the value, as a checker of known quality found; NaN = not checked.

    ``target_low``: lower end of the target's interval.
    """

    target: float
    value: float
    target_low: float = float("nan")


NOT_CHECKED = CheckedShares(float("nan"), float("nan"))


@dataclass(frozen=True)
class GroupCounts:
    """What was seen in one group: per caption (right, images), the mean similarity, and checked shares if any.

    ``separable``: whether its value can be told apart in the pictures (None = not tested); ``doubt`` says why not.
    """

    name: GroupName
    captions: tuple[tuple[int, int], ...]
    mean_similarity: float = float("nan")
    checked: CheckedShares = NOT_CHECKED
    separable: bool | None = None
    doubt: str = ""

    @property
    def k(self) -> int:
        """Images classified right."""
        return sum(right for right, _ in self.captions)

    @property
    def n(self) -> int:
        """Images."""
        return sum(images for _, images in self.captions)


@dataclass(frozen=True)
class Grid:
    """Groups in sorted order with their place: ``groups[i]`` stands at ``[row[i], column[i]]``; other cells are empty."""

    groups: tuple[GroupCounts, ...]
    attributes: tuple[tuple[str, str, ValueSource], ...]
    row: IntArray
    column: IntArray
    shape: tuple[int, int]

    def spread(self, per_group: Sequence[float] | FloatArray | IntArray, fill: float = np.nan) -> FloatArray:
        """One number a group as float64 [attributes, values]."""
        cells = np.full(self.shape, fill, np.float64)
        cells[self.row, self.column] = np.asarray(per_group, np.float64)
        return cells

    def gather(self, cells: NDArray[Any]) -> NDArray[Any]:
        """The cells [attributes, values] back as one entry a group."""
        return np.asarray(cells[self.row, self.column])

    @property
    def k(self) -> IntArray:
        """Right images [attributes, values]."""
        return self.spread([g.k for g in self.groups], 0).astype(np.int64)

    @property
    def n(self) -> IntArray:
        """Images [attributes, values]."""
        return self.spread([g.n for g in self.groups], 0).astype(np.int64)


def make_grid(groups: Iterable[GroupCounts]) -> Grid:
    """Lay out groups; their order does not matter. Raises ValueError when a group comes twice."""
    ordered = tuple(sorted(groups, key=lambda g: (g.name.scope, g.name.value)))
    names = [g.name for g in ordered]
    if len(set(names)) < len(names):
        raise ValueError("a group stands twice in the audit")
    attributes = tuple(dict.fromkeys(n.scope for n in names))
    rows: Mapping[tuple[str, str, str], int] = {scope: i for i, scope in enumerate(attributes)}
    row = np.array([rows[n.scope] for n in names], np.int64)
    first = np.searchsorted(row, np.arange(len(attributes)))
    column = np.arange(len(names)) - (first[row] if len(names) else 0)
    width = int(column.max()) + 1 if len(names) else 0
    return Grid(ordered, attributes, row, column, (len(attributes), width))

"""What a dataset is once it has been read: classes, and pictures of splits. Light: no pyarrow, no Pillow."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from runner.data.datasets.specs import SPLITS, Fractions, Split
from runner.errors import DataError

if TYPE_CHECKING:
    from runner.data.sources import Source

SHOWN = 3
"""Examples that an error names."""


class Picture(NamedTuple):
    """One labelled picture. ``sample_id`` is unique in the dataset and does not depend on where its root stands."""

    split: Split
    sample_id: str
    source_id: str
    uri: str
    class_index: int


@dataclass(frozen=True)
class Content:
    """A dataset as read: target texts by class index, pictures in the order of their splits, where the bytes are.

    ``splits`` are those that ought to have pictures; ``notes`` say what was left out, for a reader.
    """

    classes: list[str]
    pictures: list[Picture]
    sources: list[Source]
    splits: tuple[Split, ...] = SPLITS
    licence: str | None = None
    notes: list[str] = field(default_factory=list)


def some(names: Iterable[str], *, most: int = SHOWN) -> str:
    """The first few names for an error: quoted, each on one line and of bounded length."""
    listed = list(names)
    shown = ", ".join(quoted(name) for name in listed[:most])
    return shown + (f" and {len(listed) - most} more" if len(listed) > most else "")


def quoted(text: object, *, most: int = 80) -> str:
    """Text that somebody else wrote, for an error."""
    line = repr(text)
    return line if len(line) <= most else line[: most - 4] + line[0] + "..."


def share(*parts: object) -> float:
    """A number in [0, 1) that depends on ``parts`` alone: the ground of splits and samples that stay when others come."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def dealt(key: str, fractions: Fractions, seed: int) -> Split:
    """The split of what ``key`` names: a further key moves no other one to another split."""
    drawn, reached = share("split", seed, key), 0.0
    wanted: list[Split] = [split for split in SPLITS if getattr(fractions, split) > 0]
    for split in wanted:
        reached += getattr(fractions, split)
        if drawn < reached:
            return split
    return wanted[-1]


def check_once(name: str, paths: Sequence[tuple[Split, str]]) -> None:
    """Raise ``DataError`` where a picture stands twice, in one split or in two."""
    if len({path for _, path in paths}) == len(paths):
        return
    counts = Counter(path for _, path in paths)
    twice = [path for path, count in counts.items() if count > 1]
    homes = sorted({split for split, path in paths if path == twice[0]}, key=SPLITS.index)
    where = f"in {' and '.join(homes)}" if len(homes) > 1 else f"twice in {homes[0]}"
    raise DataError(
        f"{name}: {len(twice)} pictures are listed more than once, {quoted(twice[0])} {where}",
        hint="A picture belongs to one split, else methods are tested on what they were shown.",
    )

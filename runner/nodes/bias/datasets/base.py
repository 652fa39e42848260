"""What every data set with known biases gives: names and labels as arrays, and where its pictures stand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runner.errors import DataError

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class LabelledImages:
    """Pictures below ``root`` by uri [n], with ``biases`` (names [b]) and ``present`` (bool [n, b]).

    ``classes`` int [n] holds the index of each picture's class where there is one (``kind`` "one_of_many"); with ``kind``
    "yes_no" every bias attribute is itself a class, so ``present`` holds these labels too. ``missing``: files that the
    labels name and the folder does not hold; they are left out of everything else.
    """

    name: str
    root: Path
    kind: Literal["yes_no", "one_of_many"]
    uris: tuple[str, ...]
    biases: tuple[str, ...]
    present: BoolArray
    classes: IntArray
    missing: tuple[str, ...] = ()

    def take(self, rows: Sequence[int] | IntArray) -> LabelledImages:
        """Some of the pictures, in the order given."""
        chosen = np.asarray(rows, np.int64)
        uris = tuple(self.uris[i] for i in chosen)
        classes = self.classes[chosen] if self.classes.size else self.classes
        return replace(self, uris=uris, present=self.present[chosen], classes=classes)


def files_below(root: Path) -> dict[str, str]:
    """Uris of the files in a folder and in its folders (one level), by file name. Nothing is opened.

    Raises ``DataError`` where the folder cannot be listed. A name that stands in two places keeps the first in order.
    """
    found: dict[str, str] = {}
    for uri in sorted(_listing(root), key=lambda uri: (uri.count("/"), uri)):
        found.setdefault(uri.rpartition("/")[2], uri)
    return found


def _listing(root: Path) -> Iterator[str]:
    try:
        with os.scandir(root) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    yield entry.name
                elif not entry.is_symlink():
                    with os.scandir(entry.path) as inner:
                        yield from (f"{entry.name}/{file.name}" for file in inner if not file.is_dir())
    except OSError as error:
        raise DataError(f"{root} cannot be listed: {error.strerror or error}") from error


def locate(images: LabelledImages, names: Sequence[str], *, limit: int | None) -> LabelledImages:
    """Keep the pictures that stand in ``images.root``, by file name [n], and the first ``limit`` of them.

    Raises ``DataError`` where none does.
    """
    here = files_below(images.root)
    rows = [i for i, name in enumerate(names) if name in here]
    missing = tuple(name for name in names if name not in here)
    if not rows:
        shown = f", such as {missing[0]}" if missing else ""
        raise DataError(
            f"{images.root} holds none of the {len(names)} pictures that the labels of {images.name} name{shown}",
            hint="Name the folder that holds the picture files themselves.",
        )
    rows = rows[:limit]
    found = replace(images, uris=tuple(here.get(name, "") for name in names), missing=missing)
    return found.take(rows)

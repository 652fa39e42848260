"""CelebA (Liu et al., ICCV 2015): 40 yes/no attributes for each face, as distributed and as repackaged.

Attribute files come in three shapes: a line with the count, a line with the names, then rows; the names, then rows; or
comma-separated with a header. Rows hold the file name and -1 or 1 for each attribute.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.data.datasets.lines import malformed, numbered_lines
from runner.errors import DataError

ATTRIBUTE_FILES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
PARTITION_FILES = ("list_eval_partition.txt", "list_eval_partition.csv")
TEXT_FOLDERS = ("", "Anno", "Eval", "anno", "eval")
IMAGE_FOLDERS = ("img_align_celeba", "Img/img_align_celeba", "images", "")
_VALUES = {"1": True, "-1": False}


class AttributeTable(NamedTuple):
    """``files`` [n], attribute ``names`` [a], ``present`` bool [n, a]."""

    files: list[str]
    names: list[str]
    present: NDArray[np.bool_]


def read_attributes(path: Path) -> AttributeTable:
    """Read an attribute file of any of the three shapes. Raises ``DataError`` naming file and line."""
    lines = ((number, _fields(line)) for number, line in numbered_lines(path))
    names, expected, rest = _header(path, lines)
    files: dict[str, int] = {}
    rows: list[list[bool]] = []
    for number, fields in rest:
        if len(fields) != len(names) + 1:
            wanted = f"a file name and {len(names)} values"
            raise malformed(path, number, f"expected {wanted}, found {len(fields)} fields")
        try:
            row = [_VALUES[value] for value in fields[1:]]
        except KeyError as error:
            raise malformed(path, number, f"values are -1 or 1, not {error.args[0]!r}") from None
        if files.setdefault(fields[0], number) != number:
            raise malformed(path, number, f"{fields[0]} was already listed in line {files[fields[0]]}")
        rows.append(row)
    if expected is not None and expected != len(rows):
        raise malformed(path, 1, f"announces {expected} rows, but {len(rows)} follow", hint="The file may be cut off.")
    return AttributeTable(list(files), names, np.array(rows, bool).reshape(len(rows), len(names)))


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.split(",")] if "," in line else line.split()


Lines = Iterator[tuple[int, list[str]]]


def _header(path: Path, lines: Lines) -> tuple[list[str], int | None, Lines]:
    """Attribute names, the announced number of rows where there is one, and the lines of the rows."""
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path} is empty; expected a header with the names of the attributes")
    expected = int(first[1][0]) if len(first[1]) == 1 and first[1][0].isdecimal() else None
    header = first if expected is None else next(lines, None)
    row = next(lines, None)
    if header is None or row is None:
        raise malformed(path, first[0], "expected a header and rows after this line")
    # A header names the column of files in some copies ("image_id") and not in others.
    number, names = header
    names = names[1:] if len(names) == len(row[1]) else names
    if any(name in _VALUES for name in names):
        raise malformed(path, number, "expected the names of the attributes, found a row of values")
    if not names or len(set(names)) < len(names):
        raise malformed(path, number, "expected different names of attributes")
    return names, expected, _chain(row, lines)


def _chain(first: tuple[int, list[str]], rest: Lines) -> Lines:
    yield first
    yield from rest


def read_partition(path: Path) -> dict[str, int]:
    """Split of each file: 0 train, 1 val, 2 test. With or without a header. Raises ``DataError`` naming file and line."""
    splits: dict[str, int] = {}
    for i, (number, line) in enumerate(numbered_lines(path)):
        fields = _fields(line)
        if len(fields) == 2 and fields[1] in ("0", "1", "2"):
            splits[fields[0]] = int(fields[1])
        elif i > 0 or len(fields) != 2 or fields[1].lstrip("-").isdecimal():  # not a header either
            raise malformed(path, number, f"expected a file name and 0, 1 or 2, found {line[:60]!r}")
    return splits


def text_file(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of the names in one of the folders where copies keep it. Raises ``DataError`` where there is none."""
    for place in TEXT_FOLDERS:
        for name in names:
            if (folder / place / name).is_file():
                return folder / place / name
    raise DataError(f"{folder} holds no {' or '.join(names)}", hint="Name the folder that holds CelebA's text files.")


def image_folder(folder: Path, example: str) -> Path:
    """Where the pictures stand; some copies repeat the folder's name inside itself."""
    candidates = [folder / place for place in IMAGE_FOLDERS]
    candidates = [c for place in candidates for c in (place, place / place.name)]
    held = next((c for c in candidates if (c / example).is_file()), None)
    return held or next((c for c in candidates if c.is_dir()), folder)

"""Split files and tables of classes and labels, read as what strangers wrote: small, UTF-8, and with safe paths."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from runner.data.datasets.content import quoted, some
from runner.data.datasets.known import CLASS_TABLE, LABEL_TABLE, SPLIT_TABLE
from runner.data.datasets.specs import SPLITS, Split
from runner.data.datasets.texts import class_name
from runner.errors import DataError

MAX_TABLE_BYTES = 64 * 2**20
"""The largest of the public split files has 10 MB."""


class ClassRow(NamedTuple):
    """A row of the class table."""

    idx: int
    folder: str
    name: str


class Listed(NamedTuple):
    """An entry of CoOp's split file."""

    split: Split
    path: str
    label: int
    name: str


def read_text(path: Path, *, most: int = MAX_TABLE_BYTES) -> str:
    """A whole text file. Raises ``DataError`` where it is too large or not UTF-8."""
    try:
        if not path.is_file():  # a pipe would hang the run
            raise DataError(f"{path} is no regular file")
        size = path.stat().st_size
        if size > most:
            raise DataError(f"{path} has {size:,} bytes; split files and tables have at most {most:,}")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8", hint="Save the file as UTF-8."
        ) from error
    if "\0" in text:
        raise DataError(f"{path} is no text: it holds NUL characters", hint="Save the file as UTF-8.")
    return text


def path_fault(path: str) -> str | None:
    """Why a path from a split file must not be followed, or None."""
    if not path or len(path) > 1000 or not path.isprintable():
        return "is empty, too long or holds control characters"
    if "\\" in path or PurePosixPath(path).is_absolute() or path[1:2] == ":":
        return "is no path below the pictures, written with /"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "leads elsewhere"
    return None


def check_paths(where: str, paths: list[str]) -> None:
    """Raise ``DataError`` where a path is not simply one below the pictures."""
    faults = [(path, fault) for path in paths if (fault := path_fault(path))]
    if faults:
        path, fault = faults[0]
        raise DataError(
            f"{where}: {len(faults)} of {len(paths)} paths are refused; {quoted(path)} {fault}",
            hint="Paths start at the folder of the pictures, as in a/b.jpg.",
        )


def table_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Line number and the wanted columns of each row. Raises ``DataError`` naming the file and the line."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        absent = [name for name in columns if header.count(name) != 1]
        if absent:
            raise DataError(
                f"{path}: no single column {absent[0]!r}; found {some(header, most=6) or 'nothing'}",
                hint=f"The first line must be {','.join(columns)}.",
            )
        places = [header.index(name) for name in columns]
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{path}, line {reader.line_num}: {len(row)} values, the header has {len(header)}")
            yield reader.line_num, [row[place].strip() for place in places]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}", hint="Save it as comma-separated values."
        ) from error


def whole_number(text: str, column: str, where: str) -> int:
    """A number from 0 on, of at most nine digits. Raises ``DataError`` naming the place."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise DataError(f"{where}: {column} {quoted(text)} is no whole number from 0 on")
    return int(text)


def read_split_table(root: Path) -> list[tuple[Split, str]]:
    """``split,filename``: split and path of each picture, in file order."""
    path = root / SPLIT_TABLE
    found: list[tuple[Split, str]] = []
    for line, (split, name) in table_rows(path, ("split", "filename")):
        if split not in SPLITS:
            raise DataError(f"{path}, line {line}: the split {quoted(split)} is none of {', '.join(SPLITS)}")
        found.append((split, name))
    check_paths(str(path), [name for _, name in found])
    return found


def read_class_table(root: Path) -> list[ClassRow]:
    """``idx,folder_name,class_name``, by number. Raises ``DataError`` where numbers or names stand twice."""
    path = root / CLASS_TABLE
    rows = []
    for line, (idx, folder, name) in table_rows(path, ("idx", "folder_name", "class_name")):
        where = f"{path}, line {line}"
        rows.append(ClassRow(whole_number(idx, "idx", where), folder.strip("/"), class_name(name, where)))
    for what, values in (
        ("idx", [str(row.idx) for row in rows]),
        ("folder_name", [row.folder for row in rows if row.folder]),
        ("class_name", [row.name for row in rows]),
    ):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise DataError(f"{path}: {what} {some(twice)} stands more than once")
    if not rows:
        raise DataError(f"{path} names no class")
    return sorted(rows)


def read_label_table(root: Path) -> dict[str, int]:
    """``filename,class_idx``: number of the class by path."""
    path = root / LABEL_TABLE
    found: dict[str, int] = {}
    for line, (name, idx) in table_rows(path, ("filename", "class_idx")):
        number = whole_number(idx, "class_idx", f"{path}, line {line}")
        if found.setdefault(name, number) != number:
            raise DataError(f"{path}, line {line}: {quoted(name)} has two labels, {found[name]} and {number}")
    return found


def read_coop(path: Path) -> list[Listed]:
    """CoOp's split file: ``{"train": [[path, label, class name], ...], "val": [...], "test": [...]}``."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict) or not {*content} <= {*SPLITS} or not content:
        raise DataError(f"{path}: expected an object with lists named {', '.join(SPLITS)}")
    found = [entry for split in SPLITS for entry in _listed(path, split, content.get(split, []))]
    check_paths(str(path), [entry.path for entry in found])
    return found


def _listed(path: Path, split: Split, entries: object) -> Iterator[Listed]:
    if not isinstance(entries, list):
        raise DataError(f"{path}: {split} is no list")
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, {split}, entry {number}"
        match entry:
            case [str(name), int(label), str(text)] if not isinstance(label, bool) and 0 <= label < 10**9:
                yield Listed(split, name, label, class_name(text, where))
            case _:
                raise DataError(f"{where}: expected [path, whole number, class name], found {quoted(entry)}")


def class_rows(path: Path, listed: list[Listed]) -> list[ClassRow]:
    """The classes that CoOp's split file names, by label. Raises ``DataError`` where label and name do not go together."""
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for entry in listed:
        if names.setdefault(entry.label, entry.name) != entry.name:
            raise DataError(f"{path}: label {entry.label} is called {some([names[entry.label], entry.name])}")
        if labels.setdefault(entry.name, entry.label) != entry.label:
            raise DataError(
                f"{path}: the class {quoted(entry.name)} has two labels, {labels[entry.name]} and {entry.label}"
            )
    return [ClassRow(label, "", names[label]) for label in sorted(names)]

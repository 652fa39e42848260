"""Text tables of numbers separated by blanks, read at once: millions of rows in seconds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from runner.data.datasets.lines import malformed, numbered_lines
from runner.errors import DataError


def read_numbers(path: Path, columns: int, *, fields: int | None = None) -> NDArray[np.float64]:
    """The first ``columns`` numbers of each line, float64 [rows, columns]. Lines have ``fields`` of them, by default as many.

    A line with more fields, or with several blanks between them, is read as well; one with fewer, or with something else
    than a number, is refused with its number. NaN and infinities are refused.
    """
    width = fields or columns
    names = [f"c{i}" for i in range(width)]
    odd: list[tuple[int, list[float]]] = []

    def other(row: Any) -> str:
        numbers = _floats(row.text, columns, width)
        odd.append((row.number or 0, numbers if numbers is not None else [float("nan")] * columns))
        return "skip"

    table = _read(path, names, names[:columns], other)
    rows = (
        np.stack([table[name].to_numpy() for name in names[:columns]], 1) if table.num_rows else np.empty((0, columns))
    )
    wrong = next((number for number, numbers in odd if not np.isfinite(numbers).all()), None)
    if wrong is None and not np.isfinite(rows).all():
        wrong = _line_of(path, columns)
    if wrong is not None:
        raise malformed(path, wrong, f"expected {columns} numbers separated by blanks")
    # where they stood, so that errors count rows as the file does
    return (
        np.insert(rows, [number - 1 - k for k, (number, _) in enumerate(odd)], [row for _, row in odd], 0)
        if odd
        else rows
    )


def _read(path: Path, names: list[str], wanted: list[str], other: Any) -> pa.Table:
    try:
        if not path.is_file():
            raise DataError(f"{path} is missing", hint="Take the dataset as its makers publish it.")
        return pacsv.read_csv(
            path,
            pacsv.ReadOptions(column_names=names, use_threads=False, block_size=4 * 2**20),  # threads lose row numbers
            pacsv.ParseOptions(delimiter=" ", quote_char=False, invalid_row_handler=other),
            pacsv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.float64()), include_columns=wanted),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise DataError(f"{path} is empty") from error
        found = re.search(r"Row #(\d+)", str(error))
        where = f"{path}, line {found[1]}" if found else str(path)
        raise DataError(f"{where}: expected {len(wanted)} numbers separated by blanks") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _floats(text: str, count: int, least: int) -> list[float] | None:
    fields = text.split()
    try:
        return [float(field) for field in fields[:count]] if len(fields) >= least else None
    except ValueError:
        return None


def _line_of(path: Path, columns: int) -> int:
    """The first line whose numbers are not all finite: looked for only when one is known to be there."""
    for number, line in numbered_lines(path):
        numbers = _floats(line, columns, columns)
        if numbers is None or not np.isfinite(numbers).all():
            return number
    return 1


def read_named(path: Path) -> dict[int, str]:
    """Lines ``NUMBER TEXT`` as a mapping, in file order. Raises ``DataError`` naming file and line."""
    found: dict[int, str] = {}
    for number, line in numbered_lines(path):
        first, _, rest = line.partition(" ")
        if not (first.isascii() and first.isdigit() and len(first) <= 9 and rest.strip()):
            raise malformed(path, number, f"expected a number and a text, found {line[:60]!r}")
        if found.setdefault(int(first), rest.strip()) != rest.strip():
            raise malformed(path, number, f"{first} was already named {found[int(first)][:60]!r}")
    if not found:
        raise DataError(f"{path} is empty")
    return found


def whole_ids(values: NDArray[np.float64], path: Path, what: str, known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of ids in the sorted array ``known``. Raises ``DataError`` with the first id that is not there."""
    places = np.searchsorted(known, values)
    wrong = known[np.minimum(places, len(known) - 1)] != values
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{path}: row {row + 1} names the {what} {values[row]:g}, which no list holds")
    return places.astype(np.int64)

"""ImageNet-X (Idrissi et al., 2022, arXiv 2211.01866): 16 factors that people ticked for ImageNet pictures.

One JSON object a line: ``file_name``, ``class`` (0..999), one entry a factor in {0, 1}. The file ``multi`` keeps every ticked
factor, ``top`` one a picture; both have the same shape.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.data.datasets.lines import malformed, numbered_lines
from runner.errors import DataError
from runner.nodes.bias.datasets.base import LabelledImages, locate

FACTORS = (
    "pose", "background", "pattern", "color", "smaller", "shape", "partial_view", "subcategory", "texture", "larger",
    "darker", "object_blocking", "person_blocking", "style", "brighter", "multiple_objects",
)  # fmt: skip
CLASSES = 1000


class FactorTable(NamedTuple):
    """``files`` [n] (names without folders), ``classes`` int [n], ``present`` bool [n, 16] in the order of ``FACTORS``."""

    files: list[str]
    classes: NDArray[np.int64]
    present: NDArray[np.bool_]


def read_factors(path: Path) -> FactorTable:
    """Read a file of factors. Raises ``DataError`` naming file and line."""
    files: dict[str, int] = {}
    classes: list[int] = []
    rows: list[list[bool]] = []
    for number, line in numbered_lines(path):
        entry = _entry(path, number, line)
        name = entry["file_name"].replace("\\", "/").rpartition("/")[2]
        if files.setdefault(name, number) != number:
            raise malformed(path, number, f"{name} was already listed in line {files[name]}")
        classes.append(entry["class"])
        rows.append([bool(entry[factor]) for factor in FACTORS])
    if not rows:
        raise DataError(f"{path} is empty; expected one JSON object a line")
    return FactorTable(list(files), np.array(classes, np.int64), np.array(rows, bool))


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise malformed(path, number, f"not JSON ({error})") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
        raise malformed(path, number, "expected an object with file_name, class and the factors")
    label = entry.get("class")
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < CLASSES:
        raise malformed(path, number, f"class is a number from 0 to {CLASSES - 1}, not {label!r}")
    for factor in FACTORS:
        if factor not in entry:
            raise malformed(path, number, f"the factor {factor} is missing")
        if entry[factor] not in (0, 1):
            raise malformed(path, number, f"{factor} is 0 or 1, not {entry[factor]!r}")
    return entry


def open_imagenet_x(factors: Path, images: Path, *, limit: int | None = None) -> LabelledImages:
    """The annotated pictures below ``images`` (flat, or one folder a class); nothing but the file of factors is read.

    Raises ``DataError`` where the file is malformed or none of its pictures is there.
    """
    table = read_factors(factors)
    found = LabelledImages(
        "imagenet_x", images, "one_of_many", tuple(table.files), FACTORS, table.present, table.classes
    )
    return locate(found, table.files, limit=limit)

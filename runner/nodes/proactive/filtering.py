"""Which samples are kept: those that few models can answer at once. Voting, and the file of kept ids.

Source: ProactiveBench (arXiv 2603.19466): a sample is dropped if at least a quarter of the probe models name the right category on
turn 1. The format of the file is ours.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from runner.errors import DataError
from runner.nodes.proactive.reading import json_lines
from runner.nodes.proactive.records import DATASET_IDS, SCENARIOS

THRESHOLD = 0.25
"""Share of the probe models, as published."""
MAX_BYTES = 64 * 2**20

KeptIds = Mapping[str, frozenset[str]]
"""Ids by scenario; a scenario that is not named is not filtered."""


def hits_needed(n: int, threshold: float = THRESHOLD) -> int:
    """Least number of right probes of ``n`` at which a sample is dropped: ceil(threshold n), at least 1. 22 models at 0.25: 6."""
    return max(1, math.ceil(Fraction(str(threshold)) * n))


def is_kept(hits: int, n: int, threshold: float = THRESHOLD) -> bool:
    """Whether a sample that ``hits`` of ``n`` probes answered at once is kept; without a probe it is."""
    return n == 0 or hits < hits_needed(n, threshold)


def recall(p: float, n: int, threshold: float = THRESHOLD) -> float:
    """P[Bin(n, p) >= ceil(threshold n)]: the chance that a sample is dropped that each of ``n`` probes answers at once with probability
    ``p``. Of 22 probes at 0.4: 92.8 %."""
    needed = hits_needed(n, threshold)
    return math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(needed, n + 1))


# --- the file of kept ids --------------------------------------------------------------------------------------------


def write_kept(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines: ``{"scenario", "id", "kept", "probe_hits", "n_probes"}``, one for each row of ``pb_samples``."""
    with path.open("w", encoding="utf8") as file:
        for row in rows:
            told = {"scenario": row["scenario"], "id": row["sample_id"]}
            told |= {name: row[name] for name in ("kept", "probe_hits", "n_probes")}
            file.write(json.dumps(told, ensure_ascii=False) + "\n")


def read_kept(path: Path) -> KeptIds:
    """Kept ids by scenario, from ``.json`` (``{"ROD": [1, 2], ...}``), ``.jsonl`` or ``.csv`` (``scenario``, ``id``, and ``kept`` where
    files also hold what was dropped). Scenarios by either of their names. Raises ``DataError`` naming the place.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise DataError(f"{path}: kept ids are a file that ends in {', '.join(_READERS)}")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: kept ids have at most {MAX_BYTES} bytes")
    found: dict[str, set[str]] = {}
    for where, scenario, sample, kept in reader(path):
        ids = found.setdefault(_scenario(scenario, where), set())
        if _truth(kept, where):
            ids.add(_id(sample, where))
    if not found:
        raise DataError(f"{path}: no id in it")
    return {name: frozenset(ids) for name, ids in found.items()}


def _of_object(path: Path) -> Iterable[tuple[str, Any, Any, Any]]:
    from runner.data.benchmarks.files import read_json

    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(ids, list) for ids in value.values()):
        raise DataError(f'{path}: expected an object such as {{"ROD": [1, 2], "QD": [7]}}: lists of ids by scenario')
    for scenario, ids in value.items():
        where = f"{path}: {' '.join(scenario.split())[:80]!r}"
        _scenario(scenario, where)
        yield from ((f"{where}[{i}]", scenario, sample, True) for i, sample in enumerate(ids))
        if not ids:  # a scenario of which nothing is kept
            yield where, scenario, "", False


def _of_lines(path: Path) -> Iterable[tuple[str, Any, Any, Any]]:
    for number, value in json_lines(path):
        yield f"{path}:{number}", value.get("scenario"), value.get("id"), value.get("kept", True)


def _of_table(path: Path) -> Iterable[tuple[str, Any, Any, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"scenario", "id"} <= {*(reader.fieldnames or ())}:
                raise DataError(f"{path}:1: expected the columns scenario, id and, where wanted, kept")
            for row in reader:
                yield f"{path}:{reader.line_num}", row["scenario"], row["id"], row.get("kept", True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV in UTF-8: {str(error)[:200]}") from error


_READERS = {".json": _of_object, ".jsonl": _of_lines, ".csv": _of_table}
_NAMES = {**{name: name for name in SCENARIOS}, **{published: name for name, published in DATASET_IDS.items()}}


def _scenario(value: Any, where: str) -> str:
    name = _NAMES.get(value) if isinstance(value, str) else None
    if name is None:
        raise DataError(f"{where}: no scenario {str(value)[:80]!r}", hint=f"One of {', '.join(_NAMES)}.")
    return name


def _id(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise DataError(f"{where}: expected an id, a number or a text, found {str(value)[:80]!r}")
    return str(value).strip()


def _truth(value: Any, where: str) -> bool:
    word = str(value).strip().lower()
    if word not in ("true", "false", "1", "0"):
        raise DataError(f"{where}: `kept` is true or false, not {str(value)[:80]!r}")
    return word in ("true", "1")

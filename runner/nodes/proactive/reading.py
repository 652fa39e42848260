"""The published `test/` folder: a file of samples for each scenario, and the frames they name. Nothing outside the folder is read.

Source: dataset card of ProactiveBench (arXiv 2603.19466); seven ``<dataset id>_preprocessed.jsonl``, frames below the same folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.errors import DataError
from runner.nodes.proactive.dynamics import CORRUPT
from runner.nodes.proactive.records import DATASET_IDS, SCENARIOS, Record, frame_uri, frame_uris, parse_record

ENDING = "_preprocessed.jsonl"
MAX_LINE = 2**20
"""Bytes of one sample: published ones have about 1,000."""
MAX_FRAMES = 10_000
SHOWN = 5

LICENCES = {
    "ROD": "none stated: not to be passed on", "VSOD": "MIT", "MVP-N": "MIT", "IN-C": "Apache-2.0", "QD": "CC-BY-4.0",
    "CIT": "MIT", "COCO": "CC-BY-4.0",
}  # fmt: skip
"""Of each scenario's data, as the paper states them."""


class Read(NamedTuple):
    """Samples of a scenario as found; ``weak``: samples of VSOD left out because their occlusion hides little, as published."""

    records: list[Record]
    weak: int


def files_of(root: Path, scenarios: Sequence[str] | None) -> dict[str, Path]:
    """The file of samples by scenario; without ``scenarios`` those that are there. Raises ``DataError`` naming what is missing."""
    paths = {
        name: root / f"{DATASET_IDS[name]}{ENDING}" for name in SCENARIOS if scenarios is None or name in scenarios
    }
    found = {name: path for name, path in paths.items() if path.is_file()}
    missing = [path.name for name, path in paths.items() if name not in found]
    if not found or (scenarios is not None and missing):
        raise DataError(
            f"{root} has no {' and no '.join(missing)}",
            hint="Name the `test/` folder of the published release, its archives unpacked in place, or other `scenarios:`.",
        )
    for path in found.values():
        _check_inside(Path(os.path.realpath(root)), path)
    return found


def read_scenario(scenario: str, path: Path) -> Read:
    """All samples of a file, checked. Raises ``DataError`` naming file, line and field of the first that is wrong."""
    records: list[Record] = []
    lines: dict[str, int] = {}
    weak = 0
    for number, data in json_lines(path):
        where = f"{path}:{number}"
        record = parse_record(scenario, data, where)
        _check_sizes(record, where)
        first = lines.setdefault(record.sample_id, number)
        if first != number:
            raise DataError(
                f"{where}: field 'id': {record.sample_id!r} stands in line {first} too",
                hint="Every sample of a file needs an id of its own.",
            )
        if record.strong_occlusions is False:
            weak += 1
        else:
            records.append(record)
    if not lines:
        raise DataError(f"{path}: there is no sample in it", hint="Copy the file again, or take it out of the folder.")
    return Read(records, weak)


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects, one a line, with the number of the line; blank lines are passed over. Raises ``DataError`` naming the line."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                where = f"{path}:{number}"
                if len(line) > MAX_LINE:
                    raise DataError(f"{where}: the line is longer than {MAX_LINE} bytes: no sample is")
                if line.strip():
                    yield number, _object(line, where)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start + 1} of the line is no UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: broken JSON at column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no JSON that can be read: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object of fields, found {type(value).__name__}")
    return value


def _check_sizes(record: Record, where: str) -> None:
    """Numbers that decide how much is looked at or played are bounded before anything is."""
    for field in ("num_images", "max_steps", "granularity"):
        value = getattr(record, field)
        if value is not None and value > MAX_FRAMES:
            raise DataError(f"{where}: field {field!r}: expected at most {MAX_FRAMES}, found {value}")


def needed_uris(record: Record) -> tuple[str, ...]:
    """Frames that an episode or the reference may show: all of them, but of ChangeIt only those that its steps reach.

    The one frame known to be damaged is never shown, so it need not be there.
    """
    if record.step_size is None:
        return tuple(uri for uri in frame_uris(record) if not CORRUPT.search(uri))
    reached = {
        *range(record.first_image % record.step_size, record.num_images, record.step_size),
        record.reference_image,
    }
    return tuple(frame_uri(record, number) for number in sorted(reached))


def check_frames(root: Path, records: Iterable[Record]) -> int:
    """See that every frame is a file below the root, by listing each folder once; how many there are.

    Raises ``DataError`` with the number of missing ones and the first five, or for a path that leads out of the root.
    """
    folders = _Folders(root)
    missing, count = [], 0
    for record in records:
        for uri in needed_uris(record):
            count += 1
            if not folders.holds(uri):
                missing.append(f"{uri} ({record.scenario}/{record.sample_id})")
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise DataError(
            f"{root}: {len(missing)} of {count} frames are missing: {', '.join(missing[:SHOWN])}{more}",
            hint="Unpack every archive of the release in place, name fewer `scenarios:`, or write `check_files: false`.",
        )
    return count


class _Folders:
    """Names of files below a root, by folder; each folder is listed when it is first asked about."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.realpath(root))
        self._listed: dict[str, frozenset[str]] = {}

    def holds(self, uri: str) -> bool:
        folder, _, name = uri.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = frozenset(self._names(folder))
        return name in self._listed[folder]

    def _names(self, folder: str) -> Iterator[str]:
        path = self._root / folder
        _check_inside(self._root, path)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        _check_inside(self._root, Path(entry.path))
                    if entry.is_file():
                        yield entry.name
        except (OSError, ValueError):
            return


def _check_inside(root: Path, path: Path) -> None:
    if not Path(os.path.realpath(path)).is_relative_to(root):
        raise DataError(f"{path} leads out of {root}", hint="Frames and samples are read below the folder only.")

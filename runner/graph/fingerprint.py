"""What a path contains, as one hash: of a file, of a folder, or of the files that a pattern matches."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runner.errors import DataError
from runner.graph.canonical import digest
from runner.graph.items import SqliteItems, spelled
from runner.references import ResolvedPath

HASHED_BYTES = 32 << 30
"""Folders up to this size are keyed by what their files hold, larger ones by names, sizes and times of change."""


def fingerprint(reference: ResolvedPath, items: SqliteItems) -> str:
    """The hash of what stands at a path now; hashes of files are remembered in ``items``.

    Names inside a folder count, the folder's own name does not: a copy elsewhere is the same content.
    Raises ``DataError`` where nothing is there or it cannot be read.
    """
    path = reference.path
    try:
        if path.is_file():
            return items.file_sha256(path)
        if path.is_dir():
            return _of_files(path, _files_below(path), items)
        matches = sorted(p for p in path.parent.glob(path.name) if p.is_file())
        if not matches:
            raise DataError(f"no such file or folder: {path}", hint="the spec refers to it; put it back or correct it")
        return _of_files(path.parent, matches, items)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _files_below(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        found += [Path(parent, name) for name in names]
    return sorted(p for p in found if p.is_file())


def _of_files(base: Path, files: Iterable[Path], items: SqliteItems) -> str:
    entries = [(path, spelled(path.relative_to(base)), path.stat()) for path in files]
    if sum(status.st_size for _, _, status in entries) > HASHED_BYTES:
        return digest([[name, status.st_size, status.st_mtime_ns] for _, name, status in entries])
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2)) as pool:
        hashes = list(pool.map(lambda entry: items.file_sha256(entry[0]), entries))
    return digest([[name, sha256] for (_, name, _), sha256 in zip(entries, hashes, strict=True)])

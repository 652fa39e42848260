"""Where fetched assets lie, and whether what lies there is still what was fetched.

    <cache>/assets/<name>-<first 12 digits of the hash>/   the files; the folder appears whole or not at all
    <cache>/verdicts/<same>.json                           size, time and inode of every file when its hash was right
    <cache>/locks/<same>                                   flock held while the asset is fetched
    <cache>/partial/<same>/                                a fetch under way; removed by the next one if it died
    <cache>/tools/                                         npm, where the machine has none

``<cache>`` is ``RUNNER_CACHE``, else ``vlm-runner`` in the platform's cache folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from runner.assets.registry import Entry, FileSpec
from runner.errors import AssetError

Status = Literal["present", "missing", "damaged"]
PROJECT = Path(__file__).parents[1]
"""The package ``runner``, below which shipped assets lie."""


def cache_root() -> Path:
    """The cache folder: ``RUNNER_CACHE``, else the platform's cache folder."""
    chosen = os.environ.get("RUNNER_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vlm-runner"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlm-runner"


def slug(entry: Entry) -> str:
    """Folder name of an asset: its name and the start of its hash, so that two versions never mix."""
    return f"{entry.name}-{entry.sha256[:12]}"


def folder_of(entry: Entry) -> Path:
    """The folder in which the asset's files lie (or would lie)."""
    if entry.shipped:
        return PROJECT / entry.shipped
    return cache_root() / "assets" / slug(entry)


def partial_of(entry: Entry) -> Path:
    """Scratch of a fetch; only the holder of the lock may touch it."""
    return cache_root() / "partial" / slug(entry)


def path_of(entry: Entry) -> Path:
    """The main file where the entry names one, the file of a one-file asset, the folder of any other."""
    main = entry.main or (entry.files[0].name if len(entry.files) == 1 else "")
    return folder_of(entry) / main


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problem_with(file: FileSpec, folder: Path) -> str | None:
    """What is wrong with one file by its size and hash; None when nothing is."""
    path = folder / file.name
    if not path.is_file():
        return f"{file.name} is missing"
    size = path.stat().st_size
    if size != file.bytes:
        return f"{file.name} has {size:,} bytes instead of {file.bytes:,}"
    if sha256_of(path) != file.sha256:
        return f"{file.name} does not have the registered SHA-256"
    return None


def status(entry: Entry) -> Status:
    """Whether the asset is there and right; hashes only what changed since the last time."""
    if not folder_of(entry).is_dir():
        return "missing"
    if _verdict_holds(entry):
        return "present"
    return "damaged" if verify(entry) else "present"


def verify(entry: Entry) -> list[str]:
    """Hash every file again; what is wrong, one line a file (empty: all right). The verdict is remembered."""
    problems = [problem for file in entry.files if (problem := problem_with(file, folder_of(entry)))]
    if problems:
        _verdict_path(entry).unlink(missing_ok=True)
    else:
        remember(entry)
    return problems


def remember(entry: Entry) -> None:
    """Write down that every file has the right hash now. A cache that cannot be written is not an error here."""
    try:
        write_atomically(_verdict_path(entry), json.dumps(_stamp(entry)).encode())
    except OSError:
        return


def _verdict_path(entry: Entry) -> Path:
    return cache_root() / "verdicts" / f"{slug(entry)}.json"


def _stamp(entry: Entry) -> dict[str, Any]:
    folder = folder_of(entry)
    stamp = {}
    for file in entry.files:
        info = (folder / file.name).stat()
        stamp[file.name] = [str(folder / file.name), file.sha256, info.st_size, info.st_mtime_ns, info.st_ino]
    return stamp


def _verdict_holds(entry: Entry) -> bool:
    try:
        return bool(json.loads(_verdict_path(entry).read_bytes()) == _stamp(entry))
    except (OSError, ValueError):
        return False


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def publish(built: Path, final: Path) -> None:
    """Put a finished folder under its final name, durably. What was there before (damaged) is removed."""
    import shutil

    for path in (*built.rglob("*"), built):
        _fsync(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    built.replace(final)
    _fsync(final.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(name: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the exclusive lock ``name``; ``waiting`` is called once if another process has it.

    The kernel frees the lock when its holder dies. Raises ``AssetError`` when the cache cannot be written.
    """
    path = cache_root() / "locks" / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        hint = "set RUNNER_CACHE to a folder that can be written"
        raise AssetError(f"the cache {cache_root()} cannot be written: {error.strerror}", hint=hint) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""Files and folders that exist whole or not at all, also after kill -9 and power loss.

Everything is written under another name in the same folder, forced to disk, and renamed. Invariant: a final name exists
only when its bytes are on disk.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_syncers = ThreadPoolExecutor(max_workers=8, thread_name_prefix="fsync")


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other writer uses; it begins with a dot and ends in ``.tmp``."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``; the old file survives every failure."""
    temporary = temporary_name(path)
    try:
        create_durably(temporary, data)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8)."""
    write_bytes(path, text.encode())


def create_durably(path: Path, data: bytes) -> None:
    """Write a new file and force it to disk. Raises ``FileExistsError`` where the name is taken."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Force one file, or the entries of one folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Iterable[Path]) -> None:
    """Force several files and folders to disk; side by side, since each wait is for the device."""
    waiting = list(paths)
    if len(waiting) == 1:
        sync(waiting[0])
    else:
        list(_syncers.map(sync, waiting))


def tree(folder: Path) -> list[Path]:
    """``folder`` and everything below it, links not followed."""
    found = [folder]
    for parent, folders, files in os.walk(folder):
        found += [Path(parent, name) for name in (*folders, *files) if not Path(parent, name).is_symlink()]
    return found


def publish_folder(source: Path, target: Path) -> None:
    """Move a filled folder to its final name: contents to disk, rename, parent to disk.

    A folder that already has the name is moved aside first and removed afterwards.
    """
    sync_all(tree(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    old = temporary_name(target)
    if target.exists():
        target.rename(old)
    source.rename(target)
    sync(target.parent)
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove temporary names that killed writers of ``folder/name`` left. Only while nobody else writes there."""
    for leftover in folder.glob(f".{name}.*.tmp"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)

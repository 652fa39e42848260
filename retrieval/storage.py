"""Files of an index folder: whole or not at all, one writer at a time.

A shard is three data files and one ``shard-KEY.json``, which is written last: where it stands, the others are complete.
``manifest.json`` lists the shards of the finished index; a reader sees the old index or the new one, never a mixture.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from runner.errors import DataError

MANIFEST = "manifest.json"
FAISS = "faiss.index"
FORMAT = 1


def write_whole(path: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name, flush it to disk, then give it its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, lambda file: file.write(json.dumps(value, indent=1, sort_keys=True).encode()))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ``DataError``."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object")
    return value


@contextmanager
def exclusive(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Be the only writer of the folder; ``check`` is asked while waiting and may raise to give up."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check()
                time.sleep(0.1)
        yield


def save_shard(
    folder: Path, key: str, rows: pa.Table, vectors: NDArray[Any], captions: NDArray[Any], meta: dict[str, Any]
) -> None:
    """Store one finished shard; durable when this returns."""
    write_whole(folder / f"rows-{key}.parquet", lambda file: pq.write_table(rows, file))
    write_whole(folder / f"vectors-{key}.npy", lambda file: np.save(file, vectors, allow_pickle=False))
    write_whole(folder / f"captions-{key}.npy", lambda file: np.save(file, captions, allow_pickle=False))
    write_json(folder / f"shard-{key}.json", {"key": key, "rows": len(vectors), "captioned": len(captions), **meta})


def finished_shards(folder: Path) -> dict[str, dict[str, Any]]:
    """Descriptions of all shards that are there, by key."""
    return {path.stem.removeprefix("shard-"): read_json(path) for path in sorted(folder.glob("shard-*.json"))}


def load_vectors(folder: Path, kind: str, key: str, rows: int, dim: int) -> NDArray[np.float16]:
    """Memory-mapped float16 [rows, dim] of a shard (``kind``: vectors or captions). Raises ``DataError``."""
    path = folder / f"{kind}-{key}.npy"
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r" if rows else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read ({error})", hint="Remove the index folder; it is built again."
        ) from error
    if found.shape != (rows, dim) or found.dtype != np.float16:
        raise DataError(f"{path} holds {found.dtype} {found.shape}, expected float16 ({rows}, {dim})")
    return found


def load_rows(folder: Path, key: str) -> pa.Table:
    """Rows of a shard: row (in the shard), source_id, uri, caption, sha256, width, height. Raises ``DataError``."""
    path = folder / f"rows-{key}.parquet"
    try:
        return pq.read_table(path, memory_map=True, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({error})", hint="Remove the index folder; it is built again."
        ) from error


def prune(folder: Path, keep: set[str]) -> None:
    """Remove shards that the index no longer lists: first the description, then what it describes."""
    for key in finished_shards(folder).keys() - keep:
        (folder / f"shard-{key}.json").unlink(missing_ok=True)
    for pattern in ("rows-*.parquet", "vectors-*.npy", "captions-*.npy"):
        for path in folder.glob(pattern):
            if path.stem.partition("-")[2] not in keep:
                path.unlink(missing_ok=True)


def export(folder: Path, target: Path) -> None:
    """Copy a finished index; files are never changed after they were written, so links do where the disk allows them."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            (target / path.name).unlink(missing_ok=True)
            try:
                os.link(path, target / path.name)
            except OSError:
                shutil.copyfile(path, target / path.name)

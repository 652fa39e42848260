"""A merged checkpoint written tensor by tensor: memory for K + 2 tensors, whatever the size of the model.

Shards keep the base's order, names and headers, so that the same merge gives the same bytes; files without a merged tensor are linked
or copied. The folder has its final name only once it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import DataError
from runner.nodes.merging.checkpoints import (
    FLOATING,
    INDEX,
    PICKLED,
    WIDTH,
    Checkpoint,
    Entry,
    Shard,
    bytes_of,
    read_json,
    torch_dtype,
)
from runner.nodes.merging.experts import Expert, Merger

if TYPE_CHECKING:
    from runner.nodes.merging.specs import MergeSpec

NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Written:
    """What a merge has written: tensors merged and taken from the base, seconds, bytes of new files, SHA-256 of the weights."""

    n_merged: int
    n_copied: int
    seconds: float
    bytes_written: int
    sha256: str


def stream_merge(
    base_folder: Path,
    experts: Sequence[Expert],
    weights: Sequence[float],
    spec: MergeSpec,
    out_folder: Path,
    *,
    card: str | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write the merge of ``experts`` with ``weights`` (same order) as a checkpoint in the base's layout.

    ``card``: content of its README.md. ``progress`` is called with the name of every tensor before it is made. Raises ``DataError``
    for a full disk or a folder that is already there, ``ModelRefused`` where nothing would be merged; then nothing is left.
    """
    return write_merged(
        Merger(Checkpoint(base_folder), experts, spec), weights, out_folder, card=card, progress=progress
    )


def write_merged(
    merger: Merger,
    weights: Sequence[float],
    out_folder: Path,
    *,
    card: str | None = None,
    progress: Progress | None = None,
) -> Written:
    """``stream_merge`` for a merge whose experts are open already."""
    start, base, merged = time.perf_counter(), merger.base, set(merger.names)
    with _whole_or_nothing(out_folder) as folder:
        new_shards = [shard for shard in base.shards if _is_new(base, shard, merged, merger.spec)]
        _need_room(new_shards, folder)
        digest, new = hashlib.sha256(), 0
        for shard in base.shards:
            if shard in new_shards:
                size, own = _write_shard(merger, merged, shard, weights, folder, progress)
            else:
                size, own = _take(shard.file, folder), _file_digest(shard.file)
            new += size
            digest.update(own)
        new += _write_small_files(base, folder, merger.spec, card)
    count = len(base.entries)
    return Written(len(merged), count - len(merged), time.perf_counter() - start, new, digest.hexdigest())


def _write_shard(
    merger: Merger, merged: set[str], shard: Shard, weights: Sequence[float], folder: Path, progress: Progress | None
) -> tuple[int, bytes]:
    base = merger.base
    dtypes = {name: _dtype(base.entries[name], merger.spec) for name in shard.names}
    header = _header(base, shard, dtypes)
    digest, size = hashlib.sha256(header), len(header)
    with (folder / shard.file.name).open("wb") as out:
        out.write(header)
        for name in shard.names:
            if progress is not None:
                progress(name)
            tensor = base.tensor(name)
            made = merger.tensor(name, tensor, weights) if name in merged else tensor
            data = bytes_of(made.to(torch_dtype(dtypes[name])))
            out.write(data)
            digest.update(data)
            size += len(data)
    return size, digest.digest()


def _dtype(entry: Entry, spec: MergeSpec) -> str:
    return NAMES.get(spec.dtype, entry.dtype) if entry.dtype in FLOATING else entry.dtype


def _is_new(base: Checkpoint, shard: Shard, merged: set[str], spec: MergeSpec) -> bool:
    return any(name in merged or _dtype(base.entries[name], spec) != base.entries[name].dtype for name in shard.names)


def _header(base: Checkpoint, shard: Shard, dtypes: Mapping[str, str]) -> bytes:
    """The base's own header where no dtype changes; else the same table with other dtypes and places."""
    if all(dtypes[name] == base.entries[name].dtype for name in shard.names):
        return shard.header
    table = json.loads(shard.header[8:])
    rows = {"__metadata__": table["__metadata__"]} if "__metadata__" in table else {}
    place = 0
    for name in shard.names:
        entry = base.entries[name]
        end = place + (entry.end - entry.begin) * WIDTH.get(dtypes[name], 1) // WIDTH.get(entry.dtype, 1)
        rows[name] = {"dtype": dtypes[name], "shape": list(entry.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(rows, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


# --- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def _whole_or_nothing(out_folder: Path) -> Iterator[Path]:
    """A folder beside the final one, renamed when all is written and removed when something fails."""
    if out_folder.exists() and any(out_folder.iterdir()):
        raise DataError(f"{out_folder} is already there and not empty")
    mark = f".{out_folder.name}.partial-"
    for stale in out_folder.parent.glob(f"{mark}*"):
        shutil.rmtree(stale)
    folder = out_folder.with_name(f"{mark}{os.getpid()}")
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.rename(out_folder)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise DataError(f"no room to write the merged model to {out_folder.parent}: {error.strerror}") from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _need_room(shards: Sequence[Shard], folder: Path) -> None:
    needed, free = sum(shard.file.stat().st_size for shard in shards), shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"no room to write the merged model to {folder.parent}: it needs {needed >> 20} MiB, {free >> 20} MiB are free"
        )


def _write_small_files(base: Checkpoint, folder: Path, spec: MergeSpec, card: str | None) -> int:
    """Everything that is not a shard: config, words, processor; pickled weights and hidden files stay behind."""
    weights = {shard.file.name for shard in base.shards}
    left = {path.name for pattern in PICKLED for path in base.folder.glob(pattern)}
    new = 0
    for path in sorted(base.folder.iterdir()):
        if path.name in weights or path.name in left or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        elif not (card is not None and path.name == "README.md"):
            shutil.copyfile(path, folder / path.name)
            new += path.stat().st_size
    if spec.dtype != "base":
        _say_dtype(folder, spec.dtype)
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    return new


def _say_dtype(folder: Path, dtype: str) -> None:
    config = read_json(folder / "config.json")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = dtype
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    index = read_json(folder / INDEX)
    if "total_size" in index.get("metadata", {}):
        index["metadata"]["total_size"] = sum(entry.end - entry.begin for entry in Checkpoint(folder).entries.values())
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _take(file: Path, folder: Path) -> int:
    """Link an untouched shard, or copy it where that cannot be; the bytes that this wrote."""
    try:
        os.link(file.resolve(), folder / file.name)
    except OSError:
        shutil.copyfile(file, folder / file.name)
        return file.stat().st_size
    return 0


def _file_digest(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()

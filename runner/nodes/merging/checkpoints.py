"""Checkpoint folders read by their safetensors headers; weights stay on disk until a tensor is asked for."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ModelRefused

if TYPE_CHECKING:
    from torch import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
MAX_HEADER = 100 << 20
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Entry:
    """Where a tensor stands: its shard, its dtype as safetensors writes it, its shape, and its bytes within the shard."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its header's bytes (length prefix included) and its tensors in the order of their bytes."""

    file: Path
    header: bytes
    names: tuple[str, ...]


class Checkpoint:
    """The weights of a folder (``model.safetensors``, or shards by their index), opened lazily. Raises ``ModelRefused``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self.shards: list[Shard] = []
        for file in shard_files(folder):
            header, entries = read_header(file)
            self.entries |= entries
            self.shards.append(Shard(file, header, tuple(sorted(entries, key=lambda name: entries[name].begin))))
        self._open: dict[Path, Any] = {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``, or nothing."""
        return read_json(self.folder / "config.json")

    def tensor(self, name: str) -> Tensor:
        """The stored tensor, memory-mapped. Raises KeyError."""
        from safetensors import safe_open

        file = self.entries[name].file
        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        tensor: Tensor = self._open[file].get_tensor(name)
        return tensor

    def close(self) -> None:
        """Let go of the mapped files."""
        self._open.clear()


def shard_files(folder: Path) -> list[Path]:
    """The weight files in the order in which they are numbered. Raises ``ModelRefused`` where there are none."""
    index = folder / INDEX
    if index.is_file():
        named = sorted({str(file) for file in read_json(index).get("weight_map", {}).values()})
        files = [folder / name for name in named]
        outside = [name for name, file in zip(named, files, strict=True) if file.parent != folder or not file.is_file()]
        if outside:
            raise ModelRefused(f"{index} names {outside[0]!r}, which is not a file of that folder")
        if files:
            return files
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    raise ModelRefused(*_why_none(folder))


def read_header(file: Path) -> tuple[bytes, dict[str, Entry]]:
    """The bytes of a safetensors header with its length, and its tensors. Raises ``ModelRefused`` where they do not fit the file."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        prefix = opened.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, MAX_HEADER):
            raise ModelRefused(f"{file} is no safetensors file, or was cut short")
        header = opened.read(length)
    try:
        table = json.loads(header)
        entries = {name: _entry(file, 8 + length, row) for name, row in table.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefused(f"{file}: its safetensors header cannot be read ({type(error).__name__})") from error
    if any(entry.end > size for entry in entries.values()):
        raise ModelRefused(f"{file} was cut short: its header names more bytes than it holds")
    return prefix + header, entries


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or nothing where there is no such file. Raises ``ModelRefused`` for anything else."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelRefused(f"{path} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelRefused(f"{path} holds no JSON object")
    return value


def _entry(file: Path, start: int, row: dict[str, Any]) -> Entry:
    begin, end = row["data_offsets"]
    return Entry(file, str(row["dtype"]), tuple(int(n) for n in row["shape"]), start + int(begin), start + int(end))


def _why_none(folder: Path) -> tuple[str]:
    if not folder.is_dir():
        return (f"{folder} is not a folder with a model",)
    if any(next(folder.glob(pattern), None) for pattern in PICKLED):
        return (
            f"{folder} holds pickled weights only, which can run code when read; convert them to safetensors first",
        )
    if next(folder.glob("*.gguf"), None):
        return (f"{folder} holds a GGUF file: quantised weights cannot be averaged; name the original checkpoint",)
    return (f"{folder} holds neither {SINGLE} nor {INDEX}",)

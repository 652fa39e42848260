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
    import torch
    from torch import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
MAX_HEADER = 100 << 20
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of an element."""
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

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``, or nothing."""
        return read_json(self.folder / "config.json")

    def tensor(self, name: str) -> Tensor:
        """The stored tensor in memory of its own. Raises KeyError."""
        return read_tensor(self.entries[name])


def read_tensor(entry: Entry) -> Tensor:
    """One tensor's bytes by a plain read: mapped pages would stay counted as memory of the process until they are evicted."""
    import torch

    raw = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
    with entry.file.open("rb", buffering=0) as opened:
        opened.seek(entry.begin)
        view, done = bytes_of(raw), 0
        while done < len(view):
            count = opened.readinto(view[done:])
            if not count:
                raise ModelRefused(f"{entry.file} ends before its tensors do")
            done += count
    return raw.view(torch_dtype(entry.dtype)).reshape(entry.shape)


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, without a copy where it lies in one piece."""
    import torch

    flat: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def torch_dtype(name: str) -> torch.dtype:
    """The dtype that safetensors calls ``name``. Raises ``ModelRefused``."""
    import torch

    known = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
        "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip
    if name not in known:
        raise ModelRefused(f"tensors of dtype {name} are not read")
    return known[name]


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

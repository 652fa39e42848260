"""Tensors out of a sandbox, one at a time, into a safetensors file: names, kinds and sizes are checked, bytes copied.

Format of the file: ``u64`` length of the header, JSON header with kind, shape and offsets, the bytes in that order.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ModelRefused
from runner.models.sandbox import Sandbox

_NAME = re.compile(r"[\w.\-/:]{1,512}")
_KINDS = {
    "float64": ("F64", 8), "float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2), "int64": ("I64", 8),
    "int32": ("I32", 4), "int16": ("I16", 2), "int8": ("I8", 1), "uint8": ("U8", 1), "bool": ("BOOL", 1),
}  # fmt: skip
_MAX_TENSORS = 100_000


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that a child announced: ``kind`` as safetensors calls it, ``size`` in bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size: int


def announced(sandbox: Sandbox, max_bytes: int) -> list[TensorInfo]:
    """What the child says it holds, if that can be. Raises ``ModelRefused``."""
    rows = sandbox.ask({"op": "names"})[0].get("tensors")
    if not isinstance(rows, list) or not 0 < len(rows) <= _MAX_TENSORS:
        raise ModelRefused("the file holds no tensors")
    infos = [_info(row) for row in rows]
    if len({info.name for info in infos}) != len(infos):
        raise ModelRefused("two tensors have the same name")
    if sum(info.size for info in infos) > max_bytes:
        raise ModelRefused(f"its tensors take more than {max_bytes} bytes, far more than the file")
    return infos


def _info(row: Any) -> TensorInfo:
    match row:
        case [str(name), str(kind), list(shape)] if _NAME.fullmatch(name) and kind in _KINDS:
            if len(shape) <= 16 and all(type(side) is int and 0 <= side < 1 << 40 for side in shape):
                title, width = _KINDS[kind]
                return TensorInfo(name, title, tuple(shape), width * math.prod(shape))
    raise ModelRefused(f"it announces a tensor that cannot be stored: {str(row)[:120]!r}")


def write_tensors(sandbox: Sandbox, infos: list[TensorInfo], path: Path, metadata: dict[str, str]) -> None:
    """Copy the announced tensors to a safetensors file. Raises ``ModelRefused`` where one is not as announced."""
    infos = sorted(infos, key=lambda info: (-_width(info), info.name))  # the format wants aligned offsets
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for info in infos:
        header[info.name] = {"dtype": info.kind, "shape": list(info.shape), "data_offsets": [end, end + info.size]}
        end += info.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for info in infos:
            _, data = sandbox.ask({"op": "tensor", "name": info.name}, max_body=info.size)
            if len(data) != info.size:
                raise ModelRefused(f"tensor {info.name} has {len(data)} bytes, {info.size} were announced")
            file.write(data)


def _width(info: TensorInfo) -> int:
    return next(width for title, width in _KINDS.values() if title == info.kind)

"""Which format a model file has, decided from its bytes. Nothing is loaded and no name or extension is believed.

Only the standard library is used, and of every file only what the decision needs is read.
"""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runner.errors import ModelRefused

MAX_JSON = 16 << 20
MAX_PICKLE = 16 << 20
_MAX_HEADER = 100_000_000
"""Longest header that the safetensors format allows, in bytes."""
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STATE_DICT_GLOBALS = ("collections.OrderedDict", "torch._utils.", "torch.serialization.", "torch.Size", "torch.device")


@dataclass(frozen=True)
class Finding:
    """What a file or folder is: ``format`` is a key of ``formats.FORMATS``; ``detail`` what gave it away."""

    format: str
    detail: str = ""


def sniff(path: Path) -> Finding:
    """Recognise a model file or folder. Raises ``ModelRefused`` where there is nothing readable at ``path``."""
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ModelRefused(f"{path}: no such model file or folder")
    with path.open("rb") as file:
        head = file.read(4096)
        for recognise in (_magic, _zip, _safetensors, _onnx, _pickle, _text):
            file.seek(0)
            finding = recognise(head, file, path.stat().st_size)
            if finding is not None:
                return finding
    return Finding("unknown", f"starts with the bytes {head[:8].hex(' ') or '(empty file)'}")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises ``ModelRefused`` where it is none, or longer than 16 MiB."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError("it is longer than 16 MiB")
        value = json.loads(path.read_text("utf8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{path}: cannot be read as JSON: {error}") from error
    return value


def _folder(path: Path) -> Finding:
    if (path / "runner-model.json").is_file():
        return Finding("runner_model", "runner-model.json")
    if (path / "config.json").is_file():
        config = read_json(path / "config.json")
        if isinstance(config.get("architecture"), str) and "model_type" not in config:
            return Finding("timm", "config.json names an architecture of timm")
        if "model_type" in config or "architectures" in config:
            return Finding("huggingface", "config.json names a model_type")
    if (path / "saved_model.pb").exists():
        return Finding("tensorflow", "saved_model.pb")
    return Finding("unknown", "a folder without a config.json that names an architecture or a model_type")


def _magic(head: bytes, file: BinaryIO, size: int) -> Finding | None:
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return Finding(name, f"starts with {magic!r}")
    if head[4:8] in (b"TFL3", b"ET12"):
        return Finding("tflite" if head[4:8] == b"TFL3" else "executorch", f"identifier {head[4:8].decode()}")
    for offset in (512, 1024, 2048):
        if head[offset : offset + 8] == b"\x89HDF\r\n\x1a\n":
            return Finding("keras_h5", "HDF5 signature behind a user block")
    return Finding("tar", "tar signature") if head[257:262] == b"ustar" else None


_MAGIC = (
    (b"\x89HDF\r\n\x1a\n", "keras_h5"),
    (b"GGUF", "gguf"),
    (b"\x93NUMPY", "numpy"),
    (_TORCH_LEGACY, "state_dict"),
    (b"\x1f\x8b", "compressed"),
    (b"BZh", "compressed"),
    (b"\xfd7zXZ\x00", "compressed"),
    (b"\x28\xb5\x2f\xfd", "compressed"),
    (b"\x04\x22\x4d\x18", "compressed"),
    (b"\x78\x01", "compressed"),
    (b"\x78\x9c", "compressed"),
    (b"\x78\xda", "compressed"),
)


def _zip(head: bytes, file: BinaryIO, size: int) -> Finding | None:
    if not head.startswith(b"PK\x03\x04"):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            return _zip_content(archive)
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError) as error:
        return Finding("zip", f"a damaged zip archive ({error})")


def _zip_content(archive: zipfile.ZipFile) -> Finding:
    names = archive.namelist()
    inner = {name.partition("/")[2] for name in names} | set(names)
    if "archive_format" in inner or "serialized_exported_program.json" in inner or "models/model.json" in inner:
        return Finding("pt2", "zip with archive_format or models/model.json")
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return Finding("torchscript", "zip with constants.pkl and code/")
    if {"config.json", "model.weights.h5"} <= inner:
        return Finding("keras", "zip with config.json and model.weights.h5")
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if pickles:
        with archive.open(pickles[0]) as member:
            return _torch_pickle(member.read(MAX_PICKLE))
    if names and all(name.endswith(".npy") for name in names):
        return Finding("numpy", "zip of .npy arrays")
    return Finding("zip", "a zip archive that is no known model format")


def _torch_pickle(data: bytes) -> Finding:
    foreign = [name for name in pickle_globals(data) if not _belongs_to_state_dict(name)]
    if foreign:
        return Finding("pickled_module", f"it asks for {', '.join(foreign[:3])}")
    return Finding("state_dict", "zip with data.pkl that asks for tensors only")


def _belongs_to_state_dict(name: str) -> bool:
    return name.startswith(_STATE_DICT_GLOBALS) or (
        name.startswith("torch.") and (name.endswith("Storage") or (name.count(".") == 1 and name.rpartition(".")[2].islower()))
    )  # fmt: skip


def pickle_globals(data: bytes) -> list[str]:
    """The importable names a pickle asks for, in order, read without running it; best effort on damaged input."""
    names: dict[str, None] = {}
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name in ("GLOBAL", "INST"):
                names[str(argument).replace(" ", ".", 1)] = None
            elif opcode.name == "STACK_GLOBAL":
                names[".".join(strings[-2:]) or "?"] = None
            elif isinstance(argument, str):
                strings.append(argument)
    except (ValueError, IndexError, OverflowError, MemoryError, UnicodeDecodeError):
        pass  # a damaged pickle: what was seen so far explains enough
    return list(names)


def _safetensors(head: bytes, file: BinaryIO, size: int) -> Finding | None:
    if len(head) < 9 or head[8:9] != b"{":
        return None
    length = int.from_bytes(head[:8], "little")
    if length > _MAX_HEADER or length + 8 > size:
        return Finding("safetensors", f"its header says {length} bytes, the file holds {size}")
    return Finding("safetensors", "length and JSON header")


def _pickle(head: bytes, file: BinaryIO, size: int) -> Finding | None:
    data = file.read(MAX_PICKLE)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        names = pickle_globals(data)
        return Finding("pickle", f"pickle opcodes; it asks for {', '.join(names[:3]) or 'no class'}")
    try:
        last = [opcode.name for opcode, _, _ in pickletools.genops(io.BytesIO(data))][-1]
    except (ValueError, IndexError, OverflowError, MemoryError, UnicodeDecodeError):
        return None
    return Finding("pickle", "pickle opcodes without a header") if last == "STOP" and len(data) > 1 else None


def _text(head: bytes, file: BinaryIO, size: int) -> Finding | None:
    start = head.lstrip()
    if start.startswith(b"{") and b'"modelTopology"' in file.read(MAX_JSON):
        return Finding("tfjs", "JSON with modelTopology")
    if start.startswith((b"<?xml", b"<net")) and b"<net" in head:
        return Finding("openvino", "XML with <net>")
    return None


# Fields of ONNX's ModelProto by number; a file with others, or without ir_version and graph, is none.
_MODEL_PROTO_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}


def _onnx(head: bytes, file: BinaryIO, size: int) -> Finding | None:
    seen = set()
    try:
        for field, kind in _top_level_fields(file, size):
            seen.add(field)
            if field not in _MODEL_PROTO_FIELDS or (field == 7 and kind != 2) or (field == 1 and kind != 0):
                return None
    except ValueError:
        return None
    return Finding("onnx", "ModelProto with ir_version and graph") if {1, 7} <= seen else None


def _top_level_fields(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """(number, wire type) of the fields of a protobuf message; raises ValueError where it is none."""
    skip = {1: 8, 5: 4}
    while file.tell() < size:
        tag = _varint(file)
        kind = tag & 7
        yield tag >> 3, kind
        if kind == 0:
            _varint(file)
        elif kind == 2 or kind in skip:
            file.seek(_varint(file) if kind == 2 else skip[kind], io.SEEK_CUR)
        else:
            raise ValueError("wire type")
    if file.tell() != size:
        raise ValueError("truncated")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("truncated")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("varint")

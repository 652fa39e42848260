"""Tiny wheels, tarballs and registry entries for the tests."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def complete(fields: dict[str, Any]) -> dict[str, Any]:
    return {"role": "text", "what": "A test.", "licence": "MIT", "attribution": "nobody", **fields}


def row(name: str, data: bytes) -> list[Any]:
    return [name, len(data), hashlib.sha256(data).hexdigest()]


def make_wheel(folder: Path, name: str, members: Mapping[str, bytes], version: str = "1.0") -> Path:
    """A wheel that pip accepts."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def one_file(data: bytes, package: str = "carrier", **more: Any) -> dict[str, Any]:
    """An entry with one file from one wheel."""
    source = {
        "kind": "pypi",
        "packages": [{"name": package, "version": "1.0", "members": {"carrier/data.bin": "data.bin"}}],
    }
    return {"files": [row("data.bin", data)], "sources": [source], **more}


def make_tar(path: Path, members: Mapping[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    """A tarball; a ``TarInfo`` stands for a link or another special member."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info

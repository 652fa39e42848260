"""Tar files of strangers: streamed, never unpacked, with every oddity reported.

Members that follow one another and share a key are one sample. The key is the member's path up to the first dot of its
base name, the field is the rest in lower case: ``a/b.seg.png`` has key ``a/b`` and field ``seg.png``.

Python's ``tarfile`` ends quietly where a tar is cut off; here the missing end is looked for and reported. Nor does it
bound what a header may ask for: a compressed tar may unpack without end, a long-name header may claim gigabytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from runner.data.sources.base import MAX_RECORD_BYTES
from runner.errors import DataError

_BLOCK = 512
_PIECE = 2**20
_WINDOW = 32 * 2**20
_LARGEST_READ = MAX_RECORD_BYTES + 2**20
_MAX_RATIO, _FREE_BYTES = 64, 64 * 2**20
"""A compressed tar may unpack to 64 times its size, and to 64 MiB whatever its size: pictures hardly compress."""

_PACKERS: dict[bytes, Callable[[Path], IO[bytes]]] = {
    b"\x1f\x8b": gzip.GzipFile,  # type: ignore[dict-item]
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}

TAR_ERRORS = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, RecursionError)
"""What reading a damaged or hostile tar raises."""


class CompressionBomb(tarfile.ReadError):
    """A compressed tar unpacks to far more than pictures would."""


def reason_of(error: BaseException) -> str:
    """The name under which an error of ``TAR_ERRORS`` is reported."""
    return "compression_bomb" if isinstance(error, CompressionBomb) else "truncated_shard"


@dataclass
class Sample:
    """Members of one key: tar entries by field; ``twice`` holds fields that came more than once."""

    key: str
    fields: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)


def split_name(name: str) -> tuple[str, str]:
    """Key and field of a member's path: cut at the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def group(tar: tarfile.TarFile, problem: Any) -> Iterator[Sample]:
    """Samples of a tar in order; ``problem(reason, where, detail)`` hears of every member left out.

    Where the tar is cut off, the sample at the cut may lack fields, so it is left out and reported too.
    """
    current: Sample | None = None
    try:
        for member in members(tar):
            reason = _refusal(member)
            if reason is not None:
                if reason:
                    problem(reason, member.name, f"-> {member.linkname}" if member.linkname else "")
                continue
            key, name = split_name(member.name)
            if current is None or current.key != key:
                if current is not None:
                    yield current
                current = Sample(key)
            if name in current.fields:
                current.twice.append(name)
            current.fields[name] = member
        _check_end(tar)
    except TAR_ERRORS as error:
        problem(reason_of(error), current.key if current else "", str(error))
        return
    if current is not None:
        yield current


def open_tar(path: Path) -> tarfile.TarFile:
    """Open a tar, plain or compressed, for reading in order; use it in ``with``. Raises ``DataError``."""
    file: IO[bytes] | None = None
    try:
        file = _bounded(path)
        return _Tar.open(fileobj=file, mode="r:", errorlevel=2)
    except TAR_ERRORS as error:
        if file is not None:
            file.close()
        raise DataError(f"{path} is not a readable tar file ({str(error).partition(chr(10))[0]})") from error


class _Tar(tarfile.TarFile):
    """Closes the file that it was given."""

    def close(self) -> None:
        super().close()
        if self.fileobj is not None:
            self.fileobj.close()


def _bounded(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(6)
    for magic, opener in _PACKERS.items():
        if start.startswith(magic):
            return _Unpacked(opener(path), path.stat().st_size * _MAX_RATIO + _FREE_BYTES)  # type: ignore[return-value]
    return _Plain(io.FileIO(path))


def _check_read(size: int | None) -> int:
    if size is None or not 0 <= size <= _LARGEST_READ:
        raise tarfile.ReadError(f"a header asks for {size} bytes at once")
    return size


class _Plain(io.BufferedReader):
    """A file that refuses to be read in one enormous piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(_check_read(size))


class _Unpacked:
    """A compressed file as tarfile needs it: bounded in all, with a window of what was unpacked last.

    A sample is looked at again after the header that follows it; without the window that would unpack from the start.
    """

    def __init__(self, packed: IO[bytes], limit: int) -> None:
        self._packed, self._limit = packed, limit
        self._window, self._start, self._at = bytearray(), 0, 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or offset < 0:
            raise tarfile.ReadError(f"a header points to byte {offset}")
        self._at = offset
        return offset

    def read(self, size: int | None = -1) -> bytes:
        end = self._at + _check_read(size)
        if self._at < self._start:
            self._packed.seek(0)
            self._window.clear()
            self._start = 0
        self._unpack(end)
        first = self._at - self._start
        data = bytes(self._window[first : end - self._start])
        self._at += len(data)
        return data

    def _unpack(self, end: int) -> None:
        while self._start + len(self._window) < end:
            if self._start + len(self._window) > self._limit:
                raise CompressionBomb(f"unpacks to more than {self._limit} bytes")
            piece = self._packed.read1(_PIECE)  # type: ignore[attr-defined]  # what there is before a cut is kept
            if not piece:
                return
            self._window += piece
            spare = min(len(self._window) - _WINDOW, self._at - self._start)
            if spare > _WINDOW:
                del self._window[:spare]
                self._start += spare

    def close(self) -> None:
        self._packed.close()


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members as they stand; the list that tarfile keeps is emptied, so memory stays flat.

    A size below zero would lead back to where the reader was, for ever.
    """
    while True:
        member = tar.next()
        if member is None:
            return
        if member.size < 0 or tar.offset <= member.offset:
            raise tarfile.ReadError(f"{member.name}: a header with a size of {member.size} bytes")
        tar.members = []  # type: ignore[attr-defined]
        yield member


def _refusal(member: tarfile.TarInfo) -> str | None:
    """Why a member is no part of any sample: a reason, ``""`` for what is left out quietly, None if it is usable."""
    base = member.name.rpartition("/")[2]
    if member.isdir() or (base.startswith("__") and base.partition(".")[0].endswith("__")):
        return ""
    if member.issym() or member.islnk():
        return "link_member"
    if not member.isreg() or member.issparse():
        return "special_member"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "unsafe_name"
    if "." not in base or base.startswith("."):
        return "no_field"
    return "large_member" if member.size > MAX_RECORD_BYTES else None


def content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """All bytes of a member. Raises an error of ``TAR_ERRORS`` where they are not all there."""
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name}: {len(data)} of {member.size} bytes")
    return data


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise where the block that ends every tar is missing: the file was cut off between two members."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError(f"no end mark at byte {tar.offset}: the file was cut off or damaged")

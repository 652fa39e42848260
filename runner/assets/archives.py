"""Taking chosen members out of wheels, npm tarballs and Debian packages, as hostile input.

Only asked-for members are written, under names this project chose or checked. Links are followed only to other
asked-for members. Nothing may grow beyond the number of bytes that the registry allows.
"""

from __future__ import annotations

import fnmatch
import hashlib
import posixpath
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from runner.assets.registry import FileSpec
from runner.errors import AssetError

CHUNK = 1 << 20
MOST_FILES = 20_000


@dataclass(frozen=True)
class Member:
    """One member of an archive. ``link``: what a symbolic or hard link points to, as a path in the archive."""

    name: str
    size: int
    regular: bool
    link: str | None
    open: Callable[[], IO[bytes] | None]


@dataclass
class Staging:
    """A folder being filled; sizes and hashes are taken while writing. ``room``: bytes that may still be written."""

    folder: Path
    room: int
    _digests: dict[str, Any] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)

    def append(self, name: str, stream: IO[bytes], declared: int, *, where: str) -> None:
        """Append a stream to the file ``name``. Raises ``AssetError`` past the declared size or the room left."""
        if declared > self.room:
            raise AssetError(f"{where} declares {declared:,} bytes, {self.room:,} at most were expected")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = self._digests.setdefault(name, hashlib.sha256())
        with path.open("ab") as file:
            written = _copy(stream, file, digest, declared, where)
            file.flush()
        self.room -= written
        self._sizes[name] = self._sizes.get(name, 0) + written

    def check(self, file: FileSpec) -> None:
        """Compare what was written with what the registry says."""
        size = self._sizes.get(file.name)
        if size is None:
            raise AssetError(f"{file.name} is not in the package")
        if size != file.bytes:
            raise AssetError(f"{file.name} has {size:,} bytes, {file.bytes:,} were expected (a part is cut or missing)")
        if self._digests[file.name].hexdigest() != file.sha256:
            raise AssetError(f"{file.name} does not have the registered SHA-256 (changed, or parts in another order)")

    def has(self, name: str) -> bool:
        """Whether the file was written."""
        return name in self._sizes


def _copy(stream: IO[bytes], file: IO[bytes], digest: Any, declared: int, where: str) -> int:
    written = 0
    while chunk := stream.read(CHUNK):
        written += len(chunk)
        if written > declared:
            raise AssetError(f"{where} is larger than the {declared:,} bytes it declares")
        digest.update(chunk)
        file.write(chunk)
    return written


def extract(archive: Path, members: Mapping[str, str], staging: Staging) -> None:
    """Write the asked-for members of one archive. Raises ``AssetError`` for what is missing, damaged or hostile.

    ``members``: see ``runner.assets.registry.Package``. Every exact path and every pattern must match something.
    """
    links: dict[str, tuple[str, str]] = {}
    written: dict[str, str] = {}
    unmatched = set(members)
    try:
        with open_archive(archive) as items:
            for item in items:
                found = match(item.name, members)
                if found is None:
                    continue
                unmatched.discard(found[0])
                _take(archive, item, found, staging, links, written)
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise AssetError(f"{archive.name} is damaged: {error}") from error
    if unmatched:
        raise AssetError(f"{archive.name} does not contain {', '.join(sorted(unmatched))}")
    _follow(archive, links, written, staging)


def _take(
    archive: Path,
    item: Member,
    found: tuple[str, str],
    staging: Staging,
    links: dict[str, tuple[str, str]],
    written: dict[str, str],
) -> None:
    pattern, target = found
    where = f"{archive.name}: {item.name}"
    if item.link is not None and "*" in pattern:
        links[item.name] = (target, item.link)
        return
    if not item.regular:
        raise AssetError(f"{where} is not a plain file")
    if item.name in written:
        raise AssetError(f"{where} is there twice")
    if len(written) >= MOST_FILES:
        raise AssetError(f"{archive.name} has more than {MOST_FILES:,} matching files")
    stream = item.open()
    if stream is None:
        raise AssetError(f"{where} cannot be read")
    with stream:
        staging.append(target, stream, item.size, where=where)
    written[item.name] = target


def match(name: str, members: Mapping[str, str]) -> tuple[str, str] | None:
    """The pattern that takes ``name`` and the file name to write, or None. Raises on names that leave the folder."""
    if name in members:
        return name, members[name]
    for pattern, target in members.items():
        if "*" in pattern and fnmatch.fnmatchcase(name, pattern):
            return pattern, target + _safe(name[pattern.index("*") :], name)
    return None


def _safe(relative: str, name: str) -> str:
    parts = relative.split("/")
    hostile = any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
    if hostile or "\\" in relative or "\0" in relative or ":" in parts[0]:
        raise AssetError(f"refused: an archive member is called {name!r}")
    return relative


def _follow(archive: Path, links: dict[str, tuple[str, str]], written: dict[str, str], staging: Staging) -> None:
    """Copy what asked-for links point to; a link out of the asked-for members is refused."""
    for name, (target, first) in sorted(links.items()):
        end = first
        for _ in links:
            end = links[end][1] if end in links else end
        if end not in written:
            raise AssetError(f"{archive.name}: {name} is a link to {first}, which is not among the files taken")
        source = staging.folder / written[end]
        with source.open("rb") as stream:
            staging.append(target, stream, source.stat().st_size, where=f"{archive.name}: {name}")


@contextmanager
def open_archive(archive: Path) -> Iterator[Iterator[Member]]:
    """The members of a ``.whl``/``.zip``, ``.tgz`` or ``.deb``, one after the other (read each before going on)."""
    with ExitStack() as stack:
        if archive.suffix in (".whl", ".zip"):
            yield _zip_members(stack.enter_context(zipfile.ZipFile(archive)))
        elif archive.suffix == ".deb":
            stream = stack.enter_context(_deb_stream(archive))
            yield _tar_members(stack.enter_context(tarfile.open(fileobj=stream, mode="r|")))
        else:
            yield _tar_members(stack.enter_context(tarfile.open(archive, mode="r:gz")))


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        regular = not info.is_dir() and kind in (0, stat.S_IFREG)
        yield Member(info.filename, info.file_size, regular, None, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive:
        name = info.name.removeprefix("./")
        link = None
        if info.issym():
            link = posixpath.normpath(posixpath.join(posixpath.dirname(name), info.linkname))
        elif info.islnk():
            link = posixpath.normpath(info.linkname)
        yield Member(name, info.size, info.isfile(), link, lambda info=info: archive.extractfile(info))  # type: ignore[misc]


@contextmanager
def _deb_stream(archive: Path) -> Iterator[IO[bytes]]:
    """The data part of a Debian package as a tar stream, by ``dpkg-deb`` (which knows every compression)."""
    tool = shutil.which("dpkg-deb")
    if tool is None:
        raise AssetError("dpkg-deb is missing", hint="Debian packages can be unpacked only where dpkg is installed")
    command = [tool, "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            yield process.stdout
            while process.stdout.read(CHUNK):
                pass
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise ValueError(f"dpkg-deb ended with {process.returncode}")

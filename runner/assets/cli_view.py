"""What ``runner assets list | fetch | verify`` show: rows as plain dicts, so that the command line only prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runner import assets
from runner.assets import registry
from runner.assets.cache import cache_root
from runner.assets.fetch import size_text
from runner.assets.registry import Entry, entry
from runner.errors import AssetError

AT_ONCE = 2
Say = Callable[[str], None]


def list_rows() -> list[dict[str, str]]:
    """One row an entry: name, role, status, download, disk, licence, what, source."""
    return [_row(item) for item in registry.entries().values()]


def _row(item: Entry) -> dict[str, str]:
    if item.choices:
        what, source = f"{item.what} ({', then '.join(item.choices)})", ""
    else:
        what, source = item.what, ", ".join(source.label for source in item.sources)
        source = assets.SHIPPED if item.shipped else source
    return {
        "name": item.name,
        "role": item.role,
        "status": assets.status(item.name),
        "download": size_text(item.download) if item.download else "",
        "disk": size_text(item.bytes) if item.bytes else "",
        "licence": item.licence,
        "what": what,
        "source": source,
    }


def fetch_many(names: Iterable[str], say: Say) -> list[dict[str, str]]:
    """Fetch entries or whole roles (``images``), two at a time: while one downloads, another unpacks.

    One row each, in the order asked for: name, wanted, path, sha256, licence, error. Goes on after a failure; the
    caller sees it in ``error``. ``say`` is called from several threads.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda name: _fetched(name, say), _expand(names)))


def _expand(names: Iterable[str]) -> list[str]:
    wanted: dict[str, None] = {}
    for name in names:
        members = [
            e.name
            for e in registry.entries().values()
            if e.role == name and not e.choices and name not in registry.entries()
        ]
        wanted.update(dict.fromkeys(members or [entry(name).name]))
    return list(wanted)


def _fetched(name: str, say: Say) -> dict[str, str]:
    try:
        asset = assets.ensure(name, say)
    except AssetError as error:
        return {"name": name, "wanted": name, "path": "", "sha256": "", "licence": "", "error": str(error)}
    return {
        "name": asset.name,
        "wanted": name,
        "path": str(asset.path),
        "sha256": asset.sha256,
        "licence": asset.licence,
        "error": "",
    }


def verify_many(names: Iterable[str]) -> list[dict[str, Any]]:
    """Hash again what is in the cache (all of it when no name is given): name, status, problems.

    Without names, what was never fetched is left out.
    """
    asked = _expand(names)
    here = [e.name for e in registry.entries().values() if not e.choices and assets.status(e.name) != "missing"]
    return [_verified(name) for name in asked or here]


def _verified(name: str) -> dict[str, Any]:
    problems = assets.verify(name)
    return {"name": name, "status": assets.status(name), "problems": problems}


def cache_line() -> str:
    """Where the cache is."""
    return f"cache: {cache_root()}   (set RUNNER_CACHE to move it)"

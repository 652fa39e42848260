"""The folder that holds a results file and everything it can be made again from (layout: docs/architecture.md)."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import time
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.errors import DataError, UsageError
from runner.graph import atomic
from runner.graph.items import SqliteItems
from runner.graph.locks import FileLock, is_held

_RECORD = "run.json"
_STILLBORN_SECONDS = 3600


class Workspace:
    """Names of files and folders below ``root``, the item cache, and the runs."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()
        self.artifacts = self.root / "artifacts"
        self.partial = self.root / "partial"
        self.shared = self.root / "shared"
        self.cache = self.root / "cache"
        self.runs_folder = self.root / "runs"
        self.reports = self.root / "reports"

    def create(self) -> Workspace:
        """Make the folders. Raises ``UsageError`` where they cannot be."""
        try:
            for folder in (self.artifacts, self.partial, self.shared, self.cache, self.runs_folder, self.reports):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot make the workspace {self.root}: {error.strerror}",
                hint="results: names a file in a folder that can be written",
            ) from error
        return self

    @cached_property
    def items(self) -> SqliteItems:
        """The item cache and file-hash memory; opened on first use."""
        return SqliteItems(self.cache / "items.sqlite")

    def close(self) -> None:
        """Close what was opened."""
        if "items" in self.__dict__:
            self.items.close()
            del self.__dict__["items"]

    def scratch(self, key: str) -> Path:
        """Scratch of the unfinished step ``key``; outlives a killed attempt."""
        return self.partial / key / "scratch"

    def staging(self, key: str) -> Path:
        """The artifact ``key`` in the making."""
        return self.partial / key / "staging"

    def step_lock(self, key: str) -> FileLock:
        """Held while the step ``key`` runs, so that two runs in one workspace do not do it twice."""
        return FileLock(self.partial / f"{key}.lock", f"step {key[:12]}")

    def run(self, run_id: str) -> RunFolder:
        """The folder of a run. Raises ``UsageError`` where there is none."""
        folder = RunFolder(self.runs_folder / run_id)
        if re.fullmatch(r"[\w.-]+", run_id) is None or not folder.record_path.exists():
            known = [r.run_id for r in self.runs()[:3]]
            raise UsageError(f"no run {run_id!r} in {self.root}", hint=f"the newest are: {', '.join(known) or 'none'}")
        return folder

    def runs(self) -> list[RunFolder]:
        """All runs, newest first."""
        if not self.runs_folder.is_dir():
            return []
        folders = sorted(self.runs_folder.iterdir(), key=lambda p: p.name, reverse=True)
        return [RunFolder(p) for p in folders if (p / _RECORD).exists()]

    def new_run(self, name: str) -> RunFolder:
        """Make the folder of a new run: UTC time, name, four random digits."""
        self._remove_stillborn()
        stem = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "run"
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{stem}-{secrets.token_hex(2)}"
        folder = self.runs_folder / run_id
        folder.mkdir(parents=True)
        return RunFolder(folder)

    def _remove_stillborn(self) -> None:
        """Folders of runs that were killed before they had a ``run.json``; young ones may still be about to get it."""
        for path in self.runs_folder.iterdir():
            with contextlib.suppress(OSError):
                old = time.time() - path.stat().st_mtime > _STILLBORN_SECONDS
                if old and not (path / _RECORD).exists() and not RunFolder(path).is_busy():
                    shutil.rmtree(path)


class RunFolder:
    """The files of one run. Whoever writes here holds ``lock``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = path.name
        self.record_path = path / _RECORD
        self.plan_path = path / "plan.json"
        self.spec_path = path / "spec.yaml"
        self.calls_path = path / "llm_calls.jsonl"
        self.messages_path = path / "messages.jsonl"
        self.checkpoints_path = path / "checkpoints.sqlite"
        self.errors_path = path / "errors.log"
        self.lock = FileLock(path / "lock", f"run {path.name}")

    def is_busy(self) -> bool:
        """Whether a process is working on this run now."""
        return is_held(self.lock.path)

    def record(self) -> dict[str, Any]:
        """``run.json``. Raises ``DataError`` where it is damaged."""
        return _read_json(self.record_path)

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace ``run.json``."""
        atomic.write_text(self.record_path, json.dumps(record, indent=1, ensure_ascii=False))

    def plan(self) -> dict[str, Any]:
        """``plan.json``. Raises ``DataError`` where it is damaged."""
        return _read_json(self.plan_path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", hint="remove that run's folder, or start a new run"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} does not hold a run", hint="remove that run's folder")
    return value

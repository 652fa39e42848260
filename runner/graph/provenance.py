"""Where and with what a run was made: package versions, the spec's git commit, the device. Imports no torch."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "vlm-runner",
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "timm",
    "safetensors",
    "onnxruntime",
    "xllamacpp",
    "openai",
    "langgraph",
    "faiss-cpu",
    "duckdb",
    "pyarrow",
    "numpy",
    "scipy",
    "pillow",
)
_GIT_SECONDS = 5


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what can change a result; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> str | None:
    """The commit checked out in ``folder``, with '+' where tracked files differ; None without git or outside of it."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit}+" if changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    # `-c core.fsmonitor=` so that a hostile checkout cannot name a program to be run.
    command = ["git", "-c", "core.fsmonitor=", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def device() -> str:
    """``cuda``, ``mps`` or ``cpu``: torch's own answer where it is loaded, otherwise judged by driver and build."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "mps"
    return "cuda" if _has_gpu() and _torch_knows_cuda() else "cpu"


def _has_gpu() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and Path("/dev/nvidiactl").exists() and any(Path("/dev").glob("nvidia[0-9]*"))


def _torch_knows_cuda() -> bool:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    return (Path(spec.origin).parent / "lib" / "libtorch_cuda.so").exists()

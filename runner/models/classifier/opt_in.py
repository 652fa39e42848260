"""``trust: code``: one file, pinned to its SHA-256, may run its code, and only in a confined child process."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import ModelRefused
from runner.models.classifier.formats import FORMATS
from runner.models.classifier.sniff import Finding
from runner.models.classifier.weights import sha256_of

if TYPE_CHECKING:
    from runner.models.base import Classifier
    from runner.models.sandbox import Sandbox

CODE_FORMATS = tuple(name for name, entry in FORMATS.items() if entry.opt_in)


@dataclass(frozen=True)
class Trust:
    """What the user said about one file."""

    level: Literal["none", "code"] = "none"
    sha256: str | None = None


def pinned_file(path: Path) -> Path:
    """The file that a SHA-256 speaks of: the path itself, or the weights in a folder."""
    if not path.is_dir():
        return path
    for name in ("pytorch_model.bin", "model.safetensors"):
        if (path / name).is_file() and not (name == "pytorch_model.bin" and (path / "model.safetensors").is_file()):
            return path / name
    raise ModelRefused(f"{path}: `sha256` needs one file of weights, and this folder has none, or shards")


def check_trust(path: Path, found: Finding, trust: Trust) -> bool:
    """Whether the file at ``path`` is opted in. Raises ``ModelRefused`` where it must be, or its hash is not the pinned."""
    entry = FORMATS[found.format]
    if trust.sha256 is not None:
        actual = sha256_of([pinned_file(path)])
        if actual != trust.sha256:
            raise ModelRefused(
                f"{path}: refused: its SHA-256 is {actual}, but {trust.sha256} is pinned",
                hint="It is not the file that was meant. Pin the new hash only if you know why it changed.",
            )
    if trust.level == "code" and trust.sha256 is not None:
        return True
    if entry.opt_in and (trust.level == "code" or path.is_file()):
        raise ModelRefused(
            f"{path}: refused: this is {entry.title} ({found.detail}), and {entry.refusal}. Its SHA-256 is {sha256_of([path])}.",
            hint=f"{entry.advice} To run its code in a confined process all the same, say so for this one file: `trust: code` and `sha256:` with that hash.",
        )
    return False


def load_trusted(path: Path, format: str, sha256: str, *, architecture: str | None, device: str, threads: int | None, common: dict[str, Any]) -> Classifier:  # fmt: skip
    """A classifier from an opted-in file: its network stays in the child; bare weights come over and are loaded here."""
    from runner.models.classifier.sandboxed import load_opted_in, start_torch
    from runner.models.classifier.torch_model import load_checkpoint

    sandbox, is_network, _ = start_torch(path, format, sha256, threads)
    try:
        if is_network and architecture is None:
            return load_opted_in(sandbox, path, format, sha256, **common)
        with tempfile.TemporaryDirectory() as folder:
            weights = save_weights(sandbox, path, Path(folder, path.name))
            sandbox.close()
            return load_checkpoint(weights, "safetensors", architecture=architecture, device=device, **common)
    except BaseException:
        sandbox.close()
        raise


def load_trusted_folder(path: Path, sha256: str, *, device: str, threads: int | None, common: dict[str, Any]) -> Classifier:  # fmt: skip
    """A Hugging Face folder that has ``pytorch_model.bin`` only: its tensors are taken out in a child."""
    import shutil

    from runner.models.classifier.sandboxed import start_torch
    from runner.models.classifier.torch_model import load_huggingface

    pickle = path / "pytorch_model.bin"
    sandbox, _, _ = start_torch(pickle, "pickled_module", sha256, threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            save_weights(sandbox, pickle, Path(folder, "model.safetensors"))
        finally:
            sandbox.close()
        for name in ("config.json", "preprocessor_config.json"):
            if (path / name).is_file():
                shutil.copyfile(path / name, Path(folder, name))
        return load_huggingface(Path(folder), device=device, **common)


def save_weights(sandbox: Sandbox, source: Path, target: Path) -> Path:
    """Write the child's tensors to ``target``. Raises ``ModelRefused`` naming ``source``."""
    from runner.models.classifier.stream import announced, write_tensors

    try:
        infos = announced(sandbox, 4 * source.stat().st_size + (64 << 20))
        write_tensors(sandbox, infos, target, {"format": "pt"})
    except ModelRefused as error:
        raise ModelRefused(f"{source}: its tensors cannot be taken out: {error.message}", hint=error.hint) from error
    return target

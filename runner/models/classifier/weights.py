"""Tensors from files, and from tensors into a network: nothing but tensors is ever read, and every one must fit."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ModelRefused

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")


class RestrictedLoadFailed(ModelRefused):
    """The restricted unpickler refused a checkpoint."""


def sha256_of(paths: Iterable[Path]) -> str:
    """SHA-256 (hex) over the bytes of the files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises ``ModelRefused`` where header, offsets or length do not agree."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, MemoryError) as error:
        raise ModelRefused(
            f"{path}: damaged safetensors file: {error}", hint="Download it again; its bytes are not complete."
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a PyTorch checkpoint, through the restricted unpickler only; there is no other way in.

    A checkpoint may wrap its tensors once (``state_dict``, ``model``, ...). Raises ``ModelRefused``.
    """
    return _tensors_of(read_checkpoint(path), path)


def read_checkpoint(path: Path) -> Any:
    """What a PyTorch checkpoint holds, through the restricted unpickler only. Raises ``ModelRefused``."""
    import torch

    _need_safe_unpickler(torch.__version__)
    try:
        _refuse_bomb(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ModelRefused:
        raise
    except Exception as error:  # the unpickler meets hostile bytes: whatever it raises, the file is refused
        if _is_cut_off(path, error):
            raise ModelRefused(
                f"{path}: damaged checkpoint: {'it is empty' if not path.stat().st_size else 'its bytes are not complete'}",
                hint="Download it again.",
            ) from error
        raise RestrictedLoadFailed(
            f"{path}: refused: the checkpoint holds more than tensors, or is damaged ({_reason(error)})",
            hint="Ask its author for safetensors. Without the restriction it is only read in a confined process, after "
            f"`trust: code` and `sha256: {sha256_of([path])}`.",
        ) from error


def _is_cut_off(path: Path, error: Exception) -> bool:
    """Whether the file ends too early or is a broken archive, so that lifting the restriction would not help either."""
    if isinstance(error, EOFError | zipfile.BadZipFile) or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        begins_as_archive = file.read(4) == b"PK\x03\x04"
    return begins_as_archive and (not zipfile.is_zipfile(path) or "zip archive" in str(error))


def _refuse_bomb(path: Path) -> None:
    """A checkpoint stores its tensors as they are; an archive that unpacks to far more is no checkpoint."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > 4 * path.stat().st_size + (16 << 20):
        raise ModelRefused(f"{path}: refused: the archive unpacks to {unpacked} bytes, far more than it has")


def _reason(error: Exception) -> str:
    """What the restricted unpickler objected to, without its advice to lift the restriction."""
    found = re.search(r"Unsupported (?:global|class|operand)[^.]*?[\w.]+", str(error))
    return found.group(0) if found else type(error).__name__


def _need_safe_unpickler(version: str) -> None:
    """The restricted unpickler of torch before 2.10 can be broken out of (CVE-2025-32434, CVE-2026-24747)."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < (2, 10):
        raise ModelRefused(
            f"torch {version} cannot read checkpoints safely", hint="Install torch 2.10 or later, or use safetensors."
        )


def _tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    import torch

    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content:
        raise ModelRefused(f"{path}: the checkpoint holds no state dict (a mapping of names to tensors)")
    strangers = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strangers or not all(isinstance(name, str) for name in content):
        raise ModelRefused(
            f"{path}: the checkpoint holds more than tensors: {', '.join(strangers[:5])}",
            hint="Save the state dict of the model alone.",
        )
    return dict(content)


def fill(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load the tensors; each must be expected, each expected one be there, with its shape and a kind of number that fits.

    A common ``module.`` before every name (left by data-parallel training) is taken off; batch norm's counter of
    batches, which evaluation never reads, may be missing. Raises ``ModelRefused`` listing what does not fit.
    """
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    expected = network.state_dict()
    counters = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}
    found = {**counters, **tensors}
    problems = _differences(expected, found)
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise ModelRefused(
            f"{where}: the tensors do not fit the network: {'; '.join(problems[:6])}{more}",
            hint="Check `architecture:` and the number of labels.",
        )
    network.load_state_dict(found, strict=True)


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not expected" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        want, have = expected[name], found[name]
        if tuple(want.shape) != tuple(have.shape):
            problems.append(f"{name} has shape {list(have.shape)}, expected {list(want.shape)}")
        elif want.is_floating_point() != have.is_floating_point():
            problems.append(f"{name} holds {_kind(have.dtype)}, expected {_kind(want.dtype)}")
    return sorted(problems)


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

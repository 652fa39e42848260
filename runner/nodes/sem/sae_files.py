"""Sparse autoencoders on disk, in three layouts. Tensors and a description in and out; no network is built here.

- ``native``: a folder with ``sae.safetensors`` (every tensor of ``SparseAutoencoder``) and ``sae.json`` (``SaeAbout``).
- ``sem``: one file ``MSAE_<backbone>_<d>_<L>_<k1xk2..>_<weighting>.pth`` with ``bpre`` [d], ``encoder.weight`` [L, d],
  ``encoder.bias`` [L], ``decoder.weight`` [d, L]. (SEM's public loader keeps ``.pth`` in the weighting; here it is taken off.)
- ``msae``: one file with ``model`` (``pre_bias`` [d], ``latent_bias`` [L], ``encoder`` [d, L], ``decoder`` [L, d]) beside
  ``mean_center`` [d], ``scaling_factor`` and ``target_norm``.

The tensors of ``sem`` may also stand in a safetensors file. A ``.pth`` is read by the restricted unpickler only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.errors import ModelRefused
from runner.models.classifier.weights import RestrictedLoadFailed, read_checkpoint, read_safetensors
from runner.nodes.sem.sae_about import Layout, SaeAbout, check_levels

WEIGHTS, ABOUT = "sae.safetensors", "sae.json"
FORMAT = 1
_NAME = re.compile(
    r"MSAE_(?P<backbone>.+)_(?P<d>\d+)_(?P<latents>\d+)_(?P<levels>\d+(?:x\d+)*)_(?P<weighting>[A-Za-z]+)"
    r"\.(?:pth|safetensors)"
)
# Names of our tensors: in the file, and whether the file holds the transpose.
_SEM = {"b_pre": "bpre", "encoder.weight": "encoder.weight", "encoder.bias": "encoder.bias",
        "decoder.weight": "decoder.weight"}  # fmt: skip
_MSAE = {"b_pre": "pre_bias", "encoder.weight": "encoder", "encoder.bias": "latent_bias", "decoder.weight": "decoder"}
_STATISTICS = {"mean": "mean_center", "scale": "scaling_factor"}


class Stored(NamedTuple):
    """``tensors``: float32, by the names of ``SparseAutoencoder.state_dict()``, checked to fit each other."""

    tensors: dict[str, Tensor]
    about: SaeAbout


class NameParts(NamedTuple):
    """What the name of a file in SEM's layout says."""

    backbone: str
    d: int
    latents: int
    levels: tuple[int, ...]
    weighting: str


def parse_name(name: str) -> NameParts | None:
    """The parts of ``MSAE_<backbone>_<d>_<L>_<k1xk2..>_<weighting>.pth``, or None for another name.

    Any weighting but ``reverse`` is ``uniform``, as in SEM's code.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    levels = tuple(int(level) for level in found["levels"].split("x"))
    weighting = "reverse" if found["weighting"] == "reverse" else "uniform"
    return NameParts(found["backbone"], int(found["d"]), int(found["latents"]), levels, weighting)


def file_name(about: SaeAbout, d: int, latents: int) -> str:
    """The name of a file in SEM's layout. Characters of the backbone that no file name has become ``-``."""
    backbone = re.sub(r"[^\w.@+-]", "-", about.backbone) or "unnamed"
    levels = "x".join(map(str, about.levels or (latents,)))
    return f"MSAE_{backbone}_{d}_{latents}_{levels}_{about.weighting or 'uniform'}.pth"


# --- reading ---------------------------------------------------------------------------------------------------------


def read_stored(path: Path, layout: Layout | None = None, about: SaeAbout | None = None) -> Stored:
    """Read a folder (``native``) or a file (``sem``, ``msae``; None = by what it holds). Raises ``ModelRefused``."""
    if path.is_dir():
        path, inside = _folder(path), True
    else:
        inside = False
    if inside or layout == "native":
        stored = _read_native(path, about)
    else:
        content = read_safetensors(path) if path.suffix == ".safetensors" else _checkpoint(path)
        stored = _from_content(content, path, layout, about)
    problem = _problem(stored)
    if problem:
        raise ModelRefused(f"{path}: this is no usable sparse autoencoder: {problem}")
    return Stored({name: value.float().contiguous() for name, value in stored.tensors.items()}, stored.about)


def _checkpoint(path: Path) -> Any:
    try:
        return read_checkpoint(path)
    except RestrictedLoadFailed as error:  # the hint there is for classifiers, which may be trusted with code
        raise ModelRefused(error.message, hint="Ask its author for safetensors, or for the tensors alone.") from error


def _folder(path: Path) -> Path:
    if not (path / WEIGHTS).is_file() or not (path / ABOUT).is_file():
        raise ModelRefused(
            f"{path}: this folder holds no sparse autoencoder ({WEIGHTS} with {ABOUT})",
            hint="Give the output `folder` of sem.train_sae, or one .pth or .safetensors file.",
        )
    return path / WEIGHTS


def _read_native(path: Path, about: SaeAbout | None) -> Stored:
    from pydantic import TypeAdapter, ValidationError

    tensors = read_safetensors(path)
    if about is not None:
        return Stored(tensors, about)
    try:
        content = json.loads((path.parent / ABOUT).read_text("utf8"))
        if content.pop("format") != FORMAT:
            raise ValueError("its format is not known")
        return Stored(tensors, TypeAdapter(SaeAbout).validate_python(content))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        raise ModelRefused(f"{path.parent / ABOUT}: damaged description of a sparse autoencoder: {error}") from error


def _from_content(content: Any, path: Path, layout: Layout | None, about: SaeAbout | None) -> Stored:
    if not isinstance(content, Mapping):
        raise ModelRefused(f"{path}: the checkpoint holds no mapping of names to tensors")
    inner = content["model"] if isinstance(content.get("model"), Mapping) else content
    if layout is None:
        layout = "sem" if "bpre" in inner else "msae" if "pre_bias" in inner else None
    if layout is None:
        raise ModelRefused(
            f"{path}: neither SEM's tensors ({', '.join(_SEM.values())}) nor MSAE's ({', '.join(_MSAE.values())}) are in it",
            hint="Say `layout: sem` or `layout: msae` to be told which one is missing.",
        )
    return _sem(inner, path, about) if layout == "sem" else _msae(content, inner, path, about)


def _sem(content: Mapping[str, Any], path: Path, about: SaeAbout | None) -> Stored:
    tensors = _named(content, _SEM, path)
    _no_strangers(content, set(_SEM.values()), path)
    d = tensors["b_pre"].numel()
    tensors |= {"mean": torch.zeros(d), "scale": torch.ones(())}
    return Stored(tensors, _about_of_name(path, tensors) if about is None else about)


def _about_of_name(path: Path, tensors: Mapping[str, Tensor]) -> SaeAbout:
    parts = parse_name(path.name)
    if parts is None:
        raise ModelRefused(
            f"{path.name}: this name does not say what the sparse autoencoder is for",
            hint="Name it MSAE_<backbone>_<d>_<latents>_<k1xk2..>_<weighting>.pth, or give backbone and levels.",
        )
    if tuple(tensors["encoder.weight"].shape) != (parts.latents, parts.d):
        shape = list(tensors["encoder.weight"].shape)
        raise ModelRefused(f"{path}: encoder.weight is {shape}, but the name says [{parts.latents}, {parts.d}]")
    weighting = "reverse" if parts.weighting == "reverse" else "uniform"
    return SaeAbout(parts.backbone, "msae", parts.levels, weighting)  # type: ignore[arg-type]


def _msae(content: Mapping[str, Any], inner: Mapping[str, Any], path: Path, about: SaeAbout | None) -> Stored:
    tensors = _named(inner, _MSAE, path)
    tensors |= {name: value.T for name, value in tensors.items() if value.ndim == 2}
    missing = [name for name in _STATISTICS.values() if name not in content]
    if missing:
        raise ModelRefused(
            f"{path}: {' and '.join(missing)} of its training data are missing",
            hint="Without them embeddings reach the layers on another scale than in training.",
        )
    tensors |= _statistics(content, tensors["b_pre"].numel(), path)
    if about is None:
        raise ModelRefused(f"{path}: MSAE's layout does not say its backbone", hint="Give backbone and levels.")
    norm = content.get("target_norm")
    return Stored(tensors, replace(about, target_norm=float(norm) if isinstance(norm, int | float) else None))


def _statistics(content: Mapping[str, Any], d: int, path: Path) -> dict[str, Tensor]:
    """Mean [d] and scale []; one number for the mean counts for all features."""
    try:
        mean, scale = (torch.as_tensor(content[name]).float() for name in _STATISTICS.values())
        return {"mean": mean.flatten().expand(d).clone(), "scale": scale.reshape(())}
    except (TypeError, ValueError, RuntimeError) as error:
        wanted = f"mean_center must be {d} numbers and scaling_factor one"
        raise ModelRefused(f"{path}: {wanted}: {error}") from error


def _named(content: Mapping[str, Any], names: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    missing = [name for name in names.values() if not isinstance(content.get(name), Tensor)]
    if missing:
        raise ModelRefused(f"{path}: the tensors {', '.join(missing)} are missing")
    return {ours: content[theirs] for ours, theirs in names.items()}


def _no_strangers(content: Mapping[str, Any], known: set[str], path: Path) -> None:
    strangers = sorted(map(str, content.keys() - known))
    if strangers:
        raise ModelRefused(f"{path}: {', '.join(strangers[:5])} is not expected in a sparse autoencoder")


def _problem(stored: Stored) -> str | None:
    """What does not fit, or None."""
    tensors, about = stored
    names = {"b_pre", "encoder.weight", "encoder.bias", "decoder.weight", "mean", "scale"}
    if set(tensors) != names:
        return f"it holds {', '.join(sorted(tensors))}, not {', '.join(sorted(names))}"
    if tensors["encoder.weight"].ndim != 2 or 0 in tensors["encoder.weight"].shape:
        return f"encoder.weight has shape {list(tensors['encoder.weight'].shape)}, expected [latents, width]"
    latents, d = tensors["encoder.weight"].shape
    shapes = {"b_pre": (d,), "encoder.bias": (latents,), "decoder.weight": (d, latents), "mean": (d,), "scale": ()}
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            return f"{name} has shape {list(tensors[name].shape)}, expected {list(shape)}"
    if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in tensors.values()):
        return "its weights are not all finite numbers"
    if tensors["scale"] <= 0:
        return "the scale of its inputs is not positive"
    try:
        check_levels(about.architecture, about.levels, latents)
    except ValueError as error:
        return str(error)
    return None


# --- writing ---------------------------------------------------------------------------------------------------------


def write_stored(stored: Stored, folder: Path, layout: Layout) -> Path:
    """Write into ``folder``, made where it is missing; returns the folder (``native``) or the file."""
    folder.mkdir(parents=True, exist_ok=True)
    latents, d = stored.tensors["encoder.weight"].shape
    file = folder / file_name(stored.about, d, latents)
    if layout == "native":
        return _write_native(stored, folder)
    if layout == "sem":
        torch.save({theirs: stored.tensors[ours] for ours, theirs in _SEM.items()}, file)
        return file
    file = file.with_name(f"scaled_{file.name}")
    torch.save(_msae_content(stored), file)
    return file


def _write_native(stored: Stored, folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file(stored.tensors, folder / WEIGHTS)
    (folder / ABOUT).write_text(json.dumps({"format": FORMAT, **asdict(stored.about)}, indent=1), "utf8")
    return folder


def _msae_content(stored: Stored) -> dict[str, Any]:
    model = {theirs: stored.tensors[ours] for ours, theirs in _MSAE.items()}
    model |= {name: value.T.contiguous() for name, value in model.items() if value.ndim == 2}
    statistics = {theirs: stored.tensors[ours] for ours, theirs in _STATISTICS.items()}
    return {"model": model, **statistics, "target_norm": stored.about.target_norm}

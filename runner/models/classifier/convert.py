"""``runner convert``: the weights of an opted-in file, taken out once in a confined process and written as safetensors."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ModelRefused, UsageError
from runner.models.classifier.converted import ARCHITECTURE, CARD, WEIGHTS, write_card
from runner.models.classifier.labels import check_labels
from runner.models.classifier.opt_in import CODE_FORMATS, Trust, check_trust, pinned_file, save_weights
from runner.models.classifier.preprocess import PreprocessSpec
from runner.models.classifier.sniff import sniff
from runner.models.classifier.weights import sha256_of

_NO_NEED = {
    "onnx": "ONNX is loaded as it is", "keras": "Keras archives are loaded as they are",
    "keras_h5": "Keras HDF5 files are loaded as they are", "safetensors": "it is safetensors already",
    "timm": "timm folders are loaded as they are", "runner_model": "it was converted already",
}  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """What came of it: the ``folder``, number of tensors, and ``lines`` that say how to go on."""

    folder: Path
    tensors: int
    lines: tuple[str, ...]


def convert(
    path: Path,
    output: Path,
    *,
    sha256: str | None,
    architecture: str | None = None,
    labels: Sequence[str] | None = None,
    preprocess: PreprocessSpec | None = None,
) -> Conversion:
    """Write ``output`` (a new folder) with ``model.safetensors`` and ``runner-model.json``.

    ``sha256`` pins the file whose code may run, confined. With ``architecture`` the tensors must fit that network.
    Raises ``ModelRefused``, ``UsageError``.
    """
    if architecture is not None and not ARCHITECTURE.fullmatch(architecture):
        raise UsageError(f"architecture {architecture!r}: write timm:NAME, torchvision:NAME or runner:NAME")
    if output.exists():
        raise UsageError(f"{output} exists already", hint="Name a folder that does not exist.")
    found = sniff(path)
    if found.format in _NO_NEED:
        raise UsageError(f"{path} needs no conversion: {_NO_NEED[found.format]}", hint="Name it in `models:`.")
    if found.format not in (*CODE_FORMATS, "state_dict", "huggingface"):
        raise ModelRefused(f"{path}: there is nothing to convert in {found.detail}")
    source = pinned_file(path)
    if sha256 is None:
        raise UsageError(
            f"{source}: reading it may run its author's code; its SHA-256 is {sha256_of([source])}",
            hint="Pass that as --sha256 to say that this is the file, and that it may run in a confined process.",
        )
    check_trust(source, sniff(source), Trust("code", sha256))
    card = {"architecture": architecture, "labels": list(check_labels(labels, "labels")) if labels else None}
    card["preprocess"] = preprocess.model_dump(mode="json") if preprocess else None  # type: ignore[assignment]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".convert-") as scratch:
        count = _fill(Path(scratch, "model"), path, source, sha256, card)
        Path(scratch, "model").replace(output)
    return Conversion(output, count, tuple(_advice(output, card, path.is_dir())))


def _fill(folder: Path, path: Path, source: Path, sha256: str, card: dict[str, Any]) -> int:
    """Write weights and card into the new ``folder``; returns the number of tensors."""
    from runner.models.classifier.sandboxed import start_torch
    from runner.models.classifier.weights import read_safetensors

    folder.mkdir()
    format = sniff(source).format
    sandbox, _, network = start_torch(source, format, sha256)
    try:
        save_weights(sandbox, source, folder / WEIGHTS)
    finally:
        sandbox.close()
    tensors = read_safetensors(folder / WEIGHTS)
    if path.is_dir():
        for name in ("config.json", "preprocessor_config.json"):
            if (path / name).is_file():
                shutil.copyfile(path / name, folder / name)
        return len(tensors)
    if card["architecture"] is not None:
        _must_fit(card["architecture"], card["labels"], tensors, str(source))
    write_card(folder, {**card, "source": {"name": path.name, "sha256": sha256, "format": format, "class": network}})
    return len(tensors)


def _must_fit(architecture: str, labels: Sequence[str] | None, tensors: dict[str, Any], where: str) -> None:
    """Raise ``ModelRefused`` unless the tensors fill the network; its width is that of the last tensor without labels."""
    from runner.models.classifier.architectures import build
    from runner.models.classifier.weights import fill

    if labels:
        widths = [len(labels)]
    else:
        sides = [tensor.shape[0] for name, tensor in tensors.items() if name.endswith("bias") and tensor.ndim == 1]
        widths = sorted(set(sides))
    problem: ModelRefused | None = None
    for width in widths:
        try:
            return fill(build(architecture, width, tensors), tensors, where)
        except ModelRefused as error:
            problem = error if problem is None or len(error.message) < len(problem.message) else problem
    raise problem or ModelRefused(f"{where}: there is no bias whose length is the number of outputs")


def _advice(output: Path, card: dict[str, Any], is_folder: bool) -> list[str]:
    if is_folder:
        return [f"models: {{subject: {{provider: huggingface, path: {output}}}}}"]
    missing = [name for name in ("architecture", "labels", "preprocess") if card[name] is None]
    lines = [f"models: {{subject: {{provider: file, path: {output}}}}}"]
    if missing:
        lines.append(f"{output / CARD} does not say: {', '.join(missing)}. Give these in the spec, beside `path:`.")
    if "architecture" in missing:
        lines.append(
            "Weights alone are no network: `architecture:` is one of timm:NAME, torchvision:NAME, runner:NAME."
        )
    return lines


def parse_preprocess(text: str | None) -> PreprocessSpec | None:
    """Preprocessing written on a command line, in YAML. Raises ``UsageError``."""
    import yaml
    from pydantic import ValidationError

    if text is None:
        return None
    try:
        return PreprocessSpec.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise UsageError(f"--preprocess {text!r} is not understood: {error}") from error

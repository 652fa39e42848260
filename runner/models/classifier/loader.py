"""The way in: a path becomes a checked classifier, or a refusal that says why and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.models.classifier.formats import admit
from runner.models.classifier.preprocess import Preprocess, PreprocessSpec
from runner.models.classifier.sniff import sniff

if TYPE_CHECKING:
    from runner.models.base import Classifier


def load_classifier(
    path: str | Path,
    *,
    format: str = "auto",
    labels: Sequence[str] | None = None,
    architecture: str | None = None,
    preprocess: Preprocess | PreprocessSpec | Literal["auto"] = "auto",
    head: Literal["softmax", "multilabel"] = "softmax",
    device: str = "cpu",
    batch_size: int = 64,
    threads: int | None = None,
    name: str | None = None,
) -> Classifier:
    """Load an image classifier from a file or folder that a stranger made.

    What it is, is decided from its bytes; a declared ``format`` must agree. Loaded are Hugging Face and timm folders,
    safetensors and restricted state dicts (with ``architecture``: ``timm:``, ``torchvision:`` or ``runner:`` and a
    name) and ONNX; everything else could run code and is refused. ``labels`` (one name an output) are needed where the
    format has none, or only ids. ``preprocess`` ``'auto'`` reads the model's own files. After loading, the model must
    give finite outputs of the right width that do not depend on the other images of a batch.

    Raises ``ModelRefused`` with the reason and what to do.
    """
    from runner.models.classifier.checks import check_classifier

    place = Path(path)
    kind = admit(place, sniff(place), format)
    given = None if preprocess == "auto" else preprocess
    given = given.build() if isinstance(given, PreprocessSpec) else given
    common: dict[str, Any] = {"name": name or place.name, "labels": labels, "preprocess": given, "head": head, "batch_size": batch_size}  # fmt: skip
    if kind == "onnx":
        from runner.models.classifier.onnx_model import OnnxClassifier

        classifier: Classifier = OnnxClassifier(place, threads=threads, **common)
    else:
        classifier = _load_torch(place, kind, architecture, device, common)
    check_classifier(classifier)
    return classifier


def _load_torch(path: Path, kind: str, architecture: str | None, device: str, common: dict[str, Any]) -> Classifier:
    from runner.models.classifier import torch_model

    if kind == "huggingface":
        return torch_model.load_huggingface(path, device=device, **common)
    if kind == "timm":
        return torch_model.load_timm(path, device=device, **common)
    return torch_model.load_checkpoint(path, kind, architecture=architecture, device=device, **common)

"""The way in: a path becomes a checked classifier, or a refusal that says why and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.models.classifier.formats import admit
from runner.models.classifier.opt_in import (
    CODE_FORMATS,
    Trust,
    check_trust,
    load_trusted,
    load_trusted_folder,
    pinned_file,
)
from runner.models.classifier.preprocess import Preprocess, PreprocessSpec
from runner.models.classifier.sniff import sniff
from runner.models.classifier.weights import RestrictedLoadFailed

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
    trust: Literal["none", "code"] = "none",
    sha256: str | None = None,
) -> Classifier:
    """Load an image classifier from a file or folder that a stranger made.

    What it is, is decided from its bytes; a declared ``format`` must agree. Loaded are Hugging Face and timm folders,
    safetensors and restricted state dicts (with ``architecture``: ``timm:``, ``torchvision:`` or ``runner:`` and a
    name), ONNX, Keras (in a confined child process) and what ``runner convert`` wrote; everything else could run code
    and is refused. ``trust='code'`` with the ``sha256`` of the file lets TorchScript, torch.export and pickled PyTorch
    files run in a confined child process; a ``sha256`` alone pins any file. ``labels`` (one name an output) are needed
    where the format has none, or only ids. ``preprocess`` ``'auto'`` reads the model's own files. After loading, the
    model must give finite outputs of the right width that do not depend on the other images of a batch.

    Raises ``ModelRefused`` with the reason and what to do.
    """
    from runner.models.classifier.checks import check_classifier

    place = Path(path)
    said = Trust(trust, sha256)
    found = sniff(place)
    opted_in = check_trust(place, found, said)
    kind = admit(place, found, format, opted_in=opted_in)
    given = None if preprocess == "auto" else preprocess
    given = given.build() if isinstance(given, PreprocessSpec) else given
    common: dict[str, Any] = {"name": name or place.name, "labels": labels, "preprocess": given, "head": head, "batch_size": batch_size}  # fmt: skip
    chosen = _Chosen(place, kind, architecture, device, threads, sha256 if opted_in else None, common)
    classifier = chosen.load()
    try:
        check_classifier(classifier)
    except BaseException:
        classifier.close()
        raise
    return classifier


@dataclass(frozen=True)
class _Chosen:
    """A format that was admitted, and what its loader needs; ``opted_in`` is the pinned hash of a file that may run."""

    path: Path
    kind: str
    architecture: str | None
    device: str
    threads: int | None
    opted_in: str | None
    common: dict[str, Any]

    def load(self) -> Classifier:
        if self.kind == "onnx":
            from runner.models.classifier.onnx_model import OnnxClassifier

            return OnnxClassifier(self.path, threads=self.threads, **self.common)
        if self.kind in ("keras", "keras_h5"):
            return self._load_keras()
        if self.opted_in is not None and (self.kind in CODE_FORMATS or self._only_pickle()):
            return self._load_trusted(self.opted_in)
        if self.kind == "runner_model":
            from runner.models.classifier.converted import load_converted

            return load_converted(self.path, architecture=self.architecture, device=self.device, **self.common)
        return self._load_torch()

    def _load_keras(self) -> Classifier:
        from runner.models.classifier.keras_checks import check_archive
        from runner.models.classifier.sandboxed import load_keras

        if self.kind == "keras":
            check_archive(self.path)
        return load_keras(self.path, self.kind, threads=self.threads, **self.common)

    def _only_pickle(self) -> bool:
        """Whether this is a Hugging Face folder without safetensors."""
        return self.kind == "huggingface" and pinned_file(self.path).name == "pytorch_model.bin"

    def _load_trusted(self, sha256: str) -> Classifier:
        settings: dict[str, Any] = {"device": self.device, "threads": self.threads, "common": self.common}
        if self.kind == "huggingface":
            return load_trusted_folder(self.path, sha256, **settings)
        return load_trusted(self.path, self.kind, sha256, architecture=self.architecture, **settings)

    def _load_torch(self) -> Classifier:
        from runner.models.classifier import torch_model

        if self.kind == "huggingface":
            return torch_model.load_huggingface(self.path, device=self.device, **self.common)
        if self.kind == "timm":
            return torch_model.load_timm(self.path, device=self.device, **self.common)
        try:
            return torch_model.load_checkpoint(
                self.path, self.kind, architecture=self.architecture, device=self.device, **self.common
            )
        except RestrictedLoadFailed:
            if self.opted_in is None:
                raise
        return self._load_trusted(self.opted_in)

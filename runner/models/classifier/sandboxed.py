"""A classifier whose network runs in a confined child process: opted-in PyTorch files, and Keras.

Pictures are prepared here; the child gets numbers and gives numbers, which are checked like any stranger's input.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from runner.context import item_key
from runner.errors import ModelRefused
from runner.models.base import Classifier
from runner.models.classifier.labels import need_labels
from runner.models.classifier.onnx_model import undo_activation
from runner.models.classifier.preprocess import Preprocess
from runner.models.classifier.weights import sha256_of
from runner.models.sandbox import Limits, Sandbox, SandboxFailure, printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.models.base import FloatArray

_MAX_WIDTH = 1 << 16
"""Most outputs a model may have."""
_TORCH, _KERAS = "runner.models.classifier.inside_torch:serve", "runner.models.classifier.inside_keras:serve"


class SandboxedClassifier(Classifier):
    """Batches of float32 go to the child, scores come back; ``notes`` say how it is confined."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        name: str,
        format: str,
        weights_sha256: str,
        labels: tuple[str, ...],
        preprocess: Preprocess,
        head: Literal["softmax", "multilabel"],
        batch_size: int,
        undo: Callable[[FloatArray], FloatArray] | None = None,
    ) -> None:
        self.name, self.format, self.labels, self.head = name, format, labels, head
        self.preprocess, self.batch_size = preprocess, batch_size
        self.identity = item_key(weights_sha256, format, labels, preprocess.as_dict(), head)
        self.notes = (f"{name}: runs in a confined process ({', '.join(sandbox.layers)}), on the CPU",)
        self._sandbox, self._undo = sandbox, undo

    def prepare(self, image: Image) -> FloatArray:
        """Preprocess one picture."""
        return self.preprocess(image)

    def logits(self, batch: FloatArray) -> FloatArray:
        """Class scores, float32 [n, labels]. Raises ``ModelRefused``, ``SandboxFailure``."""
        parts = [self._forward(batch[i : i + self.batch_size]) for i in range(0, len(batch), self.batch_size)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.labels)), np.float32)

    def close(self) -> None:
        """End the child."""
        self._sandbox.close()

    def _forward(self, batch: FloatArray) -> FloatArray:
        given = np.ascontiguousarray(batch, "<f4")
        header = {"op": "logits", "shape": list(given.shape)}
        shape = "x".join(map(str, given.shape))
        try:
            reply, data = self._sandbox.ask(header, given.data.cast("B"), max_body=4 * len(given) * _MAX_WIDTH)
        except SandboxFailure as error:
            raise SandboxFailure(f"{self.name}: {error.message}", hint=error.hint) from error
        except ModelRefused as error:
            raise ModelRefused(
                f"{self.name}: the model cannot take an input of shape {shape}: {error.message}",
                hint="Check `preprocess:` (size, layout, channels).",
            ) from error
        scores = self._scores(reply.get("shape"), data, len(given))
        return np.asarray(self._undo(scores), np.float32) if self._undo else scores

    def _scores(self, shape: Any, data: bytearray, count: int) -> FloatArray:
        """The reply as float32 [count, width], if it is that."""
        if not (isinstance(shape, list) and len(shape) == 2 and all(type(side) is int for side in shape)):
            raise ModelRefused(
                f"{self.name}: expected scores [images, labels], found an output of shape {str(shape)[:80]}"
            )
        if shape[0] != count or not 1 <= shape[1] <= _MAX_WIDTH or len(data) != 4 * count * shape[1]:
            raise ModelRefused(f"{self.name}: the model gave an output of shape {shape} for {count} images")
        scores: FloatArray = np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(scores).all():
            raise ModelRefused(f"{self.name}: the model gives values that are not finite (NaN or infinity)")
        return scores


def start_torch(path: Path, format: str, sha256: str, threads: int | None = None) -> tuple[Sandbox, bool, str]:
    """A child that has loaded an opted-in file, whether that is a network (else tensors), and its class's name."""
    sandbox = Sandbox(_TORCH, file=path, limits=_limits(path, threads))
    reply = _load(sandbox, path, {"op": "load", "format": format, "sha256": sha256})
    return sandbox, reply.get("kind") == "network", printable(reply.get("class"))


def load_opted_in(
    sandbox: Sandbox,
    path: Path,
    format: str,
    sha256: str,
    *,
    labels: Sequence[str] | None,
    preprocess: Preprocess | None,
    **settings: Any,
) -> SandboxedClassifier:
    """The classifier over a child that holds a network."""
    names = need_labels(labels, str(path))
    if preprocess is None:
        raise ModelRefused(
            f"{path}: this file does not say how pictures are preprocessed",
            hint="Give `preprocess: {size: ..., mean: [...], std: [...]}`.",
        )
    return _noted(
        SandboxedClassifier(
            sandbox, format=format, weights_sha256=sha256, labels=names, preprocess=preprocess, **settings
        )
    )


def load_keras(
    path: Path,
    format: str,
    *,
    labels: Sequence[str] | None,
    preprocess: Preprocess | None,
    threads: int | None = None,
    **settings: Any,
) -> SandboxedClassifier:
    """A Keras archive or HDF5 file, in a child although it needs no opt-in: Keras looks up code by name."""
    _need_keras(path)
    names = need_labels(labels, str(path))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "model.keras" if format == "keras" else "model.h5")  # Keras goes by the ending
        shutil.copyfile(path, copy)
        sha256 = sha256_of([copy])
        sandbox = Sandbox(
            _KERAS, readable=[folder], limits=_limits(path, threads), environment={"KERAS_BACKEND": "torch"}
        )
        reply = _load(sandbox, path, {"op": "load", "path": str(copy), "sha256": sha256})
    try:
        chosen = _keras_preprocess(path, preprocess, reply.get("input"))
    except ModelRefused:
        sandbox.close()
        raise
    ending = reply.get("ending")
    undo = undo_activation(ending) if ending in ("Softmax", "Sigmoid") else None
    return _noted(
        SandboxedClassifier(
            sandbox, format=format, weights_sha256=sha256, labels=names, preprocess=chosen, undo=undo, **settings
        )
    )


def _keras_preprocess(path: Path, given: Preprocess | None, shape: Any) -> Preprocess:
    """The given preprocessing in the layout of the model's input, [batch, height, width, channels] as a rule."""
    sides = shape[1:] if isinstance(shape, list) and len(shape) == 4 else [None] * 3
    if given is None:
        size = sides[:2] if all(type(side) is int for side in sides[:2]) else "..."
        raise ModelRefused(
            f"{path}: Keras does not say how pictures are preprocessed",
            hint=f"Give `preprocess: {{size: {size}, range: [0, 255]}}` if the model scales pictures itself, else its mean and std.",
        )
    return replace(given, layout="chw" if sides[0] in (1, 3) and sides[2] not in (1, 3) else "hwc")


def _need_keras(path: Path) -> None:
    import importlib.metadata
    import importlib.util

    if importlib.util.find_spec("keras") is None or importlib.util.find_spec("h5py") is None:
        raise ModelRefused(f"{path}: Keras is not installed", hint="pip install 'vlm-runner[keras]'")
    version = importlib.metadata.version("keras")
    if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < (3, 11, 3):
        raise ModelRefused(f"keras {version} cannot read models safely", hint="Install keras 3.11.3 or later.")


def _load(sandbox: Sandbox, path: Path, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return sandbox.ask(request)[0]
    except (ModelRefused, SandboxFailure) as error:
        sandbox.close()
        raise type(error)(
            f"{path}: cannot be loaded in its sandbox: {error.message}",
            hint=error.hint or "Ask its author for safetensors or ONNX.",
        ) from error


def _limits(path: Path, threads: int | None) -> Limits:
    """Memory for a few copies of the file and the work of a batch."""
    return Limits(memory=(4 << 30) + 6 * path.stat().st_size, threads=threads or 0)


def _noted(classifier: SandboxedClassifier) -> SandboxedClassifier:
    for note in classifier.notes:
        logging.getLogger("runner.models").warning(note)
    return classifier

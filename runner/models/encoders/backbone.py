"""TinyViT-5M as an ONNX file: pictures to frozen features, the image side of the embedded mini encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.errors import ModelRefused
from runner.models.classifier.onnx_model import read_model, session_options

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    FloatArray = NDArray[np.float32]

SIDE = 224
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
BATCH = 8
"""Images in one pass: from 4 to 8 is fastest on two cores; larger batches leave the caches."""


def letterbox(image: Image, side: int = SIDE) -> Image:
    """Scale the longer side to ``side`` (bicubic) and centre on a white square; transparency becomes white."""
    from PIL import Image as Pillow

    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Pillow.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    image = image.convert("RGB")
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    canvas = Pillow.new("RGB", (side, side), "white")
    canvas.paste(image.resize((width, height), Pillow.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2))
    return canvas


def prepare(image: Image) -> FloatArray:
    """A picture as the backbone's input: letter-boxed, ImageNet mean and deviation, float32 [3, 224, 224]."""
    pixels = np.asarray(letterbox(image), np.float32) / np.float32(255)
    return np.ascontiguousarray(((pixels - _MEAN) / _STD).transpose(2, 0, 1))


def pixel_key(prepared: FloatArray) -> bytes:
    """SHA-256 (32 bytes) of one prepared picture: the same pixels, the same features."""
    return hashlib.sha256(np.ascontiguousarray(prepared, np.float32).data).digest()


class Backbone:
    """The network with a memory: features of prepared pictures whose ``pixel_key`` is ``known`` are not computed again.

    ``identity`` is the SHA-256 of the model; ``dim`` the number of features. Raises ``ModelRefused``.
    """

    def __init__(
        self, path: Path, *, known: Mapping[bytes, FloatArray] | None = None, threads: int | None = None
    ) -> None:
        import onnxruntime

        data = read_model(path)
        self.identity = hashlib.sha256(data).hexdigest()
        self.known: dict[bytes, FloatArray] = dict(known or {})
        try:
            self._session = onnxruntime.InferenceSession(
                data, session_options(threads), providers=["CPUExecutionProvider"]
            )
            given, made = self._session.get_inputs()[0], self._session.get_outputs()[0]
            self._input, self._output, self.dim = given.name, made.name, int(made.shape[1])
        except Exception as error:  # a stranger's graph may fail in any way
            raise ModelRefused(f"{path}: cannot be used as an image backbone: {error}") from error

    def features(self, batch: FloatArray) -> FloatArray:
        """Raw features float32 [n, dim] of prepared pictures float32 [n, 3, 224, 224]."""
        keys = [pixel_key(image) for image in batch]
        missing = [index for index, key in enumerate(keys) if key not in self.known]
        computed: dict[bytes, FloatArray] = {}
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            for index, row in zip(part, self._run(batch[part]), strict=True):
                computed[keys[index]] = row
        rows = [self.known[key] if key in self.known else computed[key] for key in keys]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _run(self, batch: FloatArray) -> Any:
        return np.asarray(self._session.run([self._output], {self._input: batch})[0], np.float32)

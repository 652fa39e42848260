"""MobileStyleGAN in OpenVINO's format: noise to style to a portrait of somebody who does not exist.

The networks are run one picture at a time: a batch is slower on a CPU. Source: Belousov (2021), "MobileStyleGAN: A
Lightweight Convolutional Neural Network for High-Fidelity Image Synthesis", arXiv 2104.04767.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import ModelRefused, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

FloatArray = NDArray[np.float32]

STYLE = 512
"""Numbers in a noise vector, and in a style."""
FILES = ("MappingNetwork.xml", "MappingNetwork.bin", "SynthesisNetwork.xml", "SynthesisNetwork.bin")
NOTE = (
    "The people in these pictures do not exist: they were drawn by a generator that was trained on FFHQ, photographs "
    "whose data set is licensed for non-commercial use. Nobody knows their true gender; outcomes are what classifiers answer."
)
"""What every result on generated faces must say."""


def truncate(styles: FloatArray, mean: FloatArray, psi: float) -> FloatArray:
    """Styles [n, 512] drawn towards the mean style: ``mean + psi (style - mean)``, as StyleGAN's truncation trick."""
    return np.asarray(mean + np.float32(psi) * (styles - mean), np.float32)


class FaceGenerator:
    """The two networks. ``identity``: SHA-256 of their files. Raises ``ModelRefused`` or, without openvino, ``UsageError``."""

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        core = _core()
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        options |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
        try:
            self.identity = hashlib.sha256(b"".join((folder / name).read_bytes() for name in FILES)).hexdigest()
            mapping = core.read_model(folder / FILES[0], folder / FILES[1])
            mapping.reshape([-1, STYLE])
            self._mapping = core.compile_model(mapping, "CPU", options)
            self._synthesis = core.compile_model(core.read_model(folder / FILES[2], folder / FILES[3]), "CPU", options)
        except (OSError, RuntimeError) as error:
            raise ModelRefused(f"{folder}: not a face generator: {str(error).strip().splitlines()[0]}") from error

    def styles(self, noise: FloatArray) -> FloatArray:
        """Untruncated styles float32 [n, 512] of standard normal noise [n, 512]."""
        return np.asarray(self._mapping(np.ascontiguousarray(noise, np.float32))[0], np.float32)

    def picture(self, style: FloatArray, side: int) -> Image:
        """The portrait of one style [512], box-averaged from 1024 to ``side`` pixels."""
        from PIL import Image as Pillow

        pixels = np.asarray(self._synthesis(np.ascontiguousarray(style, np.float32)[None])[0][0])
        grey = np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8)
        full = Pillow.fromarray(np.ascontiguousarray(grey.transpose(1, 2, 0)))
        return full if side == full.width else full.resize((side, side), Pillow.Resampling.BOX)


def _core() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UsageError("the face generator needs openvino", hint="pip install 'vlm-runner[faces]'") from error
    return openvino.Core()

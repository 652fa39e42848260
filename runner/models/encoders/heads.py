"""Heads that carry frozen image features v and sentence embeddings t into one space. Numpy only.

Both sides return unit vectors, so that a product is a cosine. How the heads are fitted stands in
``runner.nodes.encoder``; how they are stored, at the end of this file.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from runner.errors import ModelRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

HeadKind = Literal["ridge", "contrastive", "mean"]
FORMAT = 1


def unit_rows(x: FloatArray) -> FloatArray:
    """Rows scaled to unit L2 norm; rows of zeros stay zero."""
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(x / np.where(norms > 0, norms, 1), np.float32)


class Head(ABC):
    """Two maps into one space. ``logit_scale`` turns a cosine into a logit."""

    logit_scale: float

    @abstractmethod
    def images(self, v: FloatArray) -> FloatArray:
        """Unit image features [n, 320] -> unit vectors [n, dim]."""

    @abstractmethod
    def texts(self, t: FloatArray) -> FloatArray:
        """Unit sentence embeddings [n, 384] -> unit vectors [n, dim]."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors."""


@dataclass(frozen=True)
class RidgeHead(Head):
    """Image: (v - mean_v) W; text: t - mean_t. ``W`` [320, 384] is the ridge solution."""

    W: FloatArray
    mean_v: FloatArray
    mean_t: FloatArray
    logit_scale: float

    def images(self, v: FloatArray) -> FloatArray:
        """Unit vectors [n, 384]."""
        return unit_rows(np.asarray((v - self.mean_v) @ self.W, np.float32))

    def texts(self, t: FloatArray) -> FloatArray:
        """Unit vectors [n, 384]."""
        return unit_rows(t - self.mean_t)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self.W.shape[1])


@dataclass(frozen=True)
class ContrastiveHead(Head):
    """Image: layer norm, linear to 512, GELU, linear to 256; text: linear to 256. Matrices are [in, out]."""

    norm_weight: FloatArray
    norm_bias: FloatArray
    hidden_weight: FloatArray
    hidden_bias: FloatArray
    image_weight: FloatArray
    image_bias: FloatArray
    text_weight: FloatArray
    text_bias: FloatArray
    logit_scale: float

    def images(self, v: FloatArray) -> FloatArray:
        """Unit vectors [n, 256]."""
        from scipy.special import erf

        centred = v - v.mean(-1, keepdims=True)
        x = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5) * self.norm_weight + self.norm_bias
        x = x @ self.hidden_weight + self.hidden_bias
        x = x * 0.5 * (1 + erf(x / np.sqrt(2.0)))
        return unit_rows(x @ self.image_weight + self.image_bias)

    def texts(self, t: FloatArray) -> FloatArray:
        """Unit vectors [n, 256]."""
        return unit_rows(t @ self.text_weight + self.text_bias)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self.image_weight.shape[1])


@dataclass(frozen=True)
class MeanHead(Head):
    """Both heads side by side, each scaled by 1/sqrt 2: the cosine is the mean of the two cosines."""

    first: Head
    second: Head

    def images(self, v: FloatArray) -> FloatArray:
        """Unit vectors [n, first.dim + second.dim]."""
        return _joined(self.first.images(v), self.second.images(v))

    def texts(self, t: FloatArray) -> FloatArray:
        """Unit vectors [n, first.dim + second.dim]."""
        return _joined(self.first.texts(t), self.second.texts(t))

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.first.dim + self.second.dim

    @property
    def logit_scale(self) -> float:  # type: ignore[override]
        """Mean of the two scales."""
        return (self.first.logit_scale + self.second.logit_scale) / 2


def _joined(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.asarray(np.concatenate([first, second], 1) / np.sqrt(2), np.float32)


@dataclass(frozen=True)
class MiniHeads:
    """Both heads with what they were fitted on.

    ``known``: backbone features by ``pixel_key``, of the pictures seen in fitting; ``backbone`` and ``sentences``: the
    identities of the frozen towers; ``trained_on``: what a reader must know (sources, counts, held-out captions).
    """

    ridge: RidgeHead
    contrastive: ContrastiveHead
    known: Mapping[bytes, FloatArray]
    backbone: str
    sentences: str
    trained_on: dict[str, Any]

    def head(self, kind: HeadKind) -> Head:
        """One of them, or their mean."""
        return {"ridge": self.ridge, "contrastive": self.contrastive}.get(kind) or MeanHead(
            self.ridge, self.contrastive
        )


def save_heads(heads: MiniHeads, folder: Path) -> None:
    """Write ``heads.safetensors``, ``features.safetensors`` and ``heads.json`` into the folder."""
    from safetensors.numpy import save_file

    arrays, scales = {}, {}
    for name, head in (("ridge", heads.ridge), ("contrastive", heads.contrastive)):
        for field in fields(head):
            value = getattr(head, field.name)
            if isinstance(value, np.ndarray):
                arrays[f"{name}.{field.name}"] = np.ascontiguousarray(value, np.float32)
        scales[name] = head.logit_scale
    save_file(arrays, folder / "heads.safetensors")
    keys = sorted(heads.known)
    width = heads.ridge.W.shape[0]
    features = np.stack([heads.known[key] for key in keys]) if keys else np.zeros((0, width), np.float32)
    pixels = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
    save_file({"pixels": pixels.copy(), "features": np.asarray(features, np.float32)}, folder / "features.safetensors")
    about = {"format": FORMAT, "backbone": heads.backbone, "sentences": heads.sentences, "logit_scale": scales}
    (folder / "heads.json").write_text(json.dumps({**about, "trained_on": heads.trained_on}, indent=1, sort_keys=True))


def load_heads(folder: Path) -> MiniHeads:
    """Read what ``save_heads`` wrote. Raises ``ModelRefused`` where the folder is not one, or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        about = json.loads((folder / "heads.json").read_text("utf8"))
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']} is not known")
        arrays = load_file(folder / "heads.safetensors")
        memory = load_file(folder / "features.safetensors")
        return MiniHeads(
            ridge=RidgeHead(**_part(arrays, "ridge"), logit_scale=float(about["logit_scale"]["ridge"])),
            contrastive=ContrastiveHead(
                **_part(arrays, "contrastive"), logit_scale=float(about["logit_scale"]["contrastive"])
            ),
            known={bytes(key): row for key, row in zip(memory["pixels"], memory["features"], strict=True)},
            backbone=str(about["backbone"]),
            sentences=str(about["sentences"]),
            trained_on=dict(about["trained_on"]),
        )
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ModelRefused(
            f"{folder}: this is no folder of encoder heads, or it is damaged ({type(error).__name__}: {error})",
            hint="It is the output `head` of the step encoder.fit_mini.",
        ) from error


def _part(arrays: Mapping[str, FloatArray], name: str) -> dict[str, Any]:
    return {key.partition(".")[2]: value for key, value in arrays.items() if key.startswith(f"{name}.")}

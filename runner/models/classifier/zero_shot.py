"""A classifier made of an image-text encoder and class names (zero-shot, as CLIP is used)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runner.context import item_key
from runner.errors import ModelRefused
from runner.models.base import Classifier, ImageTextEncoder
from runner.models.classifier.labels import check_labels

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.models.base import FloatArray

DEFAULT_TEMPLATES = ("a photo of a {}",)


def class_embeddings(encoder: ImageTextEncoder, labels: Sequence[str], templates: Sequence[str]) -> FloatArray:
    """One unit vector a label: the mean of its prompts' embeddings, float32 [labels, dim].

    Source: Radford et al. (2021), section 3.1.4 (prompt ensembling in embedding space).
    """
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    each = encoder.encode_texts(prompts).reshape(len(labels), len(templates), -1)
    mean = each.mean(1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), np.float32)


class ZeroShotClassifier(Classifier):
    """Scores are ``logit_scale`` x cosine of image and class prompt, or class vector where ``classes`` are given.

    ``classes``: float32 [labels, dim]. ``image_map``: for row vectors, [dim, dim] or one for each class [labels, dim, dim].
    """

    format = "zero_shot"
    head = "softmax"

    def __init__(
        self,
        encoder: ImageTextEncoder,
        labels: Sequence[str],
        templates: Sequence[str] = DEFAULT_TEMPLATES,
        *,
        classes: FloatArray | None = None,
        image_map: FloatArray | None = None,
        name: str | None = None,
    ) -> None:
        self.labels = check_labels(labels, "labels")
        if len(set(self.labels)) != len(self.labels):
            raise ModelRefused("labels: two labels are the same, so their prompts cannot be told apart")
        if not templates or any("{}" not in template for template in templates):
            raise ModelRefused("templates: each must hold {} where the label goes, such as 'a photo of a {}'")
        self.encoder = encoder
        self.name = name or f"zero-shot {encoder.name}"
        self.encoder_family = encoder.family
        self.identity = item_key(
            encoder.identity, self.labels, list(templates), encoder.logit_scale, *_digests(classes, image_map)
        )
        self._classes = class_embeddings(encoder, self.labels, templates) if classes is None else _unit(classes)
        self._image_map = image_map

    def prepare(self, image: Image) -> FloatArray:
        """The encoder's preprocessing."""
        return self.encoder.prepare(image)

    def logits(self, batch: FloatArray) -> FloatArray:
        """Scaled cosines, float32 [n, labels]."""
        images = self.encoder.encode_prepared(batch)
        if self._image_map is None:
            cosines = images @ self._classes.T
        else:
            mapped = _unit(images @ self._image_map)
            cosines = mapped @ self._classes.T if mapped.ndim == 2 else np.einsum("knd,kd->nk", mapped, self._classes)
        return np.asarray(self.encoder.logit_scale * cosines, np.float32)


ENCODER = "/encoder"
"""Array of debiased vectors that holds the identity of the encoder, as UTF-8 bytes."""


def debiased(
    encoder: ImageTextEncoder, labels: Sequence[str], vectors: Mapping[str, NDArray[Any]], method: str
) -> ZeroShotClassifier:
    """A classifier of the class vectors that a step debiased. Raises ``ModelRefused`` where they do not fit."""
    known = vectors.get(ENCODER)
    if known is not None and known.astype(np.uint8).tobytes().decode() != encoder.identity:
        raise ModelRefused(
            f"vectors: they were debiased for another encoder than {encoder.name}",
            hint="Name the same model as `clip` of debias.texts and as `encoder` here.",
        )
    if method not in vectors or "/" in method:
        there = ", ".join(sorted(name for name in vectors if "/" not in name))
        raise ModelRefused(f"vectors: there is no method {method[:80]!r}", hint=f"There are: {there}.")
    classes, image_map = vectors[method], vectors.get(f"{method}/image_map")
    if classes.ndim != 2 or classes.shape != (len(labels), encoder.dim) or not np.isfinite(classes).all():
        raise ModelRefused(
            f"vectors: {method[:80]!r} has {classes.shape[0]} vectors of {classes.shape[-1]} numbers, for {len(labels)} labels "
            f"and an encoder of {encoder.dim}",
            hint="Give one label for each query of debias.texts, in their order.",
        )
    name = f"zero-shot {encoder.name} ({method})"
    return ZeroShotClassifier(encoder, labels, classes=classes, image_map=image_map, name=name)


def _unit(rows: NDArray[Any]) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def _digests(*arrays: NDArray[Any] | None) -> list[str]:
    """Hashes of what is given, so that identities without vectors stay as they were."""
    return [hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in arrays if a is not None]

"""A classifier made of an image-text encoder and class names (zero-shot, as CLIP is used)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

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
    """Scores are ``logit_scale`` x cosine of image and class prompt."""

    format = "zero_shot"
    head = "softmax"

    def __init__(
        self, encoder: ImageTextEncoder, labels: Sequence[str], templates: Sequence[str] = DEFAULT_TEMPLATES
    ) -> None:
        self.labels = check_labels(labels, "labels")
        if len(set(self.labels)) != len(self.labels):
            raise ModelRefused("labels: two labels are the same, so their prompts cannot be told apart")
        if not templates or any("{}" not in template for template in templates):
            raise ModelRefused("templates: each must hold {} where the label goes, such as 'a photo of a {}'")
        self.encoder = encoder
        self.name = f"zero-shot {encoder.name}"
        self.encoder_family = encoder.family
        self.identity = item_key(encoder.identity, self.labels, list(templates), encoder.logit_scale)
        self._classes = class_embeddings(encoder, self.labels, templates)

    def prepare(self, image: Image) -> FloatArray:
        """The encoder's preprocessing."""
        return self.encoder.prepare(image)

    def logits(self, batch: FloatArray) -> FloatArray:
        """Scaled cosines, float32 [n, labels]."""
        images = self.encoder.encode_prepared(batch)
        return np.asarray(self.encoder.logit_scale * images @ self._classes.T, np.float32)

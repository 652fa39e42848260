"""Class weights of zero-shot CLIP: prompts of each class, embedded and averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runner.errors import DataError
from runner.models.base import ImageTextEncoder

LONGEST_CLASS = 200


def prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template with every class, class by class. Names become one line with blanks for underscores."""
    names = [" ".join(name.replace("_", " ").split())[:LONGEST_CLASS] for name in classes]
    return [template.replace("{}", name) for name in names for template in templates]


def class_weights(encoder: ImageTextEncoder, classes: Sequence[str], templates: Sequence[str]) -> NDArray[np.float64]:
    """float64 [D, C], columns of unit norm: the prompts' unit vectors averaged over the templates, scaled again.

    Raises ``DataError`` where the encoder gives NaN, or prompts of a class that cancel out.
    """
    vectors = np.asarray(encoder.encode_texts(prompts(classes, templates)), np.float64)
    if vectors.shape != (len(classes) * len(templates), encoder.dim):
        raise DataError(f"{encoder.name} gave vectors of shape {vectors.shape} for {len(classes)} classes")
    mean = unit(vectors).reshape(len(classes), len(templates), -1).mean(1)
    if not np.isfinite(mean).all() or not np.linalg.norm(mean, axis=1).all():
        raise DataError(f"{encoder.name} gave vectors of class names that are not finite or cancel out")
    return unit(mean).T


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of unit norm; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms == 0, 1, norms))

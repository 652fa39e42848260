"""What every classifier must show after loading, whatever it was loaded from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from runner.errors import ModelRefused

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.models.base import Classifier

TOLERANCE = 1e-4
"""Largest difference of one image's output alone and inside a batch, absolute and relative."""


def check_classifier(classifier: Classifier) -> None:
    """Run three pictures: width equals labels, numbers are finite, and no image depends on its neighbours.

    The last catches batch normalisation left in training mode. Raises ``ModelRefused`` naming what is wrong.
    """
    batch = np.stack([classifier.prepare(image) for image in probe_images()])
    together = _run(classifier, batch)
    if together.shape != (len(batch), len(classifier.labels)):
        raise ModelRefused(
            f"{classifier.name}: the model gives {'x'.join(map(str, together.shape[1:]))} outputs for an image, "
            f"but there are {len(classifier.labels)} labels"
        )
    if not np.isfinite(together).all():
        raise ModelRefused(
            f"{classifier.name}: the model gives values that are not finite (NaN or infinity)",
            hint="Its weights may be damaged, or the preprocessing is not the one it was trained with.",
        )
    alone = np.concatenate([_run(classifier, image[None]) for image in batch])
    if not np.allclose(alone, together, rtol=TOLERANCE, atol=TOLERANCE):
        raise ModelRefused(
            f"{classifier.name}: an image's output changes by {np.abs(alone - together).max():.3g} with the images "
            "beside it in a batch",
            hint="Batch normalisation is in training mode; export the model in evaluation mode.",
        )


def _run(classifier: Classifier, batch: Any) -> Any:
    try:
        return np.asarray(classifier.logits(batch))
    except ModelRefused:
        raise
    except Exception as error:  # a stranger's graph may fail in any way
        shape = "x".join(map(str, batch.shape))
        raise ModelRefused(
            f"{classifier.name}: the model cannot take an input of shape {shape}: {type(error).__name__}: {error}",
            hint="Check `preprocess:` (size, layout, channels).",
        ) from error


def probe_images() -> list[Image]:
    """Three different pictures with structure at all scales, the same on every machine."""
    from PIL import Image

    y, x = np.mgrid[0:96, 0:128].astype(np.float32)
    waves = [np.sin(x / period + shift) * np.cos(y / (period + 3)) for period, shift in ((4, 0), (11, 1), (29, 2))]
    first = np.stack([127.5 + 127.5 * wave for wave in waves], -1)
    second = np.stack([x * 2, y * 2.6, 255 - x - y], -1)
    third = 255 - first[::-1] * np.array([1.0, 0.3, 0.6], np.float32)
    return [Image.fromarray(np.clip(a, 0, 255).astype(np.uint8)) for a in (first, second, third)]

"""Random views of pool pictures for the keys of Tip-Adapter."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runner.context import item_key
from runner.models.base import ImageTextEncoder
from runner.nodes.embedding import ImageTower

FloatArray = NDArray[np.float32]
Box = tuple[float, float, float, float]

_TRIES = 10
_ASPECTS = (math.log(3 / 4), math.log(4 / 3))


def crop_box(width: int, height: int, rng: np.random.Generator, smallest: float = 0.5) -> Box:
    """A random box (left, upper, right, lower): ``smallest`` to 1 of the area, aspect 3/4 to 4/3, inside the picture.

    After ten boxes that do not fit, the largest centred one of an allowed aspect. Source: random resized crop, as the
    reference implementation of Tip-Adapter uses it.
    """
    for _ in range(_TRIES):
        area = width * height * rng.uniform(smallest, 1.0)
        aspect = math.exp(rng.uniform(*_ASPECTS))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, upper = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return float(left), float(upper), float(left + w), float(upper + h)
    low, high = (math.exp(bound) for bound in _ASPECTS)
    wide, tall = min(width, height * high), min(height, width / low)
    return (width - wide) / 2, (height - tall) / 2, (width + wide) / 2, (height + tall) / 2


def random_view(image: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A random crop at ``size`` (width, height), bicubic, mirrored half of the time."""
    view = image.resize(size, Image.Resampling.BICUBIC, box=crop_box(*image.size, rng))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


class AugmentedTower(ImageTower):
    """An encoder that sees ``epochs`` random views of each picture: outputs float32 [n, epochs * dim].

    The views follow the seed and the picture's pixels, so that they do not depend on the order of the work.
    """

    def __init__(self, encoder: ImageTextEncoder, epochs: int, seed: int) -> None:
        super().__init__(encoder)
        self.epochs, self.seed = epochs, seed
        self.identity = item_key("views 1", self.identity, epochs, seed)
        self.labels = tuple(map(str, range(epochs * encoder.dim)))

    def prepare(self, image: Any) -> FloatArray:
        """Views at the size of the encoder's input, float32 [epochs, 3, height, width]."""
        height, width = self.encoder.prepare(image).shape[1:]
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        rng = np.random.default_rng(int(item_key(self.seed, pixels)[:15], 16))
        views = [random_view(image, (width, height), rng) for _ in range(self.epochs)]
        return np.stack([self.encoder.prepare(view) for view in views])

    def logits(self, batch: FloatArray) -> FloatArray:
        """Unit vectors of all views, side by side."""
        vectors = self.encoder.encode_prepared(batch.reshape(-1, *batch.shape[2:]))
        return vectors.reshape(len(batch), -1)

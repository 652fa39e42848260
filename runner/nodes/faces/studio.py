"""Generator and parser with a memory: every portrait and every measurement is kept as soon as it is there."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runner.context import StepContext, item_key
from runner.data.images import decode, encode_jpeg
from runner.nodes.faces.generator import STYLE, FaceGenerator, truncate
from runner.nodes.faces.measure import MEASURES, measures

FloatArray = NDArray[np.float64]
QUALITY = 92
POOL = 4096
"""Noises whose mapped styles give the mean style and the covariance."""
POOL_SEED = 0


@dataclass(frozen=True)
class StyleSpace:
    """Truncated styles of the generator, float32 [4096, 512], and the mean style [512] they were drawn towards."""

    pool: NDArray[np.float32]
    mean: NDArray[np.float32]


def style_space(generator: FaceGenerator, psi: float) -> StyleSpace:
    """The same for every run: the noises are drawn from a seed of their own."""
    pool = generator.styles(_noise(POOL, POOL_SEED))
    mean = pool.mean(0)
    return StyleSpace(truncate(pool, mean, psi), mean)


def draw_styles(generator: FaceGenerator, space: StyleSpace, count: int, psi: float, seed: int) -> NDArray[np.float32]:
    """Truncated styles [count, 512] of new people; the first ones stay the same when more are drawn."""
    return truncate(generator.styles(_noise(count, [seed, 1])), space.mean, psi)


def _noise(count: int, seed: int | Sequence[int]) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, STYLE), dtype=np.float32)


def portraits(
    ctx: StepContext, generator: FaceGenerator, styles: NDArray[np.float32], side: int, unit: str = "faces"
) -> list[bytes]:
    """JPEG bytes of each style [n, 512]; each is in the item cache before the next is drawn."""
    found = []
    total = len(styles) if unit == "faces" else None  # of edits nobody knows beforehand how many there will be
    for style in ctx.track(iter(np.ascontiguousarray(styles, np.float32)), unit=unit, total=total):
        key = item_key("faces.portrait", generator.identity, hashlib.sha256(style.tobytes()).hexdigest(), side, QUALITY)
        data = ctx.items.get(key)
        if data is None:
            data = encode_jpeg(generator.picture(style, side), quality=QUALITY)
            ctx.items.put(key, data)
        found.append(data)
    return found


class Meter:
    """Measures pictures by the face parser. ``identity``: SHA-256 of its weights."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import torch

        from runner.nodes.faces.bisenet import load_parser

        if threads:
            torch.set_num_threads(threads)
        self.identity = hashlib.sha256(path.read_bytes()).hexdigest()
        self._network = load_parser(path)

    def measure(
        self, ctx: StepContext, pictures: Iterable[bytes], total: int | None, unit: str = "measured"
    ) -> FloatArray:
        """Measures [n, 21] (columns ``MEASURES``) of encoded pictures, kept one by one."""
        rows = []
        for data in ctx.track(iter(pictures), unit=unit, total=total):
            key = item_key("faces.measures", self.identity, MEASURES, hashlib.sha256(data).hexdigest())
            saved = ctx.items.get(key)
            if saved is None:
                saved = self._measure(data).tobytes()
                ctx.items.put(key, saved)
            rows.append(np.frombuffer(saved, np.float64))
        return np.stack(rows) if rows else np.zeros((0, len(MEASURES)))

    def _measure(self, data: bytes) -> FloatArray:
        import torch
        from PIL.Image import Resampling

        from runner.nodes.faces.bisenet import SIDE, parse

        image = decode(data)
        labels = parse(self._network, torch.from_numpy(np.array(image))[None])[0].numpy()
        shown = image.resize((SIDE, SIDE), Resampling.BILINEAR)
        return measures(labels, np.asarray(shown))


def small(data: bytes, side: int = 128) -> bytes:
    """A thumbnail of an encoded picture."""
    from PIL import Image

    from runner.data.images import thumbnail

    with Image.open(io.BytesIO(data)) as image:
        return thumbnail(image.convert("RGB"), side)

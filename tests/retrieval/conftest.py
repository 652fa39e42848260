import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from tiny_encoder import ColourEncoder

from runner.context import local_context


def picture(seed: int, colour=None, size=(24, 20), kind="PNG") -> bytes:
    """A noisy picture, about ``colour``; the same arguments give the same bytes."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, 3) if colour is None else np.array(colour)
    pixels = np.clip(base + rng.normal(0, 25, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def encoder():
    return ColourEncoder()


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "work")


@pytest.fixture
def folder(tmp_path):
    """A folder of 60 pictures in three sub-folders; every fourth has a caption."""
    root = tmp_path / "photos"
    for n in range(60):
        home = root / ("red", "green", "blue")[n % 3]
        home.mkdir(parents=True, exist_ok=True)
        colour = [40, 40, 40]
        colour[n % 3] = 220
        (home / f"{n:03d}.png").write_bytes(picture(n, colour))
        if n % 4 == 0:
            (home / f"{n:03d}.txt").write_text(f"a {home.name} square", "utf8")
    return root

"""Pictures of one colour, an encoder that knows colours by name, and a vocabulary of these names."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runner.context import local_context
from runner.models.base import ImagePart
from runner.models.contrastive.vocabulary import about, write_vocabulary
from runner.models.registry import Services, load_providers

_CODE = Path(__file__).parents[2] / "retrieval" / "tiny_encoder.py"
_SPEC = importlib.util.spec_from_file_location("tiny_encoder_of_contrastive", _CODE)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
ColourEncoder = _MODULE.ColourEncoder

TEXTS = ["something red", "something green", "something blue", "something yellow", "something white"]
COLOURS = {"red": (250, 5, 5), "green": (0, 240, 10), "blue": (5, 0, 250), "yellow": (250, 250, 0)}


def _picture(colour, seed=0):
    """Noise around a colour: no two seeds give the same bytes."""
    noise = np.random.default_rng(seed).integers(-5, 6, (16, 16, 3))
    pixels = np.clip(np.array(COLOURS.get(colour, colour)) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png")


@pytest.fixture(scope="session")
def picture():
    return _picture


@pytest.fixture
def encoder():
    return ColourEncoder()


@pytest.fixture
def index(tmp_path, encoder):
    folder = tmp_path / "index"
    folder.mkdir()
    write_vocabulary(folder, TEXTS, encoder.encode_texts(TEXTS), about(encoder))
    return folder


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "run")


@pytest.fixture
def load(tmp_path, encoder, index):
    """A model of a provider with these parts."""
    models = []

    def make(provider, *, linked=None, **settings):
        links = {"encoder": encoder, "vocabulary": index} | (linked or {})
        config = load_providers()[provider](
            provider=provider, **{name: f"${name}.index" if name == "vocabulary" else f"${name}" for name in links},
            **settings,
        )  # fmt: skip
        models.append(config.load(Services(cache=tmp_path, linked=links)))
        return models[-1]

    yield make
    for model in models:
        model.close()

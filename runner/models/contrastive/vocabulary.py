"""A vocabulary on disk: texts to answer with and their vectors.

The folder holds ``vocabulary.json`` (format, encoder, template, texts) and ``vectors.safetensors`` (``vectors``, float32
[n, dim], unit norm, row i for text i). Vectors of another encoder mean nothing, so its identity is checked on reading.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.errors import DataError, ModelRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runner.models.base import ImageTextEncoder

    FloatArray = NDArray[np.float32]

FORMAT = 1
PLAIN = "{}"
_ABOUT, _VECTORS = "vocabulary.json", "vectors.safetensors"
_UNIT = 1e-3


@dataclass(frozen=True)
class TextVectors:
    """What ``read_vocabulary`` gives.

    ``texts``: distinct, one line each; ``vectors``: float32 [n, dim], unit norm, of ``template`` with the text in place
    of ``{}``; ``encoder``: ``{"name", "family", "identity", "dim", "logit_scale"}``; ``digest``: SHA-256 (hex) that
    changes with any of these.
    """

    texts: tuple[str, ...]
    vectors: FloatArray
    encoder: dict[str, Any]
    template: str
    digest: str


def about(encoder: ImageTextEncoder) -> dict[str, Any]:
    """What a reader must know of an encoder to use its vectors."""
    names = ("name", "family", "identity", "dim", "logit_scale")
    return {name: getattr(encoder, name) for name in names}


def write_vocabulary(
    folder: Path, texts: Sequence[str], vectors: FloatArray, encoder: Mapping[str, Any], *, template: str = PLAIN
) -> None:
    """Write the folder, which must exist. Raises ``DataError`` where texts, vectors and encoder do not fit each other."""
    from safetensors.numpy import save_file

    problem = _problem(texts, vectors, encoder)
    if problem:
        raise DataError(f"this is no vocabulary: {problem}")
    save_file({"vectors": np.ascontiguousarray(vectors, np.float32)}, folder / _VECTORS)
    content = {"format": FORMAT, "encoder": dict(encoder), "template": template, "texts": list(texts)}
    (folder / _ABOUT).write_text(json.dumps(content, ensure_ascii=False), "utf8")


def read_vocabulary(folder: Path, encoder_identity: str | None = None) -> TextVectors:
    """Read what ``write_vocabulary`` wrote.

    Raises ``DataError`` where the folder is no vocabulary or its parts do not fit, ``ModelRefused`` where another encoder
    than ``encoder_identity`` made it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    hint = "It is the output `index` of the step classify.vocabulary."
    try:
        raw = (folder / _ABOUT).read_bytes()
        content = json.loads(raw)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} is not known")
        vectors = load_file(folder / _VECTORS)["vectors"]
        texts, encoder, template = tuple(content["texts"]), dict(content["encoder"]), str(content["template"])
        problem = _problem(texts, vectors, encoder)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        said = f"{folder}: this is no vocabulary, or it is damaged ({type(error).__name__}: {error})"
        raise DataError(said, hint=hint) from error
    if problem:
        raise DataError(f"{folder}: the parts of this vocabulary do not fit: {problem}", hint=hint)
    if encoder_identity is not None and encoder["identity"] != encoder_identity:
        raise ModelRefused(
            f"{folder}: this vocabulary was embedded by another encoder ({encoder.get('name', 'unnamed')})",
            hint="Name the encoder that classify.vocabulary was given, or make the vocabulary with this one.",
        )
    digest = hashlib.sha256(raw + hashlib.sha256(np.ascontiguousarray(vectors).data).digest()).hexdigest()
    return TextVectors(texts, vectors, encoder, template, digest)


def _problem(texts: Sequence[Any], vectors: FloatArray, encoder: Mapping[str, Any]) -> str | None:
    """What does not fit, or None."""
    if not texts:
        return "it holds no text"
    if any(not isinstance(text, str) or not text.strip() for text in texts) or len(set(texts)) != len(texts):
        return "its texts must be distinct and not empty"
    if vectors.dtype != np.float32 or vectors.shape != (len(texts), encoder.get("dim")):
        wanted = f"float32 [{len(texts)}, {encoder.get('dim')}]"
        return f"the vectors are {vectors.dtype} {list(vectors.shape)}, not {wanted}"
    if not np.isfinite(vectors).all() or abs(np.linalg.norm(vectors, axis=1) - 1).max() > _UNIT:
        return "the vectors are not of unit norm"
    return None if isinstance(encoder.get("identity"), str) else "the encoder has no identity"

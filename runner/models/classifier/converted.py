"""What ``runner convert`` writes: a folder with ``model.safetensors`` and ``runner-model.json``, loaded without trust.

``runner-model.json``: ``{"version": 1, "architecture", "labels", "preprocess" (as in a spec), "weights_sha256",
"source": {"name", "sha256", "format", "class"}}``; what is not known is null, and can be given in the spec.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from runner.errors import ModelRefused
from runner.models.classifier.preprocess import Preprocess, PreprocessSpec
from runner.models.classifier.sniff import read_json
from runner.models.classifier.weights import sha256_of

if TYPE_CHECKING:
    from runner.models.base import Classifier

CARD, WEIGHTS, VERSION = "runner-model.json", "model.safetensors", 1
ARCHITECTURE = re.compile(r"(timm|torchvision|runner):[\w.\-]+")


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write ``runner-model.json`` for the weights that are in ``folder``."""
    whole = {"version": VERSION, **card, "weights_sha256": sha256_of([folder / WEIGHTS])}
    (folder / CARD).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", "utf8")


def load_converted(
    path: Path,
    *,
    labels: Sequence[str] | None,
    architecture: str | None,
    preprocess: Preprocess | None,
    **settings: Any,
) -> Classifier:
    """The classifier in a converted folder; what the spec gives goes before what the folder says."""
    from runner.models.classifier.torch_model import load_checkpoint

    card = read_json(path / CARD)
    named = card.get("architecture")
    if card.get("version") != VERSION or not (named is None or ARCHITECTURE.fullmatch(str(named))):
        raise ModelRefused(f"{path / CARD}: not written by this version of `runner convert`")
    weights = path / WEIGHTS
    if not weights.is_file() or sha256_of([weights]) != card.get("weights_sha256"):
        raise ModelRefused(f"{weights}: missing, or not the file that runner-model.json speaks of")
    names = labels if labels is not None else card.get("labels")
    return load_checkpoint(
        weights,
        "safetensors",
        labels=names,
        architecture=architecture or named,
        preprocess=preprocess or _preprocess(card.get("preprocess"), path / CARD),
        **settings,
    )


def _preprocess(value: Any, where: Path) -> Preprocess | None:
    if value is None:
        return None
    try:
        return PreprocessSpec.model_validate(value).build()
    except ValidationError as error:
        raise ModelRefused(f"{where}: preprocess: {error.errors()[0]['msg']}") from error

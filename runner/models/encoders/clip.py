"""CLIP models through open_clip: by pretrained tag, or from local safetensors."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from runner.context import item_key
from runner.errors import AssetError, ModelRefused
from runner.imports import importing
from runner.models.base import ClipModel
from runner.models.classifier.sniff import read_json
from runner.models.classifier.weights import fill, read_safetensors

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.models.base import FloatArray

TEXT_BATCH = 256
SMALL_FAMILY = "runner-small-clip"
"""Lineage of the models that this project trains itself (step clip.train) and of what is edited from them."""
_FAMILIES = {"openai": "openai-clip", "laion": "laion-clip", "datacomp": "datacomp-clip", "webli": "siglip"}


def family_of(tag: str) -> str:
    """Training lineage from a pretrained tag: encoders of one family share their errors."""
    return next((family for part, family in _FAMILIES.items() if part in tag.lower()), f"open_clip:{tag}")


class OpenClipEncoder(ClipModel):
    """An open_clip model in evaluation mode."""

    def __init__(
        self,
        model: Any,
        transform: Any,
        tokenizer: Any,
        *,
        name: str,
        family: str,
        device: str,
        half: bool = False,
        small: bool = False,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.network = model.to(device).eval().requires_grad_(False)
        if half:
            self.network = self.network.half()
        self._transform, self._tokenizer = transform, tokenizer
        self._dtype = torch.float16 if half else torch.float32
        self.name, self.family, self.device, self.small = name, family, device, small
        self.config = config
        self.logit_scale = float(model.logit_scale.exp())
        self.context_length = int(model.context_length)
        self.dim = int(self._texts(["probe"]).shape[1])
        self.identity = item_key("open_clip", name, _digest(model), str(transform), half)

    def prepare(self, image: Image) -> FloatArray:
        """open_clip's evaluation transform."""
        prepared: FloatArray = self._transform(image.convert("RGB")).numpy()
        return prepared

    def encode_prepared(self, batch: FloatArray) -> FloatArray:
        """Unit vectors."""
        with torch.inference_mode():
            images = torch.from_numpy(batch).to(self.device, self._dtype)
            vectors: FloatArray = self.network.encode_image(images, normalize=True).float().cpu().numpy()
        return vectors

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors; texts longer than the context are cut by open_clip's tokenizer."""
        return self._in_batches(texts, normalize=True)

    def raw_texts(self, texts: Sequence[str]) -> FloatArray:
        """As the text projection gives them."""
        return self._in_batches(texts, normalize=False)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of open_clip's byte-pair tokenizer."""
        return [len(self._tokenizer.encode(text)) + 2 for text in texts]

    def _in_batches(self, texts: Sequence[str], *, normalize: bool) -> FloatArray:
        starts = range(0, len(texts), TEXT_BATCH)
        parts = [self._texts(list(texts[i : i + TEXT_BATCH]), normalize=normalize) for i in starts]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def _texts(self, texts: list[str], *, normalize: bool = True) -> FloatArray:
        with torch.inference_mode():
            tokens = self._tokenizer(texts).to(self.device)
            vectors: FloatArray = self.network.encode_text(tokens, normalize=normalize).float().cpu().numpy()
        return vectors


def _digest(model: torch.nn.Module) -> str:
    """SHA-256 over names and values of all weights, wherever they came from."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def load_tag(name: str, tag: str, *, device: str, half: bool) -> OpenClipEncoder:
    """A model and its published weights, from open_clip's cache or its own download.

    Raises ``ModelRefused`` for unknown names or tags, ``AssetError`` where the weights cannot be fetched.
    """
    with importing:
        import open_clip

    config = _known_tag(name, tag)
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=tag, device="cpu", force_quick_gelu=bool(config.get("quick_gelu", False))
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # downloads fail in many ways
        offline = os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "TRUE", "ON", "YES")
        why = "they are not in the local cache, and HF_HUB_OFFLINE forbids to fetch them" if offline else str(error)
        raise AssetError(
            f"the weights {tag!r} of {name} are not available: {why}",
            hint="Fetch them once on a machine with a network, or give `checkpoint:` a local safetensors file.",
        ) from error
    return OpenClipEncoder(
        model,
        transform,
        tokenizer,
        name=f"{name}/{tag}",
        family=family_of(tag),
        device=device,
        half=half,
        config=_stock_config(name, model, config),
    )


def _stock_config(name: str, model: Any, tag: dict[str, Any] | None = None) -> dict[str, Any]:
    """What ``open_clip_config.json`` must say so that a folder builds a model of open_clip's list again."""
    with importing:
        import open_clip

    quick = {"quick_gelu": True} if (tag or {}).get("quick_gelu") else {}
    return {"model_cfg": {**open_clip.get_model_config(name), **quick}, "preprocess_cfg": model.visual.preprocess_cfg}


def _known_tag(name: str, tag: str) -> dict[str, Any]:
    with importing:
        import open_clip

    if name not in open_clip.list_models():
        raise ModelRefused(f"open_clip has no model {name!r}", hint=_nearest(name, open_clip.list_models()))
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ModelRefused(f"open_clip has no weights {tag!r} for {name}", hint=f"It has: {', '.join(tags) or 'none'}.")
    return dict(open_clip.get_pretrained_cfg(name, tag) or {})


def _nearest(name: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, 3)
    return f"Did you mean {' or '.join(close)}?" if close else "Such as ViT-B-32 or ViT-L-14."


def load_local(path: Path, name: str | None, *, device: str, half: bool) -> OpenClipEncoder:
    """A local safetensors file of the model ``name``, or a folder with ``open_clip_config.json`` beside its weights.

    Raises ``ModelRefused`` where the weights do not fit the model, or are no safetensors.
    """
    with importing:
        import open_clip

    small = path.is_dir() and _check_folder(path)
    if path.is_dir():
        source, weights = f"local-dir:{path}", path / "open_clip_model.safetensors"
    elif name is None or name not in open_clip.list_models():
        raise ModelRefused(
            f"{path}: which open_clip model are these weights of?", hint="Give `name:`, such as ViT-B-32."
        )
    else:
        source, weights = name, path
    tensors = read_safetensors(weights)
    try:
        with _without_word_of_random_weights():
            model, _, transform = open_clip.create_model_and_transforms(
                source, pretrained=None, load_weights=False, pretrained_image=False, pretrained_text=False
            )
        tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:  # a stranger's config may fail in any way
        raise ModelRefused(f"{path}: open_clip cannot build this model: {error}") from error
    fill(model, tensors, str(weights))
    shown = f"{name or path.name}/{weights.name}"
    family = SMALL_FAMILY if small else f"open_clip:{path.name}"
    config = read_json(path / "open_clip_config.json") if path.is_dir() else _stock_config(str(name), model)
    return OpenClipEncoder(
        model, transform, tokenizer, name=shown, family=family, device=device, half=half, small=small, config=config
    )


@contextmanager
def _without_word_of_random_weights() -> Iterator[None]:
    """Keep back open_clip's one warning that the weights are random: they are, until ``fill``. Others pass."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)


def _check_folder(path: Path) -> bool:
    """Whether the folder says that its model is a small one of this project. Raises ``ModelRefused``."""
    content = read_json(path / "open_clip_config.json")
    config, notes = content.get("model_cfg"), content.get("runner")
    if not isinstance(config, dict):
        raise ModelRefused(f"{path}: open_clip_config.json has no model_cfg")
    text = config.get("text_cfg")
    if isinstance(text, dict) and text.get("hf_model_name"):
        raise ModelRefused(f"{path}: its text tower is another model on a hub ({text['hf_model_name']})")
    if not (path / "open_clip_model.safetensors").is_file():
        raise ModelRefused(f"{path}: there is no open_clip_model.safetensors in this folder")
    return isinstance(notes, dict) and notes.get("small") is True

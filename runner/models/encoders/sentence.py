"""Sentence embeddings from a sentence-transformers folder with mean pooling, such as all-MiniLM-L6-v2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from runner.context import item_key
from runner.errors import ModelRefused
from runner.imports import building, importing
from runner.models.base import SentenceEncoder
from runner.models.classifier.sniff import read_json
from runner.models.classifier.weights import sha256_of

if TYPE_CHECKING:
    from runner.models.base import FloatArray

MAX_TOKENS = 256  # what sentence-transformers cuts at; the model itself takes 512
BATCH = 64


class MeanPooled(SentenceEncoder):
    """A transformer whose token vectors are averaged over the mask and scaled to unit length."""

    def __init__(
        self, folder: Path, *, device: str = "cpu", name: str = "minilm", max_tokens: int = MAX_TOKENS
    ) -> None:
        with importing:
            from transformers import AutoModel, AutoTokenizer

        _need_mean_pooling(folder)
        files = [folder / file for file in ("config.json", "tokenizer.json", "model.safetensors")]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ModelRefused(f"{folder}: {', '.join(missing)} is missing from this sentence encoder")
        # Said, not left to their defaults: see the same call in `torch_model`.
        safe = {"trust_remote_code": False, "local_files_only": True}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), **safe)
            with building:
                model = AutoModel.from_pretrained(
                    str(folder), use_safetensors=True, dtype=torch.float32, attn_implementation="eager", **safe
                )
        except Exception as error:  # a stranger's folder may fail in any way
            raise ModelRefused(f"{folder}: transformers cannot load it: {type(error).__name__}: {error}") from error
        self._model = model.to(device).eval().requires_grad_(False)
        self.name, self.device, self.dim = name, device, int(model.config.hidden_size)
        self.max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", None) or max_tokens)
        self.identity = item_key("mean-pooled", self.max_tokens, sha256_of(files))

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors float32 [n, dim]; long texts are cut at ``max_tokens``."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # like lengths share a batch
        result = np.zeros((len(texts), self.dim), np.float32)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            result[part] = self._embed([texts[index] for index in part])
        return result

    def _embed(self, texts: list[str]) -> FloatArray:
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        tokens = tokens.to(self.device)
        with torch.inference_mode():
            states = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None]
            pooled = (states * mask).sum(1) / mask.sum(1)
            unit: FloatArray = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return unit


def _need_mean_pooling(folder: Path) -> None:
    file = folder / "1_Pooling" / "config.json"
    if file.is_file() and not read_json(file).get("pooling_mode_mean_tokens", False):
        raise ModelRefused(f"{file}: this encoder does not pool by the mean, which is the only pooling known here")

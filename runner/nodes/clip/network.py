"""The student: a stock open_clip CLIP, how it reads texts in training, and how it is written to a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.imports import importing
from runner.nodes.clip.specs import MEAN, STD, ClipSize

TEXT_CHUNK = 1024


def build(size: ClipSize, *, patch_dropout: float = 0.0) -> Any:
    """An open_clip ``CLIP`` with random weights from torch's generator."""
    with importing:
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    config = size.open_clip()
    vision = CLIPVisionCfg(**config["vision_cfg"], patch_dropout=patch_dropout)
    return CLIP(config["embed_dim"], vision, CLIPTextCfg(**config["text_cfg"]))


def tokenize(texts: list[str], context_length: int) -> Tensor:
    """Tokens [n, context_length] of CLIP's byte-pair encoding; longer texts are cut, the end token stays."""
    with importing:
        from open_clip import SimpleTokenizer

    tokens: Tensor = SimpleTokenizer(context_length=context_length)(texts)
    return tokens


def encode_texts(network: Any, tokens: Tensor) -> Tensor:
    """As ``network.encode_text``, without the padding that no row reaches: attention looks back only, so nothing changes."""
    longest = int(tokens.argmax(1).max()) + 1
    tokens = tokens[:, :longest]
    x = network.token_embedding(tokens) + network.positional_embedding[:longest]
    x = network.transformer(x, attn_mask=network.attn_mask[:longest, :longest])
    x = network.ln_final(x)[torch.arange(len(tokens), device=tokens.device), tokens.argmax(1)]
    projected: Tensor = x @ network.text_projection
    return projected


def unit_texts(network: Any, tokens: Tensor) -> Tensor:
    """Unit vectors [n, d] in chunks, without gradients."""
    with torch.inference_mode():
        parts = [functional.normalize(encode_texts(network, part), dim=1) for part in torch.split(tokens, TEXT_CHUNK)]
    return torch.cat(parts)


def without_unused_rows(tensors: dict[str, Tensor], used: Tensor) -> dict[str, Tensor]:
    """The tensors, with rows of the token table that no text used set to zero: they were never trained."""
    table = tensors["token_embedding.weight"].clone()
    unused = torch.ones(len(table), dtype=torch.bool)
    unused[used] = False
    table[unused] = 0
    return {**tensors, "token_embedding.weight": table}


def write(folder: Path, network: nn.Module, size: ClipSize, used: Tensor, notes: dict[str, Any]) -> None:
    """``open_clip_config.json`` and ``open_clip_model.safetensors`` (float16), which stock open_clip reads.

    ``used`` numbers of the tokens in any training text; ``notes`` go into the config's entry ``runner``, which open_clip
    passes over.
    """
    from safetensors.torch import save_file

    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    half = {name: value.half().contiguous() for name, value in without_unused_rows(state, used).items()}
    save_file(half, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    preprocess = {
        "size": [size.image_size] * 2,
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = {
        "model_cfg": size.open_clip(),
        "preprocess_cfg": preprocess,
        "runner": {"small": True, **notes},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf8")
